"""What every published reward promises, on tiny networks loaded through the real path."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from raypref import rewards
from raypref.registry import named_classes
from raypref.rewards.base import Reward, StepAwareReward
from raypref.rewards.clip_towers import ClipTowers
from raypref.rewards.prompts import TOKENIZER_FILES
from tests.rewards import tiny

NAMES = ("clip", "pickscore", "hpsv2", "image_reward", "vp_score", "mps", "step_aware")
WITH_CHECKPOINT = ("hpsv2", "image_reward", "vp_score", "mps", "step_aware")
PROMPTS = ["a red cat", "no dog at all", "a red cat"]


def reward_class(name: str) -> type[Reward]:
    return named_classes(rewards, Reward)[name]


@pytest.fixture(scope="module", params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def settings(name, tmp_path_factory) -> dict[str, str]:
    return tiny.save(name, tmp_path_factory.mktemp(name))


@pytest.fixture(scope="module")
def reward(name, settings) -> Reward:
    return reward_class(name)(**settings)


def pictures(count: int = 3, height: int = 40, width: int = 56) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def networks(reward: Reward) -> list[torch.nn.Module]:
    """The networks that a reward holds, at any depth."""
    found, todo = [], [reward]
    while todo:
        value = todo.pop()
        if isinstance(value, torch.nn.Module):
            found.append(value)
        elif type(value).__module__.startswith("raypref.rewards"):
            todo += vars(value).values()
    return found


def test_each_picture_gets_a_score_of_its_own(reward):
    images = pictures()
    together = reward.score(images, PROMPTS)
    alone = torch.cat([reward.score(image[None], [prompt]) for image, prompt in zip(images, PROMPTS, strict=True)])
    assert together.shape == (3,)
    assert together.dtype == torch.float32
    assert len(set(together.tolist())) == 3
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_the_prompt_matters(reward):
    images = pictures(1).expand(2, -1, -1, -1)
    one, other = reward.score(images, ["a red cat", "zzz"]).tolist()
    assert one != pytest.approx(other, abs=1e-4)


def test_gradients_agree_with_finite_differences(name, settings):
    reward = reward_class(name)(**settings)
    for network in networks(reward):
        network.double()
    images = pictures(2).double().requires_grad_()
    (gradient,) = torch.autograd.grad(reward.score(images, PROMPTS[:2])[0], images)
    assert gradient[1].abs().max() == 0  # the other picture's
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    direction = direction / direction.norm()
    with torch.no_grad():
        up, down = (reward.score(images + step * direction, PROMPTS[:2])[0] for step in (1e-5, -1e-5))
    assert float((gradient * direction).sum()) == pytest.approx(float(up - down) / 2e-5, rel=1e-5, abs=1e-8)


def test_nothing_of_it_trains(reward):
    assert networks(reward)
    for network in networks(reward):
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_prompt_is_read_once(reward):
    reward.score(pictures(2), ["a cat", "a dog"])
    calls = []
    hooks = [
        module.register_forward_hook(lambda *_: calls.append(1))
        for network in networks(reward)
        for module in network.modules()
        if type(module).__name__ == "CLIPTextModel"
    ]
    reward.score(pictures(2), ["a dog", "a cat"])
    assert not calls
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_half_precision_files_load_in_the_precision_asked_for(name, settings, dtype, tmp_path):
    halved = tiny.save(name, tmp_path)
    if "checkpoint" in halved:
        state = torch.load(halved["checkpoint"], weights_only=True)
        state = state.get("state_dict", state)
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        save_file(state, tmp_path / "half.safetensors")
        halved["checkpoint"] = str(tmp_path / "half.safetensors")
    else:
        from transformers import CLIPModel

        CLIPModel.from_pretrained(halved["tower"]).half().save_pretrained(halved["tower"])
    reward = reward_class(name)(**halved, dtype=dtype)
    kinds = {parameter.dtype for network in networks(reward) for parameter in network.parameters()}
    assert kinds == {getattr(torch, dtype)}
    scores = reward.score(pictures(), PROMPTS)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, reward_class(name)(**settings).score(pictures(), PROMPTS), atol=0.3, rtol=0.05)


@pytest.mark.parametrize("broken", ["missing", "unknown"])
@pytest.mark.parametrize("name", WITH_CHECKPOINT)
def test_a_checkpoint_with_other_keys_is_refused(name, broken, tmp_path):
    settings = tiny.save(name, tmp_path)
    state = torch.load(settings["checkpoint"], weights_only=True)
    state = state.get("state_dict", state)
    key = next(
        key for key in state if key.endswith(("layers.1.mlp.fc1.bias", "blocks.1.mlp.fc1.bias", "1.mlp.c_fc.bias"))
    )
    if broken == "missing":
        del state[key]
    else:
        state[key.replace("fc1", "fc9").replace("c_fc", "c_fx")] = torch.zeros(3)
    torch.save(state, settings["checkpoint"])
    with pytest.raises(
        ValueError, match=rf"reward\.checkpoint: .*(?i:{'missing' if broken == 'missing' else 'unexpected'})"
    ):
        reward_class(name)(**settings)


@pytest.mark.parametrize("name", ["clip", "pickscore"])
def test_a_tower_without_all_its_weights_is_refused(name, tmp_path):
    from safetensors.torch import load_file

    settings = tiny.save(name, tmp_path)
    file = Path(settings["tower"]) / "model.safetensors"
    state = load_file(file)
    del state["visual_projection.weight"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"reward\.tower = .* it has no fitting visual_projection\.weight"):
        reward_class(name)(**settings)


def test_an_empty_tokenizer_is_refused(name, tmp_path):
    settings = tiny.save(name, tmp_path)
    folder = Path(settings["tokenizer"])
    from transformers import CLIPTokenizer

    CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[]).save_pretrained(folder)
    with pytest.raises(
        ValueError, match=r"reward\.tokenizer = .*: a tokenizer of 2 words, but the network was trained"
    ):
        reward_class(name)(**settings)


@pytest.mark.parametrize("name", WITH_CHECKPOINT)
def test_a_missing_checkpoint_says_what_to_run(name, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    settings = tiny.save(name, tmp_path) | {"checkpoint": "nobody/nothing/weights.pt"}
    with pytest.raises(
        OSError, match=r"reward\.checkpoint = .* run `hf download nobody/nothing weights\.pt` where there"
    ):
        reward_class(name)(**settings)
    with pytest.raises(
        OSError, match=r"reward\.checkpoint = 'weights\.pt': no such file; name a local file, or one on"
    ):
        reward_class(name)(**settings | {"checkpoint": "weights.pt"})


@pytest.mark.parametrize("setting", ["tower", "tokenizer"])
def test_a_missing_folder_says_what_to_run(name, setting, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    settings = tiny.save(name, tmp_path) | {setting: "nobody/nothing"}
    with pytest.raises(OSError, match=rf"reward\.{setting} = 'nobody/nothing': .*run `hf download nobody/nothing"):
        reward_class(name)(**settings)


def test_the_command_for_a_tokenizer_names_all_its_files_and_no_option_that_hf_ignores_beside_names(tmp_path):
    saved = {Path(tiny.save_clip_tokenizer(tmp_path / "clip")), Path(tiny.save_bert_tokenizer(tmp_path / "bert"))}
    files = {file.name for folder in saved for file in folder.iterdir()}
    assert files <= set(TOKENIZER_FILES.split())
    assert {"vocab.json", "merges.txt", "vocab.txt"} <= set(TOKENIZER_FILES.split())  # where there is no tokenizer.json
    commands = re.findall(r"hf download .*", Path("docs/rewards.md").read_text())
    assert len(commands) > 6
    assert not any("--include" in command for command in commands)


def test_a_checkpoint_that_is_more_than_tensors_is_not_unpickled(tmp_path):
    settings = tiny.save("hpsv2", tmp_path)
    torch.save({"state_dict": {}, "run": Path("x")}, settings["checkpoint"])
    with pytest.raises(ValueError, match=r"reward\.checkpoint = .*no file of tensors, and nothing else is unpickled"):
        reward_class("hpsv2")(**settings)


def test_hpsv2_sees_all_of_a_picture_that_is_not_square(tmp_path):
    reward = reward_class("hpsv2")(**tiny.save("hpsv2", tmp_path))
    images = pictures(1, 20, 80).requires_grad_()
    reward.score(images, ["a cat"]).sum().backward()
    assert (images.grad.abs().sum((0, 1, 2)) > 0).all()


def test_clip_towers_scale_is_that_of_the_logits(tmp_path):
    reward = reward_class("pickscore")(**tiny.save("pickscore", tmp_path))
    towers: ClipTowers = reward.towers
    same = reward_class("clip")(**tiny.save("clip", tmp_path / "clip"))
    torch.testing.assert_close(
        reward.score(pictures(), PROMPTS), same.score(pictures(), PROMPTS) * towers.model.logit_scale.exp()
    )


@pytest.fixture(scope="module")
def step_aware(tmp_path_factory) -> StepAwareReward:
    return reward_class("step_aware")(**tiny.save("step_aware", tmp_path_factory.mktemp("timed")))


def test_the_step_aware_model_knows_the_time(step_aware):
    images = pictures(1).expand(3, -1, -1, -1)
    scores = step_aware.score_at(images, ["a cat"] * 3, torch.tensor([0, 500, 501]))
    assert len({round(score, 5) for score in scores.tolist()}) == 3
    torch.testing.assert_close(step_aware.score(images, ["a cat"] * 3), scores[:1].expand(3), atol=1e-5, rtol=1e-5)


def test_without_modulation_the_step_aware_model_is_its_clip(step_aware):
    # Gates of one, shifts and scales of zero: what the authors start from when they fine-tune PickScore.
    network = step_aware.network
    kept = {key: value.clone() for key, value in network.state_dict().items()}
    width = network.model.config.vision_config.hidden_size
    for name, parameter in network.named_parameters():
        if "adaLN_modulation" in name:
            parameter.zero_()
            if "layers" in name and name.endswith("bias"):
                parameter[2 * width : 3 * width] = parameter[5 * width :] = 1
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = network.model.visual_projection(network.model.vision_model(pixel_values=pixels)[1])
    torch.testing.assert_close(network.images(pixels, torch.tensor([3, 700])), plain)
    network.load_state_dict(kept)
