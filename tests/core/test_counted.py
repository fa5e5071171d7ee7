"""One thing is not several."""

from raypref.core.counted import counted


def test_only_one_thing_is_singular():
    assert [counted(number, "node") for number in (0, 1, 2)] == ["0 nodes", "1 node", "2 nodes"]
