"""A user's own Python function as a reward."""

import pytest
import torch

from raypref.rewards.function import Function, with_a_function

CODE = """
import torch

def red(images, prompts):
    return images[:, 0].mean((1, 2)) + torch.tensor([len(prompt) for prompt in prompts])

def plain(images, prompts):
    return [float(image.mean()) for image in images]

def one_too_few(images, prompts):
    return images[1:].mean((1, 2, 3))

number = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_reward.py"
    path.write_text(CODE)
    return path


def pictures() -> torch.Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_it_scores_with_pictures_and_prompts(file):
    wanted = pictures()[:, 0].mean((1, 2)) + torch.tensor([1, 3])
    torch.testing.assert_close(Function(f"{file}:red").score(pictures(), ("a", "bcd")), wanted)


def test_numbers_will_do(file):
    found = Function(f"{file}:plain").score(pictures(), ("a", "b"))
    torch.testing.assert_close(found, pictures().mean((1, 2, 3)))
    assert found.dtype == torch.float32


def test_gradients_pass_through_torch(file):
    images = pictures().requires_grad_()
    Function(f"{file}:red").score(images, ("a", "b")).sum().backward()
    torch.testing.assert_close(images.grad[:, 0], torch.full((2, 8, 8), 1 / 64))
    assert images.grad[:, 1:].abs().max() == 0


def test_scores_without_a_gradient_are_refused_where_one_is_needed(file):
    with pytest.raises(ValueError, match=r"its scores carry no gradient, and the method follows it; compute them"):
        Function(f"{file}:plain").score(pictures().requires_grad_(), ("a", "b"))


def test_a_wrong_count_is_refused(file):
    with pytest.raises(ValueError, match=r"returned scores of shape \[1\] for 2 pictures; return one number a picture"):
        Function(f"{file}:one_too_few").score(pictures(), ("a", "b"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rad", r"has no function 'rad': did you mean 'red'\?"),
        ("number", "has no function 'number': choose from red, "),
    ],
)
def test_a_missing_function_is_named(file, name, said):
    with pytest.raises(ValueError, match=said):
        Function(f"{file}:{name}")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*nowhere\.py; name a Python file and a function in it"):
        Function(f"{tmp_path}/nowhere.py:score")


SAID_BEFORE = """
import torch as t
from math import sqrt
if t:
    scored = sqrt
def score(images, prompts):
    inner = 1
"""


@pytest.mark.parametrize("name", ["t", "sqrt", "scored", "score"])
def test_what_is_bound_at_the_top_level_is_there(tmp_path, name):
    (tmp_path / "mine.py").write_text(SAID_BEFORE)
    assert with_a_function(f"{tmp_path}/mine.py:{name}") == f"{tmp_path}/mine.py:{name}"


@pytest.mark.parametrize(
    ("code", "name", "said"),
    [
        (SAID_BEFORE, "scores", r"mine\.py has no function 'scores': did you mean 'score'\?$"),
        (SAID_BEFORE, "inner", r"mine\.py has no function 'inner': "),
        (SAID_BEFORE, "torch", r"mine\.py has no function 'torch': "),
        ("def score(:", "score", r"mine\.py, line 1: "),
        ("x = '\0'", "score", r"mine\.py"),
    ],
)
def test_what_is_not_there_is_told_without_running_the_file(tmp_path, code, name, said):
    (tmp_path / "mine.py").write_text(f"{code}\nraise RuntimeError('it was run')\n")
    with pytest.raises(ValueError, match=said):
        with_a_function(f"{tmp_path}/mine.py:{name}")


def test_of_a_star_import_nothing_can_be_said(tmp_path):
    (tmp_path / "mine.py").write_text("from math import *\n")
    assert with_a_function(f"{tmp_path}/mine.py:anything")
