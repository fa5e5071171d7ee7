"""The recipes of the paper's tables: complete, with the published settings, and each able to run."""

import json
import re
import shlex
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from raypref.ask import questions
from raypref.cli import app
from raypref.config import apply_overrides, fill, load_experiment, resolved
from raypref.data.named import NAMED
from raypref.dry_run import dry_run
from raypref.train.experiment import Experiment
from raypref.train.loop import train
from raypref.train.runtime import LocalRuntime
from tests.hub_cache import fill_cache, papers_datasets, use_cache
from tests.labelled import labelled_set
from tests.recording import Recording
from tests.rewards import tiny

FOLDER = Path("experiments/rdpo")
RECIPES = sorted(FOLDER.glob("table*/*.toml"))
COLUMNS = ("aesthetic", "image_reward", "hpsv2", "pickscore", "jpeg_compressibility", "vp_score")
CELLS = {  # by table: model, columns, and the rows beside RDPO's, each once, on the first column or SPO's own reward
    1: ("sd15", COLUMNS, ("ddpo", "d3po", "spo", "tailorpo", "tailorpo_g", "rdpo_star")),
    2: ("sd15", COLUMNS, ()),
    6: ("sd15", COLUMNS[:2], ("d3po", "spo", "tailorpo_g")),
    7: ("sdxl", COLUMNS[:2], ("d3po", "spo", "tailorpo_g")),
    8: ("sd15", COLUMNS[:4], ()),
}
QUICK = {"sd15_aesthetic_rdpo", "sd15_step_aware_spo"}
"""Of Table 1; the others run by `make test-slow`."""
OTHERS = {  # by paper and table: models and methods; "dspo_lora" and "dspo_nodup" are "dspo" with another option
    "dspo/table1": ("sd15_sft", "sd15_diffusion_dpo", "sd15_kto", "sd15_dspo"),
    "dspo/table2": ("sdxl_sft", "sdxl_diffusion_dpo", "sdxl_mapo", "sdxl_dspo_sdxl"),
    "dspo/table3": ("sd15_diffusion_dpo", "sd15_dspo"),
    "dspo/table5": ("sd15_dspo_e",),
    "dspo/table6": ("sd15_dspo_ref", "sd15_dspo_nodup", "sd15_dspo_lora"),
    "dro/table1": ("sd15_dro", "sd15_sft", "sd15_spin", "sd15_spo"),
}
OTHER_RECIPES = [Path("experiments", table, f"{stem}.toml") for table, stems in OTHERS.items() for stem in stems]
QUICK_OTHERS = {"dspo/table1/sd15_dspo", "dro/table1/sd15_dro"}
"""A method on labelled pictures, and one that draws beside them."""


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    """Pick-a-Pic in small."""
    fill_cache(tmp_path / "hub", papers_datasets())
    use_cache(monkeypatch, tmp_path / "hub")


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every setting by its address."""
    settings: dict[str, Any] = {}
    for key, value in table.items():
        settings |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return settings


def other(recipe: Path) -> str:
    """A recipe of DSPO's or Diffusion-DRO's tables by its name."""
    return str(recipe.relative_to("experiments").with_suffix(""))


def set_at(recipe: Path, folder: Path) -> list[str]:
    """Overrides that put a set of pictures, of which nothing is read, where the recipe has its own."""
    return [f"data.path={folder}"] if "data" in tomllib.loads(recipe.read_text()) else []


def settings(recipe: Path, *overrides: str) -> dict[str, Any]:
    return flat(resolved(load_experiment(recipe, overrides)))


def test_every_column_and_row_has_its_recipe():
    wanted = {
        f"table{table}/{model}_{reward}_rdpo.toml" for table, (model, columns, _) in CELLS.items() for reward in columns
    }
    for table, (model, _, rows) in CELLS.items():
        wanted |= {f"table{table}/{model}_{'step_aware' if row == 'spo' else 'aesthetic'}_{row}.toml" for row in rows}
    wanted |= {f"table3/sd15_{reward}_{row}.toml" for reward in COLUMNS[:2] for row in ("d3po", "tailorpo")}
    assert {str(path.relative_to(FOLDER)) for path in RECIPES} == wanted | {"table3/sd15_step_aware_spo.toml"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_it_resolves_and_says_what_it_costs(recipe: Path, tmp_path: Path):
    experiment = load_experiment(recipe)
    model, _, rest = recipe.stem.partition("_")
    assert rest == f"{experiment.reward.name}_{experiment.method.name}"
    assert experiment.run.name == f"{recipe.parent.name}-{model}-{experiment.reward.name}-{experiment.method.name}"
    assert experiment.model.family == {"sd15": "stable_diffusion", "sdxl": "sdxl"}[model]
    again = tmp_path / "again.toml"
    again.write_text(tomli_w.dumps(resolved(experiment)))
    assert load_experiment(again) == experiment
    told = dry_run(experiment)
    pick_a_pic = recipe.parent.name in ("table2", "table6", "table7")
    judged_on = "3 to be judged on" if pick_a_pic else "45 to be judged on: training prompts"  # as the paper does
    assert told["prompts"] == f"{4000 if pick_a_pic else 45} to train on, {judged_on}"
    if experiment.method.name in ("rdpo", "rdpo_star", "tailorpo", "tailorpo_g"):
        assert told["pairs an iteration"].endswith("10000 in the run")


STEPWISE = {"beta": 0.1, "search.candidates": 2, "search.steps": [0, 4, 8, 12, 16], "search.follow": "best"}
ALL = list(range(20))
PUBLISHED = {
    "rdpo": STEPWISE | {"search.step_reward": "delta_parent", "psi_lambda": 100.0, "psi_sign": "intended"},
    "rdpo_star": STEPWISE | {"search.step_reward": "delta_parent", "psi_lambda": 0.0},
    "tailorpo": STEPWISE | {"search.step_reward": "q", "psi_lambda": 0.0, "search.guidance.kind": "none"},
    "tailorpo_g": STEPWISE | {"search.step_reward": "q", "psi_lambda": 0.0, "search.guidance.kind": "reward_ascent"},
    "d3po": {"beta": 0.1, "ratio_clip_eps": 0.1, "search.shape": "chain", "search.same_start": True}
    | {"search.step_reward": "final", "search.steps": ALL, "psi_lambda": 0.0},
    "spo": {"beta": 10.0, "threshold": 0.3, "ratio_clip_eps": 0.1, "search.candidates": 4, "search.follow": "random"}
    | {"search.steps": ALL[4:], "psi_lambda": 0.0},
    "ddpo": {"clip_range": 1e-4, "adv_clip_max": 5.0, "search.steps": ALL},
}
RATES = {"ddpo": 3e-4, "spo": 6e-5}


@pytest.mark.parametrize("recipe", sorted(FOLDER.glob("table1/*.toml")), ids=lambda path: path.stem)
def test_table_1_has_the_published_settings(recipe: Path):
    found = settings(recipe)
    name = found["method.name"]
    wanted = {f"method.{key}": value for key, value in PUBLISHED[name].items()}
    wanted |= {"optimizer.learning_rate": RATES.get(name, 3e-5), "optimizer.max_grad_norm": 1.0}
    wanted |= {"optimizer.adam_beta1": 0.9, "optimizer.adam_beta2": 0.999, "optimizer.adam_weight_decay": 1e-4}
    wanted |= {"sampling.scheduler": "ddim", "sampling.num_inference_steps": 20, "sampling.guidance_scale": 5.0}
    wanted |= {"sampling.eta": 1.0, "model.lora_rank": 4, "model.lora_alpha": 4, "evaluate.images_per_prompt": 5}
    assert {key: found[key] for key in wanted} == wanted
    if name == "rdpo":
        guided = found["reward.name"] != "jpeg_compressibility"
        assert found["method.search.guidance.kind"] == ("reward_ascent" if guided else "none")


OTHER_PROMPTS = {"run.prompts", "run.heldout_prompts", "evaluate.every"}
LAST_STEP_OUT = {"method.search.steps", "optimizer.batch_size"}
WATCHED = {"evaluate.rewards", "evaluate.reward_settings"}
MAY_DIFFER = {  # from Table 1's recipe of that method, with that reward
    1: set(),
    2: OTHER_PROMPTS,
    3: {"method.psi_lambda"},
    6: OTHER_PROMPTS | {"sampling.scheduler"},
    7: OTHER_PROMPTS | {"model", "run.chunk_size"},
    8: WATCHED,
}
MORE = {
    ("table3", "spo"): WATCHED,
    ("table6", "d3po"): LAST_STEP_OUT,
    ("table6", "spo"): LAST_STEP_OUT | WATCHED,
    ("table7", "spo"): LAST_STEP_OUT
    | {"method.search.candidates", "method.search.inner_steps", "method.threshold"}
    | {"optimizer.learning_rate", "reward.checkpoint"}
    | WATCHED,
}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_tables_differ_only_in_what_they_are_about(recipe: Path):
    _, _, rest = recipe.stem.partition("_")
    twin, changes = FOLDER / "table1" / f"sd15_{rest}.toml", []
    if not twin.exists():
        reward, method = load_experiment(recipe).reward.name, load_experiment(recipe).method.name
        twin, changes = FOLDER / "table1" / f"sd15_aesthetic_{method}.toml", [f"reward.name={reward}"]
    ours, theirs = settings(recipe), settings(twin, *changes)
    table = recipe.parent.name
    allowed = {"run.name"} | MAY_DIFFER[int(table[-1])] | MORE.get((table, ours["method.name"]), set())
    differing = {key for key in ours | theirs if ours.get(key) != theirs.get(key)}
    assert {key for key in differing if not any(f"{key}.".startswith(f"{free}.") for free in allowed)} == set()


def test_table_1_s_rows_agree_in_all_but_method_reward_and_updates():
    rows = [settings(path) for path in FOLDER.glob("table1/*.toml")]
    free = ("method.", "reward.", "optimizer.learning_rate", "optimizer.batch_size", *WATCHED, "run.name")
    free = (*free, "model.vae_slicing")  # memory: only guidance needs it
    shared = [{key: value for key, value in row.items() if not key.startswith(free)} for row in rows]
    assert all(row == shared[0] for row in shared)


PICK_A_PIC = (
    'run.prompts={path="pick_a_pic", split="train", sample=4000}',
    "run.heldout_prompts=pick_a_pic:test_unique",
    "evaluate.every=125",
)


@pytest.mark.parametrize("row", CELLS[1][2])
def test_the_other_cells_are_an_override_away(row: str):
    recipe = FOLDER / "table1" / f"sd15_{'step_aware' if row == 'spo' else 'aesthetic'}_{row}.toml"
    for reward in COLUMNS[1:]:
        if row == "spo" or (reward == "jpeg_compressibility" and row in ("tailorpo_g", "rdpo_star")):
            continue
        more = ["reward.checkpoint=mine.pt"] if reward == "vp_score" else []
        load_experiment(recipe, [f"reward.name={reward}", *more])
        load_experiment(recipe, [f"reward.name={reward}", *more, *PICK_A_PIC])


def test_every_row_of_dspo_and_dro_has_its_recipe():
    assert set(Path("experiments").glob("d*o/table*/*.toml")) == set(OTHER_RECIPES)


LIKE_DPO = {"optimizer.batch_size": 2048, "optimizer.learning_rate": 2.048e-5, "data.prompt_dropout": 0.2} | {
    "optimizer.adam_weight_decay": 0.01
}
DSPO = LIKE_DPO | {"method.beta": 0.001, "run.iterations": 2000, "optimizer.lr_warmup_iterations": 500}
DPO = LIKE_DPO | {"method.beta": 5000.0, "run.iterations": 2000}
UP_500, UP_200 = ({"optimizer.lr_warmup_iterations": count} for count in (500, 200))
FULL, LORA = {"model.train": "full"}, {"model.train": "lora", "model.lora_alpha": 4, "model.lora_rank": 4}
OTHERS_PUBLISHED = {
    "dspo/table1/sd15_dspo": DSPO | FULL | {"method.margin_scale": 0.5, "method.detach_sigmoid": False},
    "dspo/table1/sd15_sft": FULL | {key: value for key, value in DSPO.items() if key != "method.beta"},
    "dspo/table1/sd15_diffusion_dpo": DPO | FULL | UP_500,
    "dspo/table1/sd15_kto": FULL | {"method.beta": 1000.0, "optimizer.learning_rate": 1e-7, "optimizer.batch_size": 32},
    "dspo/table2/sdxl_dspo_sdxl": LIKE_DPO | FULL | UP_200 | {"method.beta": 5000.0, "method.switch": 0.1},
    "dspo/table2/sdxl_diffusion_dpo": DPO | FULL | UP_200,
    "dspo/table2/sdxl_mapo": {"method.beta": 0.1, "method.snr_value": 0.5, "optimizer.learning_rate": 1e-5}
    | {"model.lora_rank": 8},
    "dspo/table3/sd15_dspo": FULL | {"optimizer.batch_size": 2048, "optimizer.micro_batch_size": 16},
    "dspo/table5/sd15_dspo_e": DSPO | FULL,
    "dspo/table6/sd15_dspo_ref": DSPO | FULL,
    "dspo/table6/sd15_dspo_nodup": DSPO | FULL | {"data.duplicate_prompts": "first"},
    "dspo/table6/sd15_dspo_lora": DSPO | LORA,
    "dro/table1/sd15_dro": FULL
    | {"method.margin": 0.001, "optimizer.learning_rate": 1e-4, "optimizer.batch_size": 256, "run.iterations": 1600}
    | {"sampling.num_inference_steps": 20, "data.prompt_dropout": 0.2, "data.labels": [], "run.lag": 1},
    "dro/table1/sd15_spin": {"optimizer.learning_rate": 2e-5, "optimizer.batch_size": 2048, "reference.every": 500}
    | {"optimizer.lr_scheduler": "linear", "run.iterations": 1500, "reference.update": "hard"} | UP_200,
    "dro/table1/sd15_spo": LORA | {f"method.{key}": value for key, value in PUBLISHED["spo"].items()}
    | {"optimizer.learning_rate": 6e-5, "run.iterations": 1000, "run.prompts_per_iteration": 40},
}  # fmt: skip


@pytest.mark.parametrize("recipe", OTHER_RECIPES, ids=other)
def test_the_others_resolve_have_the_published_settings_and_cost_what_the_page_says(recipe: Path, tmp_path: Path):
    experiment = load_experiment(recipe, set_at(recipe, tmp_path))
    model, _, method = recipe.stem.partition("_")
    assert experiment.run.name == "-".join((*other(recipe).split("/")[:2], model, method))
    assert experiment.method.name == re.sub("_(lora|nodup)$", "", method)
    assert experiment.model.family == {"sd15": "stable_diffusion", "sdxl": "sdxl"}[model]
    found = resolved(experiment)
    again = tmp_path / "again.toml"
    again.write_text(tomli_w.dumps(found))
    assert load_experiment(again) == experiment
    wanted = OTHERS_PUBLISHED.get(other(recipe), {})
    assert {key: flat(found)[key] for key in wanted} == wanted
    assert f"| `{other(recipe)}` | {evaluations(experiment) / 1e6:.1f} |" in Path("experiments/README.md").read_text()


def evaluations(experiment: Experiment) -> int:
    """Network evaluations of the run, but for those of evaluations: a guided one counts twice."""
    told = next(item for item in dry_run(experiment).items() if item[0].endswith("network evaluations an iteration"))
    each = sum(int(count) for count in re.findall(r"(\d+) to (?:sample|train)", told[1]))
    return each * (2 if told[0].startswith("guided") else 1) * experiment.run.iterations


@pytest.mark.parametrize(
    ("table", "stem", "of", "may_differ"),
    [
        ("dspo/table1", "sd15_sft", "sd15_dspo", set()),
        ("dspo/table1", "sd15_diffusion_dpo", "sd15_dspo", set()),
        ("dspo/table3", "sd15_dspo", "sd15_dspo", {"run.iterations", "optimizer.micro_batch_size"}),
        ("dspo/table5", "sd15_dspo_e", "sd15_dspo", set()),
        ("dspo/table6", "sd15_dspo_ref", "sd15_dspo", set()),
        ("dspo/table6", "sd15_dspo_nodup", "sd15_dspo", {"data.duplicate_prompts"}),
        ("dspo/table6", "sd15_dspo_lora", "sd15_dspo", {"model.train"}),
    ],
)
def test_ablations_differ_from_table_1_only_in_what_they_are_about(
    table: str, stem: str, of: str, may_differ: set[str], tmp_path: Path
):
    ours, theirs = (
        settings(Path("experiments", where), f"data.path={tmp_path}")
        for where in (f"{table}/{stem}.toml", f"dspo/table1/{of}.toml")
    )
    differing = {key for key in ours | theirs if ours.get(key) != theirs.get(key)}
    differing = {key for key in differing if not key.startswith(("method.", "cluster."))}
    assert differing - {"run.name"} == may_differ


def shrunken(recipe: Path, model: Path, folder: Path) -> Experiment:
    """One iteration of one prompt, on a random model of the family and a random network of the reward."""
    network = json.loads((model / "unet" / "config.json").read_text())
    side = network["sample_size"]
    pictures = set_at(recipe, labelled_set(folder / "labelled", (network["in_channels"], side, side)))
    planned = load_experiment(recipe, pictures)
    rows, reward, method = planned.method.rows_per_prompt(), planned.reward.name, planned.method.name
    (folder / "prompts.txt").write_text("a b\nc\n")
    changes = {
        "run": {"iterations": 1, "prompts_per_iteration": 1, "chunk_size": 1, "output_dir": str(folder / "runs")}
        | dict.fromkeys(("prompts", "heldout_prompts"), str(folder / "prompts.txt")),
        "model": {"path": str(model), "device": "cpu", "dtype": "float32", "vae": ""},
        "method": {"threshold": 0.0} if method == "spo" else {},  # a random network is sure of nothing
        "reward": {} if reward == "jpeg_compressibility" else tiny.save(reward, folder / "reward"),
        "optimizer": {"batch_size": rows, "micro_batch_size": rows},
        "evaluate": {"every": 0, "images_per_prompt": 2, "rewards": []},
        "cluster": {"runtime": "local", "learner_ranks": 1},
    }
    changes |= {"data": {"random_flip": False}, "sampling": {"num_inference_steps": 4}} if pictures else {}
    overrides = [
        f"{section}.{key}={json.dumps(value)}" for section, keys in changes.items() for key, value in keys.items()
    ]
    return load_experiment(recipe, [*pictures, "evaluate.reward_settings={}", *overrides])


def slow_but_for_a_few(path: Path) -> Any:
    quick = path in (FOLDER / "table1" / f"{stem}.toml" for stem in QUICK) or other(path) in QUICK_OTHERS
    return pytest.param(path, marks=[] if quick else [pytest.mark.slow], id=other(path).replace("/", "-"))


@pytest.mark.parametrize("recipe", [slow_but_for_a_few(path) for path in (*RECIPES, *OTHER_RECIPES)])
def test_it_runs_an_iteration_on_a_shrunken_model(recipe: Path, random_model: Path, random_sdxl: Path, tmp_path: Path):
    model = random_sdxl if recipe.stem.startswith("sdxl") else random_model
    plan = shrunken(recipe, model, tmp_path)
    runtime, seen = LocalRuntime(plan), Recording()
    fresh = runtime.learner.weights(0)
    train(plan, runtime, seen)
    assert seen.reports[0].pairs > 0
    assert not torch.equal(runtime.learner.weights(1).flat, fresh.flat)


QUESTIONS = questions()
RUNS = {f"runs/{tomllib.loads(recipe.read_text())['run']['name']}": recipe for recipe in (*RECIPES, *OTHER_RECIPES)}
"""The run directories of the recipes."""


@pytest.mark.parametrize("page", [Path("experiments/README.md"), Path("docs/prompts.md")], ids=str)
def test_every_command_of_the_page_would_start(page: Path, tmp_path: Path):
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    for line in "".join(blocks).splitlines():
        program, *words = shlex.split(line.partition("    #")[0])
        assert program in ("raypref", "hf")
        if program == "raypref":
            verb, target, *rest = words
            assert verb in {command.callback.__name__.replace("_", "-") for command in app.registered_commands}
            recipe = Path(target) if target.endswith(".toml") else RUNS[target]
            asked = [word for word in rest if word.partition(".")[0] in QUESTIONS]
            overrides = [word for word in rest if "=" in word and word not in asked]
            made = any(word.startswith("model.path=") for word in rest)  # by another command of the page
            model = ["model.path=tiny"] if made else []
            experiment = load_experiment(recipe, [*overrides, *model, *set_at(recipe, tmp_path)])
            assert experiment.prompts or experiment.data.path
            assert all(word in RUNS for word in rest if word.startswith("runs/"))
            for name in (after for before, after in pairwise(rest) if before == "--question"):
                tables = apply_overrides({}, [word for word in asked if word.startswith(f"{name}.")])
                fill(QUESTIONS[name](), tables.get(name, {}), name)


def test_the_page_of_prompts_lists_every_set():
    page = Path("docs/prompts.md").read_text()
    for name, splits in NAMED.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert all(f"`{split}`" in row for split in splits), name
        assert all(source.path.startswith("/") or f"`{source.path}`" in row for source in splits.values()), name
