"""Nothing in the package waits for Ray without a limit."""

import ast
from pathlib import Path

import pytest

import raypref

FILES = sorted(Path(raypref.__file__).parent.glob("cluster/*.py"))


def waits(tree: ast.AST) -> list[ast.Call]:
    """Calls of ray.get and ray.wait."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and (node.func.value.id, node.func.attr) in {("ray", "get"), ("ray", "wait")}
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_wait_has_a_timeout(file):
    for call in waits(ast.parse(file.read_text())):
        assert "timeout" in {keyword.arg for keyword in call.keywords}, f"line {call.lineno}"


def test_there_are_waits_to_look_at():
    assert sum(len(waits(ast.parse(file.read_text()))) for file in FILES) >= 5
