"""A reward from a Python function of your own."""

import ast
import importlib.util
import symtable
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import AfterValidator, Field
from torch import Tensor

from raypref.registry import nearest
from raypref.rewards.base import Reward


def with_a_file(path: str) -> str:
    """`path`, where the file in it exists.

    Raises:
        ValueError: where it does not.
    """
    file = Path(path.rpartition(":")[0])
    if not file.is_file():
        raise ValueError(f"there is no file {file}; name a Python file and a function in it: my_reward.py:score")
    return path


def with_a_function(path: str) -> str:
    """`path`, where the file in it is Python and has that name, as far as can be told without running it.

    Raises:
        ValueError: where it has not.
    """
    file, _, name = with_a_file(path).rpartition(":")
    try:
        code = importlib.util.decode_source(Path(file).read_bytes())
        tree, table = ast.parse(code), symtable.symtable(code, file, "exec")
    except SyntaxError as problem:
        raise ValueError(f"{file}, line {problem.lineno}: {problem.msg}; mend it") from None
    except (OSError, ValueError) as problem:
        raise ValueError(f"{file} cannot be read as Python: {problem}") from None
    bound = [each for each in table.get_symbols() if each.is_assigned() or each.is_imported() or each.is_namespace()]
    if name not in {each.get_name() for each in bound} and not _has_star_import(tree):
        raise _missing(file, name, [each.get_name() for each in bound if each.is_namespace()])
    return path


def _has_star_import(tree: ast.Module) -> bool:
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return any(alias.name == "*" for node in imports for alias in node.names)


def _missing(file: str, name: str, functions: Sequence[str]) -> ValueError:
    public = [function for function in functions if not function.startswith("_")]
    return ValueError(f"{file} has no function {name!r}{nearest(name, public)}")


class Function(Reward):
    """`path = "my_reward.py:score"` scores with

        def score(images, prompts):  # float32 [B 3 H W] in [0, 1], and B strings
            return ...  # B numbers, higher is better: a tensor, or anything that becomes one

    The file is run once in every reward worker, with the rights of the run. A tensor that is computed from `images`
    in torch carries their gradient.
    """

    name: ClassVar[str] = "function"
    unit: ClassVar[str] = "your own"
    range: ClassVar[str] = "your own"
    differentiable: ClassVar[bool] = True

    def __init__(
        self, path: Annotated[str, Field(pattern=r"\.py:[A-Za-z_]\w*$"), AfterValidator(with_a_function)]
    ) -> None:
        """Runs the file.

        Args:
            path: a Python file and the name of a function in it.

        Raises:
            ValueError: where there is no such file or function.
        """
        self.path = with_a_file(path)
        self.function = load_function(path)

    def score(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        """See the class.

        Raises:
            ValueError: where the function does not return one number a picture, or no gradient where one is needed.
        """
        scores = torch.as_tensor(self.function(images, list(prompts)), dtype=torch.float32)
        if scores.shape != (len(images),):
            raise ValueError(
                f"reward.path = {self.path!r}: it returned scores of shape {list(scores.shape)} for {len(images)} "
                "pictures; return one number a picture"
            )
        if images.requires_grad and torch.is_grad_enabled() and not scores.requires_grad:
            raise ValueError(
                f"reward.path = {self.path!r}: its scores carry no gradient, and the method follows it; compute them "
                "from `images` in torch, or set method.search.guidance.kind = 'none'"
            )
        return scores


def load_function(path: str) -> Callable[[Tensor, list[str]], Any]:
    """The function at "file.py:name".

    Raises:
        ValueError: where the file has no such function.
    """
    file, _, name = path.rpartition(":")
    spec = importlib.util.spec_from_file_location(f"reward_function_{Path(file).stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickles in it look for it
    spec.loader.exec_module(module)
    if not callable(function := vars(module).get(name)):
        raise _missing(file, name, [key for key, value in vars(module).items() if callable(value)])
    return function
