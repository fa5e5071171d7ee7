"""What waits for a place is said, and not again and again."""

from collections import Counter

import pytest

from raypref.cluster import places
from raypref.cluster.placement import Bundle
from raypref.cluster.places import FIRST_WORD, Places


@pytest.fixture
def head(monkeypatch):
    """What the head of a cluster would tell: actors without a place, at a time that the test moves on."""
    told = {"waiting": frozenset[str](), "now": 0.0}
    monkeypatch.setattr(places, "actors_without_place", lambda: told["waiting"])
    monkeypatch.setattr(places, "draining_nodes", frozenset)
    monkeypatch.setattr(places, "actor_id", str)
    monkeypatch.setattr(places.time, "monotonic", lambda: told["now"])
    monkeypatch.setattr(Places, "awaited", lambda self: f"{len(self._waiting)} wait")
    return told


def test_who_waits_is_said_when_they_become_more_and_then_ever_more_rarely(head, caplog):
    watched = Places()
    for name in "abcd":
        watched.watch(name, Bundle("sampler", 1, 1, 1.0, 0.0))

    def said(waiting, seconds):
        """What is said while so many seconds pass."""
        caplog.clear()
        head["waiting"] = frozenset(waiting)
        for _ in range(int(seconds)):
            head["now"] += 1.0
            watched.refresh()
        return [record.getMessage() for record in caplog.records]

    assert said("abc", FIRST_WORD) == []  # a process may just be starting
    assert said("abc", 1) == ["waiting for 10 s: 3 wait"]
    assert said("ab", 5) == said("a", 3) == []  # fewer: it goes on
    assert said("a", FIRST_WORD) == ["waiting for 20 s: 1 wait"]
    assert said("a", FIRST_WORD) == []
    assert said("abcd", FIRST_WORD) == ["waiting for 40 s: 4 wait"]  # the old wait again, the new ones not yet
    assert said("abcd", 1) == ["waiting for 49 s: 4 wait"]
    assert said("", 100) == []


def test_who_is_only_slow_to_start_is_not_said_to_have_no_place(monkeypatch):
    monkeypatch.setattr(places, "actor_id", str)
    monkeypatch.setattr(places, "actors_without_place", lambda: frozenset("abcdl"))
    monkeypatch.setattr(places, "draining_nodes", frozenset)
    monkeypatch.setattr(places.ray, "nodes", lambda: [])
    monkeypatch.setattr(places.ray, "available_resources", lambda: {"CPU": 3.0})
    shape = frozenset({("CPU", 0.5), ("GPU", 0.333)})
    monkeypatch.setattr(places, "unplaced_demand", lambda: Counter({shape: 3}))
    watched = Places()
    assert watched.awaited() == ""
    for name in "abcd":
        watched.watch(name, Bundle("sampler", 1, 4, 0.5, 1 / 3))
    watched.watch("l", Bundle("learner", 1, 1, 0.5, 0.0))
    watched.refresh()
    unplaced, starting = watched.awaited().rsplit("; ", 1)
    assert unplaced == "no place for 3 samplers (0.5 CPU, 0.333333 GPU: no node would do); free: 3 CPU, 0 GPU"
    assert set(starting.removesuffix(" placed, and still being started by Ray").split(", ")) == {
        "1 sampler",
        "1 learner",
    }
