"""Every setting that cannot work is refused at once, with one line that names the field, the value and the way out."""

import inspect
import json
import sys
import tomllib
from pathlib import Path

import pytest
import tomli_w
import torch
from safetensors.torch import save_file

from raypref.checks import ConfigError
from raypref.cli import main
from raypref.config import load_experiment, resolved
from raypref.core.search import Guidance
from raypref.dry_run import dry_run
from raypref.methods.rdpo import RDPO
from raypref.rewards.hpsv2 import HPSv2
from raypref.run import REJUDGEABLE, RESUMABLE
from raypref.run_directory import RunDirectory
from raypref.train.experiment import RewardConfig

GOOD = """
[run]
name = "good"
iterations = 2
prompts = "prompts.txt"
heldout_prompts = "prompts.txt"
prompts_per_iteration = 4
chunk_size = 2
output_dir = "{output}"

[model]
path = "{model}"

[optimizer]
batch_size = 10
micro_batch_size = 5

[evaluate]
rewards = []
"""

BROKEN = [
    (["method.betta=0.2"], "method.betta = 0.2: [method] has no key 'betta': did you mean 'beta'?"),
    (["methods.beta=0.2"], "unknown section [methods]: did you mean 'method'?"),
    (["run.iterations=many"], "run.iterations = 'many': input should be a valid integer"),
    (["run.iterations=2.5"], "run.iterations = 2.5: input should be a valid integer"),
    (["run.iterations=0"], "run.iterations = 0: use 1 or more."),
    (["run.seed=true"], "run.seed = True: input should be a valid integer"),
    (["run.lag=2"], "run.lag = 2: use 0 (strictly on-policy) or 1"),
    (["run.name=a/b"], "run.name = 'a/b': use a plain folder name"),
    (["run.prompts=nowhere.txt"], "run.prompts = 'nowhere.txt': no such file; looked for"),
    (["run.prompts=empty.txt"], "run.prompts = 'empty.txt': it holds no prompt"),
    (['run.heldout_prompts=""'], "run.heldout_prompts = '': name a set such as"),
    (["run.prompts=7"], 'run.prompts = 7: name where the prompts are, as in "animals:train"'),
    (["run.prompts=animals"], "run.prompts = 'animals': which split? Write one of animals:train, "),
    (
        ['run.prompts={path="animals", splitt="train"}'],
        "run.prompts.splitt = 'train': [run.prompts] has no key 'splitt': did you mean 'split'?",
    ),
    (['run.prompts={path="animals", split="train", sample=-1}'], "run.prompts.sample = -1: use 0 (all prompts) or"),
    (
        ["run.prompts=some.txt"],
        "run.prompts = 'some.txt': every one of its prompts is held out too, and what is held out is not trained on",
    ),
    (["run.chunk_size=3"], "run.chunk_size = 3: it must divide prompts_per_iteration = 4; the nearest that does is 2."),
    (["run.output_dir=prompts.txt/x"], "is a file; name a folder"),
    (
        ["run.output_dir=/proc/raypref"],
        "run.output_dir = '/proc/raypref': /proc is not writable; choose another folder",
    ),
    (["method.name=rdp"], "method.name = 'rdp': there is no such method: did you mean 'rdpo'?"),
    (["method.beta=-1"], "method.beta = -1.0: use a positive number"),
    (["method.psi_sign=reversed"], "method.psi_sign = 'reversed': input should be 'intended' or 'printed'"),
    (["method.search=3"], "method.search = 3: a table is needed, such as {candidates = 2}"),
    (["method.search.candidates=1"], "method.search.candidates = 1: a preference needs at least 2."),
    (
        ["method.search.steps=[0,20]"],
        "method.search.steps = [0, 20]: with num_inference_steps = 20 the last step is 19.",
    ),
    (["method.search.steps=[4,0]"], "method.search.steps = [4, 0]: give at least one index, ascending"),
    (["method.search.step_reward=final"], "method.search.step_reward = 'final' cannot rank a tree's siblings"),
    (["sampling.eta=0.0"], "sampling.eta = 0: rdpo trains on the density of a step, and a deterministic step has none"),
    (["sampling.eta=1.5"], "sampling.eta = 1.5: use a number from 0 to 1"),
    (["sampling.scheduler=euler"], "sampling.scheduler = 'euler': input should be 'ddim', 'ddpm' or 'flow'"),
    (["sampling.scheduler=ddpm", "method.search.steps=[0,4,8,12,19]"], "step 19 (t = 1) is deterministic"),
    (["sampling.num_inference_steps=2000"], "num_inference_steps = 2000: choose 1 to 1000"),
    (["sampling.guidance_scale=0.5"], "sampling.guidance_scale = 0.5: use 1 (no guidance) or more."),
    (
        ["reward.name=colourfulness"],
        "reward.name = 'colourfulness': there is no such reward: did you mean 'colorfulness'",
    ),
    (["reward.strength=3"], "reward.strength = 3: colorfulness has no setting 'strength'"),
    (['evaluate.rewards=["clips"]'], "evaluate.rewards: there is no reward 'clips'"),
    (
        ["run.heldout_prompts=animals:heldout", 'evaluate.rewards=["prompt_match"]'],
        "evaluate.rewards = 'prompt_match': it can score none of run.heldout_prompts; prompt_match cannot score 'bat'",
    ),
    (
        ["reward.name=step_aware_match", "run.prompts=animals:heldout"],
        "reward.name = 'step_aware_match': it can score none of run.prompts; prompt_match cannot score",
    ),
    (["reward.name=vp_score"], "reward.checkpoint is missing: vp_score needs it"),
    (["reward.name=hpsv2", 'reward.version="3"'], "reward.version = '3': input should be '2.0' or '2.1'"),
    (["reward.name=clip", "reward.dtype=float8"], "reward.dtype = 'float8': input should be 'float32', 'bfloat16' or"),
    (["reward.backend=authors"], "reward.backend = 'authors': input should be 'raypref' or 'package'"),
    (
        ["reward.name=clip", "reward.backend=package"],
        "reward.backend = 'package': there is none for clip, but for hpsv2 and image_reward; leave it out",
    ),
    (
        ["reward.name=image_reward", "reward.backend=package", "reward.tower=x"],
        "reward.tower = 'x': image_reward_package has no setting 'tower'",
    ),
    (
        ["reward.name=hpsv2", "reward.backend=package", "cluster.runtime=local"],
        "cluster.runtime = 'local': hpsv2_package needs an environment of its own: this one lacks clint==0.5.1, ",
    ),
    (
        ["reward.name=hpsv2", "reward.backend=package", "method.name=tailorpo_g"],
        "reward.name = 'hpsv2_package': tailorpo_g follows the reward's gradient",
    ),
    (["reward.name=remote"], "reward.url is missing: remote needs it"),
    (["reward.name=remote", "reward.url=ftp://x"], "reward.url = 'ftp://x': string should match pattern '^https?://"),
    (
        ["reward.name=remote", "reward.url=http://x", "reward.timeout=0.0"],
        "reward.timeout = 0.0: input should be greater than 0",
    ),
    (["reward.name=function", "reward.path=x.py"], "reward.path = 'x.py': string should match pattern"),
    (
        ["reward.name=function", "reward.path=nowhere.py:score"],
        "reward.path = 'nowhere.py:score': no such file; looked for ",
    ),
    (["reward.name=mixture", "reward.parts=[]"], "reward.parts = []: list should have at least 1 item"),
    (
        ["reward.name=mixture", 'reward.parts=[{name="clip", wait=1.0}]'],
        "reward.parts = [{'name': 'clip', 'wait': 1.0}]: extra inputs are not permitted",
    ),
    (
        ["reward.name=mixture", 'reward.parts=[{name="clip", std=0.0}]'],
        "input should be greater than 0",
    ),
    (
        ["reward.name=mixture", 'reward.parts=[{name="klip"}]'],
        "reward.parts[0].name = 'klip': there is no such reward: did you mean 'clip'?",
    ),
    (
        ["reward.name=mixture", 'reward.parts=[{name="clip"}, {name="hpsv2", settings={vershion="2.0"}}]'],
        "reward.parts[1].settings.vershion = '2.0': hpsv2 has no setting 'vershion': did you mean 'version'?",
    ),
    (
        ["reward.name=mixture", 'reward.parts=[{name="vp_score"}]'],
        "reward.parts[0].settings.checkpoint is missing: vp_score needs it",
    ),
    (
        [
            "method.name=tailorpo_g",
            "reward.name=mixture",
            'reward.parts=[{name="clip"}, {name="jpeg_compressibility"}]',
        ],
        "reward.name = 'mixture': tailorpo_g follows the reward's gradient",
    ),
    (["reward.also=['remote']"], "reward.also_settings.remote.url is missing: remote needs it"),
    (["evaluate.rewards=['function']"], "evaluate.reward_settings.function.path is missing: function needs it"),
    (
        ["reward.also=['hpsv2']", 'reward.also_settings.hpsv2.version="3"'],
        "reward.also_settings.hpsv2.version = '3': input should be '2.0' or '2.1'",
    ),
    (["reward.also_settings.clip.tower=x"], "reward.also_settings.clip: no such reward is asked for"),
    (["evaluate.reward_settings.clop.tower=x"], "evaluate.reward_settings.clop: no such reward is asked for: did you"),
    (["evaluate.images_per_prompt=1"], "evaluate.images_per_prompt = 1: use 2 or more"),
    (["optimizer.micro_batch_size=3"], "optimizer.micro_batch_size = 3: it must divide batch_size = 10"),
    (["optimizer.batch_size=15"], "optimizer.batch_size = 15: it must divide the 20 pairs of an iteration"),
    (["optimizer.learning_rate=0.0"], "optimizer.learning_rate = 0.0: use a positive number"),
    (["model.path=tinny"], "model.path = 'tinny': neither \"tiny\", nor an existing folder or .safetensors"),
    (["model.path=."], "is no diffusers folder: it has no model_index.json."),
    (["model.device=gpu"], "model.device = 'gpu':"),
    (["model.device=meta"], "model.device = 'meta': use auto, cpu, cuda, or cuda:0"),
    (["cluster.sampler_gpus=1.0"], "cluster: the run asks for 1 GPUs (sampler_gpus, reward_gpus, learner_gpus)"),
    (["cluster.sampler_gpus=1.5"], "cluster.sampler_gpus = 1.5: use a share of one GPU, or a whole number."),
    (["optimizer.adam_beta1=1.5"], "optimizer.adam_beta1 = 1.5: use 0 or more, and less than 1."),
    (["method.beta=inf"], "method.beta = inf: use a finite number"),
    (["guard.missing_share=1.5"], "guard.missing_share = 1.5: use a share from 0 to 1 (never stop)."),
    (["guard.tied_share=-0.1"], "guard.tied_share = -0.1: use a share from 0 to 1 (never stop)."),
    (["guard.reward_timeout=0.0"], "guard.reward_timeout = 0.0: use a positive number of seconds."),
    (["method.name=[1]"], "method.name = [1]: there is no such method"),
    (["run.prompts=latin.txt"], "latin.txt is not readable as UTF-8 text"),
    (["model.device=cuda", "cluster.runtime=local"], "model.device = 'cuda': this machine has no CUDA device"),
    (["model.family=sd99"], "model.family = 'sd99'"),
    (
        ["sampling.scheduler=flow"],
        "sampling.scheduler = 'flow': model.family = 'stable_diffusion' samples with ddim or ddpm",
    ),
    (["model.family=sd3"], "sampling.scheduler = 'ddim': model.family = 'sd3' samples with flow"),
    (["model.family=sdxl"], "(StableDiffusionPipeline) lacks text_encoder_2, tokenizer_2: family sdxl needs them."),
    (["model.train=some"], "model.train = 'some': input should be 'lora' or 'full'"),
    (["model.train=full", "model.dtype=bfloat16"], "model.train = 'full': all weights are trained in one flat float32"),
    (["model.train=full", "model.channels_last=true"], "model.train = 'full': all weights are trained in one flat"),
    (["model.vae=nowhere"], "model.vae = 'nowhere': neither an existing folder nor a hub id"),
    (["model.tiny_vae=nowhere"], "model.tiny_vae = 'nowhere': neither an existing folder nor a hub id"),
    (
        ["model.path=prompts.safetensors"],
        "model.path = 'prompts.safetensors': neither \"tiny\", nor an existing folder",
    ),
    (["model.variant=fp16"], "unet has no variant 'fp16'; model.variant can be none"),
    (["model.revision=v1.0"], "is on this disk, where model.revision = 'v1.0' says nothing; leave it out"),
    (
        ["model.lora_weights=nowhere.safetensors"],
        "model.lora_weights = 'nowhere.safetensors': neither an existing .safetensors file, nor a folder with one, nor",
    ),
    (["model.lora_weights=nowhere/at/all"], "model.lora_weights = 'nowhere/at/all': neither an existing .safetensors"),
    (
        ["model.lora_weights=prompts.txt"],
        "model.lora_weights = 'prompts.txt': no .safetensors file; pickled weights can",
    ),
    (["model.lora_weights=."], "model.lora_weights = '.': the folder holds 3 .safetensors files; name one of them"),
    (["model.lora_weights=broken.safetensors"], "broken.safetensors is no safetensors file ("),
    (
        ["model.lora_weights=dora.safetensors"],
        "dora.safetensors is no plain LoRA: it holds lora_unet_mid_block_attn1_to_q.dora_scale",
    ),
    (
        ["model.lora_weights=flux.safetensors"],
        "flux.safetensors is of another kind of model: it holds transformer.x.lora_A.weight, and names of this one's",
    ),
    (
        ["model.lora_weights=me/mine", "model.train=full"],
        "model.lora_weights = 'me/mine': with train = 'full' the network alone is exported; fuse the LoRA in diffusers",
    ),
    (["model.lora_rank=0"], "model.lora_rank = 0: use 1 or more"),
    (["cluster.samplers=0"], "cluster.samplers = 0: use 1 or more."),
    (["cluster.max_samplers=-1"], "cluster.max_samplers = -1: use 0 (no more than `samplers`) or the most that may"),
    (["cluster.reward_workers=-1"], "cluster.reward_workers = -1: use 0 (samplers score themselves) or more."),
    (
        ["cluster.reward_workers=0", "cluster.reward_gpus=0.5"],
        "cluster.reward_gpus = 0.5: samplers score where",
    ),
    (
        ["cluster.reward_workers=0", "reward.name=image_reward_package"],
        "cluster.reward_workers = 0: image_reward_package needs an environment of its own, which only reward workers",
    ),
    (["cluster.learner_ranks=0"], "cluster.learner_ranks = 0: use 1 or more."),
    (
        ["cluster.learner_ranks=3"],
        "cluster.learner_ranks = 3: ranks share the micro-batches of a batch, and there are 2 (optimizer.batch_size / "
        "micro_batch_size = 10 / 5); use 2 or fewer ranks, or micro_batch_size = 2, which changes the numbers' last",
    ),
    (["cluster.learner_ranks=11"], "use 2 or fewer ranks, or micro_batch_size = 1"),
    (
        ["cluster.learner_ranks=2", "cluster.runtime=local"],
        "cluster.learner_ranks = 2: with cluster.runtime = 'local' one process is the whole learner; use 1, or",
    ),
    (
        ["cluster.learner_ranks=2", "cluster.learner_gpus=0.5"],
        "cluster.learner_gpus = 0.5: each of learner_ranks = 2 needs a GPU of its own; use 1.0, or 0.0",
    ),
    (["cluster.learner_ranks=2", "cluster.learner_gpus=1.0"], "cluster: the run asks for 2 GPUs (sampler_gpus,"),
    (["cluster.idle_timeout=0.0"], "cluster.idle_timeout = 0.0: use a positive number of seconds."),
    (["cluster.worker_memory=-1.0"], "cluster.worker_memory = -1.0: use 0 or more."),
    (["cluster.sampler_labels=spot"], "cluster.sampler_labels = 'spot': input should be an object"),
    (
        ['cluster.sampler_labels={zone = "a b"}'],
        "cluster.sampler_labels.zone = 'a b': use a value such as \"spot\", or",
    ),
    (["cluster.runtime=slurm"], "cluster.runtime = 'slurm': input should be 'ray' or 'local'"),
    (["run.wandb_project=mine"], "run.wandb_project = 'mine': wandb is not installed; run `pip install"),
    (["method.threshold=1.0"], "method.threshold = 1.0: use 0 (only ties are dropped) or a number below 1."),
    (["method.kl_coef=-0.1"], "method.kl_coef = -0.1: use 0 (off) or more, such as 0.01."),
    (["method.psi_center=mean"], "method.psi_center = 'mean': input should be 'none' or 'kl'"),
    (["method.search.inner_steps=0"], "method.search.inner_steps = 0: use 1 or more."),
    (
        ["method.search.inner_steps=5"],
        "method.search.inner_steps = 5: a branch would run into the next one; keep steps = [0, 4, 8, 12, 16]",
    ),
    (
        ["method.search.inner_steps=3", "method.search.steps=[0,18]"],
        "method.search.steps = [0, 18]: with num_inference_steps = 20 the last step is 19.",
    ),
    (
        ["method.name=d3po", "method.search.inner_steps=2", "method.search.steps=[0,4]"],
        "method.search.inner_steps = 2: only a tree's branches have inner steps; use 1.",
    ),
    (
        ["method.search.step_reward=delta_cross"],
        "method.search.step_reward = 'delta_cross' compares candidates of different parents",
    ),
    (
        ["method.name=d3po", "method.search.step_reward=delta_parent"],
        "method.search.step_reward = 'delta_parent' is for siblings; trajectories of a chain have parents of their",
    ),
    (
        ["method.search.step_reward=lookahead_q", "method.search.steps=[0,19]"],
        "method.search.steps = [0, 19]: step_reward = 'lookahead_q' looks one step ahead, and nothing comes after step "
        "19; leave it out.",
    ),
    (
        ["method.search.guidance.kind=uphill"],
        "method.search.guidance.kind = 'uphill': input should be 'none', 'reward_ascent' or 'target_l2'",
    ),
    (["method.search.guidance.scale=0.0"], "method.search.guidance.scale = 0.0: use a positive number, such as 0.1."),
    (["method.search.guidance=0.1"], "method.search.guidance = 0.1: a table is needed"),
    (
        ["method.name=tailorpo_g", "method.search.follow=random"],
        "method.search.guidance moves the best candidate: use follow = 'best'.",
    ),
    (
        ["method.name=tailorpo_g", "method.search.inner_steps=2"],
        "method.search.inner_steps = 2: guidance moves the child of a step; use 1.",
    ),
    (
        ["method.name=d3po", "method.search.guidance.kind=target_l2"],
        "method.search.guidance.kind: only a tree's followed branch can be guided; use 'none'.",
    ),
    (
        ["method.name=tailorpo_g", "reward.name=jpeg_compressibility"],
        "reward.name = 'jpeg_compressibility': tailorpo_g follows the reward's gradient (search.guidance.kind = "
        "'reward_ascent'), and this reward has none; choose from",
    ),
    (["method.name=ddpo", "method.search.keep_mean=false"], "method.search: ddpo needs shape = 'chain', step_reward"),
    (["method.name=ddpo", "method.clip_range=0.0"], "method.clip_range = 0.0: use a number between 0 and 1"),
    (["method.name=ddpo", "method.adv_clip_max=0.0"], "method.adv_clip_max = 0.0: use a positive number"),
    (
        ["method.name=ddpo", "optimizer.batch_size=50"],
        "optimizer.batch_size = 50: it must divide the 320 steps of an iteration (prompts_per_iteration x 80); the "
        "nearest that does is 40",
    ),
    (
        ["run.fused_sampling=true", "run.lag=0", "cluster.runtime=local", "optimizer.batch_size=20"],
        "run.fused_sampling = true: sampling and training share their forwards only in one process that makes one "
        "update of each iteration's pairs; set optimizer.micro_batch_size = 20 (not 5), or leave fused_sampling out",
    ),
    (
        ["run.fused_sampling=true", "method.search.steps=[0,4,5,7,9]"],
        "method.search.steps = [0, 4, 5, 7, 9]: run.fused_sampling = true keeps the graph of every candidate",
    ),
    (
        [
            *("method.name=sft", "data.path=pairs", "run.fused_sampling=true"),
            *("optimizer.batch_size=1", "optimizer.micro_batch_size=1"),
        ],
        "run.fused_sampling = true: sft trains on pictures with noise, not",
    ),
    (["method.name=sft"], "data.path is missing: sft trains on labelled pictures; name a set of them"),
    (["data.path=pairs"], "data.path = 'pairs': rdpo trains on what it draws itself for run.prompts, and reads no"),
    (["method.name=dspo_e", "method.beta=1.0"], "method.beta = 1.0: from 1 on, the loss rewards being wrong"),
    (["run.fused_sampling=true"], "set cluster.runtime = 'local' (not 'ray'), run.lag = 0 (not 1), optimizer.batch"),
    (["reward.also=aesthetics"], "reward.also = 'aesthetics': input should be a valid"),
    (
        ['reward.also=["jpeg_compresibility"]'],
        "reward.name = 'jpeg_compresibility': there is no such reward: did you mean 'jpeg_compressibility'?",
    ),
    (['reward.also=["colorfulness"]'], "reward.also = ['colorfulness']: a reward is named twice"),
    (
        ['reward.also=["jpeg_compressibility","jpeg_compressibility"]'],
        "reward.also = ['jpeg_compressibility', 'jpeg_compressibility']: a reward is named twice",
    ),
    (["reference.update=soft"], "reference.update = 'soft': input should be 'frozen', 'hard' or 'ema'"),
    (["reference.every=0"], "reference.every = 0: use 1 or more."),
    (["reference.rate=0.0"], "reference.rate = 0.0: use a number above 0, up to 1."),
    (["reference.rate=1.5"], "reference.rate = 1.5: use a number above 0, up to 1."),
    (
        ["reference.update=ema", "reference.pretrained_pull=1.0"],
        "reference.pretrained_pull = 1.0: use 0 (off) to below",
    ),
    (["reference.pretrained_pull=0.1"], "reference.pretrained_pull = 0.1: a frozen reference is the pretrained model"),
    (["guard.nonfinite=ignore"], "guard.nonfinite = 'ignore': input should be 'count', 'stop' or 'roll_back'"),
    (["guard.gradient_spike=halt"], "guard.gradient_spike = 'halt': input should be 'count', 'stop' or 'roll_back'"),
    (["guard.spike_factor=1.0"], "guard.spike_factor = 1.0: use a number above 1, such as 20."),
    (["guard.saturated=never"], "guard.saturated = 'never': input should be 'count', 'stop' or 'roll_back'"),
    (["guard.saturated_share=0.0"], "guard.saturated_share = 0.0: use a share above 0, up to 1."),
    (["guard.diversity=off"], "guard.diversity = 'off': input should be 'count', 'stop' or 'roll_back'"),
    (["guard.diversity_share=1.5"], "guard.diversity_share = 1.5: use a share above 0, up to 1."),
    (["guards.diversity=stop"], "unknown section [guards]: did you mean 'guard'?"),
    (["beta=3"], "override 'beta=3': write section.key=value, such as method.beta=0.2"),
    (["method.beta"], "override 'method.beta': write section.key=value"),
]


@pytest.fixture
def config(tmp_path, monkeypatch, random_model):
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n\n")
    (tmp_path / "some.txt").write_text("a cat\n")
    (tmp_path / "empty.txt").write_text("\n  \n")
    (tmp_path / "latin.txt").write_bytes("ein Bär\n".encode("latin-1"))
    (tmp_path / "broken.safetensors").write_bytes(b"no such thing")
    for name, key in (("dora", "lora_unet_mid_block_attn1_to_q.dora_scale"), ("flux", "transformer.x.lora_A.weight")):
        save_file({key: torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    path = tmp_path / "good.toml"
    path.write_text(GOOD.format(output=tmp_path / "runs", model=random_model))
    monkeypatch.chdir(tmp_path)
    return path


def run_command(monkeypatch, *words: str) -> int:
    """Runs the command line; its exit code."""
    monkeypatch.setattr(sys, "argv", ["raypref", *words])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


@pytest.mark.parametrize(("overrides", "message"), BROKEN, ids=[" ".join(case[0]) for case in BROKEN])
def test_a_broken_config_is_one_clear_error(config, monkeypatch, capsys, overrides, message):
    assert run_command(monkeypatch, "train", str(config), *overrides) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [("[run", "not valid TOML"), ('run = "x"', "run = 'x': run is a section; write [run] and its keys below")],
)
def test_a_broken_file_is_one_clear_error(config, monkeypatch, capsys, text, message):
    config.write_text(text)
    assert run_command(monkeypatch, "train", str(config)) == 2
    assert message in capsys.readouterr().err


def test_a_missing_file_names_its_nearest_neighbour(config, monkeypatch, capsys):
    assert run_command(monkeypatch, "train", str(config.with_name("god.toml"))) == 2
    assert "there is no such file: did you mean 'good.toml'?" in capsys.readouterr().err


def test_an_existing_run_is_not_overwritten_by_accident(config, monkeypatch, capsys, tmp_path):
    (tmp_path / "runs" / "good").mkdir(parents=True)
    (tmp_path / "runs" / "good" / "config.toml").write_text("")
    assert run_command(monkeypatch, "train", str(config)) == 2
    assert "continue it with `raypref resume" in capsys.readouterr().err


def test_a_resumed_run_may_not_change_its_numbers(config, monkeypatch, capsys, tmp_path):
    folder = tmp_path / "runs" / "good"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(config.read_text())
    assert run_command(monkeypatch, "resume", str(folder), "method.beta=3.0") == 2
    assert (
        "an existing run may change only cluster, checkpoint.every, checkpoint.keep, guard, run.iterations"
        in capsys.readouterr().err
    )


def test_an_edit_of_a_run_s_own_files_is_noticed(config, tmp_path):
    directory = RunDirectory.create(load_experiment(config, [f"run.output_dir={tmp_path / 'runs'}"]))
    directory.changed(["cluster.samplers=7", "run.iterations=9"], RESUMABLE)
    text = directory.config.read_text()
    directory.config.write_text(text.replace("seed = 0", "seed = 1").replace("beta = 0.1", "beta = 0.5"))
    (directory.path / "prompts.txt").write_text("another\n")
    with pytest.raises(ConfigError) as caught:
        directory.changed(["cluster.samplers=7"], RESUMABLE)
    assert str(caught.value).startswith(
        "method.beta = 0.5 (was 0.1), run.prompts: other prompts, run.seed = 1 (was 0): an existing run may change "
        "only cluster, "
    )
    assert "take the change back (it may be an edit of config.toml or of a prompt file in " in str(caught.value)


def test_a_setting_that_a_run_is_older_than_had_its_default(config, tmp_path):
    directory = RunDirectory.create(load_experiment(config, [f"run.output_dir={tmp_path / 'runs'}"]))
    made_with = json.loads(directory.settings.read_text())
    for name in ("model.channels_last", "method.search.inner_steps"):
        del made_with[name]
    directory.settings.write_text(json.dumps(made_with))
    directory.changed([], RESUMABLE)
    with pytest.raises(ConfigError, match=r"^model\.channels_last = True \(was False\): "):
        directory.changed(["model.channels_last=true"], RESUMABLE)


def test_a_run_does_not_depend_on_its_source_of_prompts(config, tmp_path):
    source = tmp_path / "prompts.jsonl"
    source.write_text('{"text": "ein Bär"}\n{"text": "a cat"}\n{"text": "a dog,\\nasleep"}\n{"text": "ein Bär"}\n')
    wanted = ('run.prompts={path="prompts.jsonl", column="text"}', "run.heldout_prompts=some.txt")
    experiment = load_experiment(config, [*wanted, f"run.output_dir={tmp_path / 'runs'}"])
    assert experiment.prompts == ("ein Bär", "a dog, asleep")
    assert dry_run(experiment)["prompts"] == "2 to train on (1 left out, which are held out too), 1 to be judged on"
    directory = RunDirectory.create(experiment)
    source.unlink()
    assert directory.changed([], RESUMABLE).prompts == experiment.prompts
    assert directory.experiment().heldout_prompts == ("a cat",)


def test_a_run_may_be_judged_on_what_it_was_trained_on(config, tmp_path, monkeypatch):
    directory = RunDirectory.create(load_experiment(config, [f"run.output_dir={tmp_path / 'runs'}"]))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    Path("prompts.txt").write_text("a cat\na yak\n")
    for override in ("run.heldout_prompts=prompts.txt", 'run.heldout_prompts={path="prompts.txt"}'):
        judged = directory.changed([override], REJUDGEABLE)
        assert judged.heldout_prompts == ("a cat", "a yak")
        assert judged.prompts == ("a cat", "a dog")
    ours = directory.changed(['run.heldout_prompts={path="animals", split="heldout", sample=3}'], REJUDGEABLE)
    assert len(ours.heldout_prompts) == 3


def test_overrides_keep_the_other_defaults_of_a_partial_table(config):
    experiment = load_experiment(
        config, ["method.name=d3po", "method.search.candidates=3", "method.search.steps=[0,1,2,3,4]"]
    )
    assert experiment.method.search.candidates == 3
    assert experiment.method.search.shape == "chain"
    assert experiment.method.search.step_reward == "final"


def test_a_resolved_config_reads_back_as_the_same_experiment(config):
    overrides = [
        *("method.name=tailorpo_g", "method.ratio_clip_eps=0.2", "method.search.guidance.scale=0.3", "run.seed=7"),
        *("cluster.max_samplers=8", 'cluster.sampler_labels={"ray.io/market-type" = "in(spot, on-demand)"}'),
        *('reward.also=["jpeg_compressibility"]', "reference.update=ema", "reference.rate=0.3", "guard.saturated=stop"),
    ]
    experiment = load_experiment(config, overrides)
    assert experiment.method.search.guidance == Guidance("reward_ascent", scale=0.3)
    assert experiment.reward.also == ("jpeg_compressibility",)
    again = config.with_name("again.toml")
    again.write_text(tomli_w.dumps(resolved(experiment)))
    assert load_experiment(again) == experiment


def test_a_mixture_reads_back_as_the_same_experiment(config):
    parts = '[{name="hpsv2", weight=2.0, mean=0.27, std=0.02, settings={version="2.0"}}, {name="colorfulness"}]'
    experiment = load_experiment(config, ["reward.name=mixture", f"reward.parts={parts}"])
    hpsv2, colorfulness = experiment.reward.settings["parts"]
    assert hpsv2["settings"]["version"] == "2.0"
    assert hpsv2["settings"]["antialias"] is True
    assert colorfulness == {"name": "colorfulness", "weight": 1.0, "mean": 0.0, "std": 1.0, "settings": {}}
    again = config.with_name("again.toml")
    again.write_text(tomli_w.dumps(resolved(experiment)))
    assert load_experiment(again) == experiment


def test_a_run_keeps_the_settings_of_its_rewards_that_were_defaults_when_it_began(config):
    words = ["reward.name=clip", 'reward.also=["hpsv2"]', 'evaluate.rewards=["pickscore"]', 'reward.dtype="bfloat16"']
    directory = RunDirectory.create(load_experiment(config, words))
    kept = tomllib.loads(directory.config.read_text())
    assert kept["reward"] == {
        "name": "clip", "also": ["hpsv2"], "also_settings": {"hpsv2": kept["reward"]["also_settings"]["hpsv2"]},
        "tower": "openai/clip-vit-large-patch14", "tokenizer": "", "device": "auto", "dtype": "bfloat16",
    }  # fmt: skip
    assert kept["reward"]["also_settings"]["hpsv2"].keys() == inspect.signature(HPSv2).parameters.keys()
    assert kept["evaluate"]["reward_settings"]["pickscore"]["tower"] == "yuvalkirstain/PickScore_v1"
    made_later = directory.config.read_text().replace('version = "2.1"', 'version = "2.0"')
    directory.config.write_text(made_later)
    with pytest.raises(ConfigError, match=r"reward\.also_settings\.hpsv2\.version = '2\.0' \(was '2\.1'\)"):
        directory.changed([], RESUMABLE)
    directory.config.write_text(made_later.replace('version = "2.0"', 'version = "2.1"'))
    watching_other = directory.changed(['evaluate.rewards=["colorfulness"]'], REJUDGEABLE)
    assert watching_other.evaluate.reward_settings == {}


def test_a_packaged_reward_has_a_name_of_its_own(config):
    experiment = load_experiment(config, ["reward.name=hpsv2", "reward.backend=package", 'reward.version="2.0"'])
    settings = {"version": "2.0", "checkpoint": "", "device": "auto"}
    assert experiment.reward == RewardConfig("hpsv2_package", settings=settings)
    again = config.with_name("again.toml")
    again.write_text(tomli_w.dumps(resolved(experiment)))
    assert load_experiment(again) == load_experiment(again, ["reward.backend=package"]) == experiment
    assert load_experiment(config, ["reward.name=hpsv2", "reward.backend=raypref"]).reward.name == "hpsv2"


def test_a_differentiable_mixture_can_guide(config):
    load_experiment(config, ["method.name=tailorpo_g", "reward.name=mixture", 'reward.parts=[{name="colorfulness"}]'])


def test_defaults_are_the_methods_own(config):
    assert load_experiment(config).method == RDPO()


@pytest.mark.parametrize("path", sorted(Path("experiments").glob("*.toml")), ids=lambda path: path.name)
def test_every_shipped_experiment_is_valid_and_complete(path):
    load_experiment(path.resolve())
    assert "run" in tomllib.loads(path.read_text())
