"""What each reward's network is given, pixel by pixel and token by token, against rules written out here in float64.

The oracles share no line with raypref.rewards: kernels, means and lengths are those of the papers' codes.
"""

import math

import numpy as np
import pytest
import torch

from raypref import rewards
from raypref.registry import named_classes
from raypref.rewards.base import Reward
from raypref.rewards.blip_scorer import blip_configs
from raypref.rewards.hpsv2 import cleaned
from raypref.rewards.pixels import as_pil, clip_pixels, padded_pixels
from raypref.rewards.prompt_match import fitted
from tests.rewards import tiny
from tests.rewards.test_published import networks

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's CLIP
CROPPED = ("aesthetic", "clip", "pickscore", "image_reward", "vp_score", "mps")
SHAPES = ((40, 56), (56, 40), (61, 45), (20, 45), (24, 24))


def bicubic(x: float, a: float) -> float:
    """Keys' kernel."""
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def weights(before: int, after: int, kernel, reach: int) -> np.ndarray:
    """[after before] as PIL resizes: the kernel is as wide as the pixels that it makes, and cut at the borders."""
    scale = before / after
    wide, matrix = max(scale, 1.0), np.zeros((after, before))
    for row in range(after):
        centre = (row + 0.5) * scale
        first, last = max(0, int(centre - reach * wide + 0.5)), min(before, int(centre + reach * wide + 0.5))
        matrix[row, first:last] = [kernel((column + 0.5 - centre) / wide) for column in range(first, last)]
    return matrix / matrix.sum(1, keepdims=True)


def hard_weights(before: int, after: int) -> np.ndarray:
    """[after before] without antialiasing: four taps, a = -0.75, borders repeated."""
    matrix = np.zeros((after, before))
    for row in range(after):
        centre = (row + 0.5) * before / after - 0.5
        for tap in range(math.floor(centre) - 1, math.floor(centre) + 3):
            matrix[row, min(max(tap, 0), before - 1)] += bicubic(centre - tap, -0.75)
    return matrix


def resized(images: np.ndarray, shape: tuple[int, int], antialias: bool) -> np.ndarray:
    def matrix(before: int, after: int) -> np.ndarray:
        return weights(before, after, lambda x: bicubic(x, -0.5), 2) if antialias else hard_weights(before, after)

    rows, columns = (matrix(*sides) for sides in zip(images.shape[-2:], shape, strict=True))
    return rows @ images @ columns.T


def standardised(images: np.ndarray) -> np.ndarray:
    return (images - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]


def cropped(images: np.ndarray, size: int, antialias: bool = True) -> np.ndarray:
    """Short side to `size`, long side rounded down, centre crop."""
    height, width = images.shape[-2:]
    short = min(height, width)
    big = resized(images, (size * height // short, size * width // short), antialias).clip(0, 1)
    top, left = (round((side - size) / 2) for side in big.shape[-2:])
    return standardised(big[..., top : top + size, left : left + size])


def bordered(images: np.ndarray, size: int, antialias: bool = True) -> np.ndarray:
    """Long side to `size`, black borders, nothing clamped."""
    height, width = images.shape[-2:]
    long = max(height, width)
    small = resized(images, (round(height * size / long), round(width * size / long)), antialias)
    canvas = np.zeros((*images.shape[:-2], size, size))
    top, left = ((size - side) // 2 for side in small.shape[-2:])
    canvas[..., top : top + small.shape[-2], left : left + small.shape[-1]] = small
    return standardised(canvas)


ORACLES = (
    dict.fromkeys(CROPPED, cropped)
    | {"step_aware": lambda images, size: cropped(images, size, antialias=False)}
    | {"hpsv2": bordered}
)


def pictures(shape: tuple[int, int]) -> torch.Tensor:
    """Noise, and hard saturated edges, at which bicubic overshoots; some rows and columns odd."""
    noise = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(0))
    return torch.cat([noise, (noise > 0.5).float(), torch.ones(1, 3, *shape) * torch.tensor(MEAN)[:, None, None]])


def reward_of(name: str, folder) -> Reward:
    return named_classes(rewards, Reward)[name](**tiny.save(name, folder))


def seen(reward: Reward, kind: type[torch.nn.Module], images: torch.Tensor, prompts: list[str]) -> list[torch.Tensor]:
    """What the first layer of that kind in each network of the reward is given."""
    found: list[torch.Tensor] = []
    modules = [module for network in networks(reward) for module in network.modules()]
    words = tiny.WORDS if kind is torch.nn.Embedding else None
    chosen = next(each for each in modules if isinstance(each, kind) and getattr(each, "num_embeddings", None) == words)
    hook = chosen.register_forward_pre_hook(lambda _, given: found.append(given[0].detach().clone()))
    reward.score(images, prompts)
    hook.remove()
    return found


@pytest.mark.parametrize("name", ORACLES)
def test_pictures_are_prepared_by_the_published_rule(name, tmp_path):
    reward, size = reward_of(name, tmp_path), 28 if name == "aesthetic" else 32
    for shape in SHAPES:
        images = pictures(shape)
        (found,) = seen(reward, torch.nn.Conv2d, images, ["a cat", "a dog", "a cat"])
        wanted = torch.from_numpy(ORACLES[name](images.double().numpy(), size)).float()
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)


def test_hpsv2_s_older_way_resizes_without_antialiasing(tmp_path):
    settings = tiny.save("hpsv2", tmp_path) | {"antialias": False}
    reward, images = named_classes(rewards, Reward)["hpsv2"](**settings), pictures((40, 56))
    (found,) = seen(reward, torch.nn.Conv2d, images, ["a", "b", "c"])
    wanted = torch.from_numpy(bordered(images.double().numpy(), 32, antialias=False)).float()
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)


@pytest.mark.parametrize("prepare", [clip_pixels, padded_pixels])
def test_published_means_and_deviations(prepare):
    mean, std = (torch.tensor(values, dtype=torch.float64)[None, :, None, None] for values in (MEAN, STD))
    levels = torch.tensor([0.0, 1.0], dtype=torch.float64)[:, None, None, None].expand(2, 3, 24, 24)
    torch.testing.assert_close(prepare(levels, 24), (levels - mean) / std, atol=1e-6, rtol=0)


def test_the_long_side_is_rounded_down_from_the_exact_ratio():
    # 224 * 360 / 320 is 252; in floating point 224 / 320 * 360 is a little less.
    images = pictures((32, 36))[:1].double()
    wanted = cropped(images.numpy(), 28)  # 28 * 36 / 32 = 31.5
    torch.testing.assert_close(clip_pixels(images, 28), torch.from_numpy(wanted), atol=1e-6, rtol=0)
    images = pictures((20, 45))[:1].double()
    wanted = cropped(images.numpy(), 28)  # 63 exactly
    torch.testing.assert_close(clip_pixels(images, 28), torch.from_numpy(wanted), atol=1e-6, rtol=0)


def test_pil_gets_the_nearest_of_256_levels():
    levels = torch.tensor([-0.2, 0.0, 0.1, 0.499, 0.6, 1.0, 1.7]).expand(3, 1, 7)
    assert np.asarray(as_pil(levels))[0, :, 0].tolist() == [0, 0, 26, 127, 153, 255, 255]


def test_the_tiny_world_s_classifiers_see_64_pixels_smoothly_resized():
    images = pictures((100, 50))[:1]
    triangle = [weights(side, 64, lambda x: max(0.0, 1 - abs(x)), 1) for side in (100, 50)]
    wanted = triangle[0] @ images.double().numpy() @ triangle[1].T
    torch.testing.assert_close(fitted(images), torch.from_numpy(wanted).float(), atol=1e-5, rtol=0)
    assert torch.equal(fitted(torch.ones(1, 3, 64, 64).half()), torch.ones(1, 3, 64, 64))


LETTERS = "abcdefghijklmnopqrstuvwxyz,.'-!"
START, END = 62, 63


def clip_ids(words: str, padded: int = 0) -> list[int]:
    """A character a token, the last of a word another than within it; cut after twelve with the end of the text."""
    tokens = [LETTERS.index(letter) + (31 if place == len(word) - 1 else 0)
              for word in words.split() for place, letter in enumerate(word)]  # fmt: skip
    ids = [START, *tokens[:10], END]
    return ids + [END] * (padded - len(ids))


LONG = "many  WORDS of letters"
SAME = "many words of letters"


@pytest.mark.parametrize("name", ["clip", "pickscore", "step_aware", "hpsv2"])
def test_clips_read_a_prompt_to_its_end_or_the_tower_s_and_keep_its_last_token(name, tmp_path):
    reward, images = reward_of(name, tmp_path), pictures((32, 32))
    short, long, _ = seen(reward, torch.nn.Embedding, images, ["A cat", LONG, "b"])
    assert short.tolist() == [clip_ids("a cat")]
    assert long.tolist() == [clip_ids(SAME)]
    assert long.shape == (1, 12)


def test_mps_reads_prompts_and_its_condition_padded(tmp_path):
    first, second, *_, condition = seen(reward_of("mps", tmp_path), torch.nn.Embedding, pictures((32, 32)),
                                        ["A cat", LONG, "b"])  # fmt: skip
    assert first.tolist() == [clip_ids("a cat", padded=12)]
    assert second.tolist() == [clip_ids(SAME, padded=12)]
    assert condition[0, :6].tolist() == clip_ids("light ,")[:6]


@pytest.mark.parametrize("name", ["image_reward", "vp_score"])
def test_image_reward_reads_35_tokens_of_the_prompt_as_it_is(name, tmp_path):
    reward = reward_of(name, tmp_path)
    (ids,) = seen(reward, torch.nn.Embedding, pictures((32, 32)), ["A &amp; b", "a " * 50, "b"])
    unknown, a, b = 1, 5, 6
    # BERT's tokenizer lowers cases; nothing else is changed on the way: what HTML escapes stays five characters.
    assert ids[0].tolist() == [2, a, unknown, a, 31 + 12, 31 + 15, unknown, b, 3] + [0] * 26
    assert ids[1].tolist() == [2] + [a] * 33 + [3]
    mask = reward.scorer._tokens(["A &amp; b", "a " * 50])[1]
    assert mask.sum(1).tolist() == [9, 35]


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("A  Red\tCAT\n", "a red cat"),
        ("a &amp;amp; b &lt;3", "a & b <3"),
        ("1 < 2 &amp;amp; 3", "1 < 2 & 3"),  # where a "<" stands, ftfy leaves entities alone
        ("“curly” quotes and it’s", '"curly" quotes and it\'s'),
        ("mojibake: itâ€™s cafÃ©", "mojibake: it's café"),
        ("ﬁsh", "fish"),
    ],
)
def test_hpsv2_cleans_prompts_as_open_clip_does(prompt, wanted):
    assert cleaned(prompt) == wanted


def test_hpsv2_alone_cleans(tmp_path):
    prompts = ["It’s", "b", "c"]
    hpsv2, clip = (
        seen(reward_of(name, tmp_path / name), torch.nn.Embedding, pictures((32, 32)), prompts)[0].tolist()
        for name in ("hpsv2", "clip")
    )
    assert hpsv2 == clip_ids_of("it's")
    assert clip != hpsv2


def clip_ids_of(word: str) -> list[list[int]]:
    """A word that CLIP's tokenizer splits before the apostrophe."""
    stem, rest = word.split("'")
    return [clip_ids(f"{stem} '{rest}")]


@torch.no_grad()
def test_scores_are_the_published_formulas_of_what_is_seen(tmp_path):
    images, prompts = pictures((40, 56)), ["a cat", "a dog", "it is"]
    reward = reward_of("image_reward", tmp_path / "image_reward")
    pixels = torch.from_numpy(cropped(images.double().numpy(), 32)).float()
    raw = reward.scorer.of_tokens(pixels, *reward.scorer._tokens(prompts)).double()
    wanted = (raw - 0.16717362830052426) / 1.0333394966054072
    torch.testing.assert_close(reward.score(images, prompts).double(), wanted, atol=1e-4, rtol=0)
    for name, oracle in (("clip", cropped), ("hpsv2", bordered)):
        towers = (reward := reward_of(name, tmp_path / name)).towers
        pixels = torch.from_numpy(oracle(images.double().numpy(), 32)).float()
        texts = [towers.of_ids(torch.tensor([clip_ids(prompt)]))[0] for prompt in prompts]
        wanted = torch.nn.functional.cosine_similarity(towers.images(pixels), torch.stack(texts))
        torch.testing.assert_close(reward.score(images, prompts), wanted, atol=1e-5, rtol=0)


def test_image_reward_s_norms_are_as_gentle_as_blip_s():
    """transformers' default for pictures is ten times as large, and costs 3e-5 of a score."""
    vision, text = blip_configs("")
    assert (vision.layer_norm_eps, text.layer_norm_eps) == (1e-6, 1e-12)
