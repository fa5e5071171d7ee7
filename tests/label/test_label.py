"""A person's choices, over HTTP: kept at once, taken back, gone on with after a kill, written in the common schema."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raypref.checks import ConfigError
from raypref.data.open_table import open_table
from raypref.data.preference_source import DataConfig
from raypref.data.preferences import UnusableSet
from raypref.data.selection import select
from raypref.label import run as serving
from raypref.label.desk import Desk
from raypref.label.run import serve
from raypref.label.server import LabelServer
from tests.data.labelled import PAIRS, write_folder, write_parquet

CONFIG = DataConfig()


class Browser:
    """What the page asks for."""

    def __init__(self, address: str) -> None:
        self.address = address

    @classmethod
    def of(cls, server: LabelServer) -> "Browser":
        return cls(f"http://127.0.0.1:{server.server_port}")

    def ask(self, path: str, body: dict[str, Any] | None = None, **headers: str) -> tuple[int, bytes]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        asked = urllib.request.Request(self.address + path, data, headers)
        try:
            with urllib.request.urlopen(asked, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as problem:
            return problem.code, problem.read()

    def state(self) -> dict[str, Any]:
        return json.loads(self.ask("/state")[1])

    def choose(self, choice: str, row: int | None = None) -> tuple[int, dict[str, Any]]:
        status, told = self.ask("/answer", {"row": self.state()["row"] if row is None else row, "choice": choice})
        return status, json.loads(told)

    def undo(self, row: int) -> int:
        return self.ask("/undo", {"row": row})[0]

    def side(self, row: int, number: int) -> str:
        """The side on which picture `number` of the row is shown."""
        (side,) = [
            side for side in ("left", "right") if self.ask(f"/picture/{row}/{side}")[1] == PAIRS[row][f"jpg_{number}"]
        ]
        return side


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "chosen.parquet"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "set.parquet")


@pytest.fixture
def open_browser(table: Path, output: Path) -> Iterator[Any]:
    """Starts `raypref label`'s server anew, as after a kill: what was there before is left as it is."""
    servers: list[LabelServer] = []

    def start(seed: int = 0) -> Browser:
        servers.append(LabelServer(Desk(open_table(table), CONFIG, output, seed), "127.0.0.1", 0))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return Browser.of(servers[-1])

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_choices_become_labels_of_the_pictures_that_were_shown(open_browser, output):
    browser = open_browser()
    assert browser.ask("/")[1].startswith(b"<!doctype html>")
    assert browser.state() == {"done": 0, "total": 6, "last": None, "row": 0, "caption": "a cat"}
    browser.choose(browser.side(0, 1))
    browser.choose(browser.side(1, 0))
    browser.choose("tie")
    browser.choose("neither")
    browser.choose(browser.side(4, 0))
    status, told = browser.choose(browser.side(5, 1))
    assert (status, told) == (200, {"done": 6, "total": 6, "last": 5})
    found = open_table(output)  # it is written with the last answer
    assert list(found.pictures(("jpg_0", "jpg_1"), range(6))) == [(row["jpg_0"], row["jpg_1"]) for row in PAIRS]
    assert found.values("caption") == [row["caption"] for row in PAIRS]
    assert found.values("label_0") == [0.0, 1.0, 0.5, 0.0, 1.0, 0.0]
    assert found.values("has_label") == [True, True, True, False, True, True]
    selection = select(found, CONFIG)
    assert [(c.row, c.swapped) for c in selection.chosen] == [(0, True), (1, False), (4, False), (5, True)]
    assert selection.left_out == {"a tie": 1, "no label": 1}


def test_sides_are_drawn_by_seed_and_row(open_browser, output):
    sides = [open_browser().side(row, 0) for row in range(6)]
    assert set(sides) == {"left", "right"}
    assert [open_browser().side(row, 0) for row in reversed(range(6))] == sides[::-1]
    others = [open_browser(seed).side(row, 0) for seed in (1,) for row in range(6)]
    assert others != sides


def test_an_answer_can_be_taken_back_again_and_again(open_browser):
    browser = open_browser()
    browser.choose("left")
    browser.choose("right")
    assert browser.undo(0) == 409  # not the last
    assert browser.undo(1) == 200
    assert browser.undo(1) == 409  # a key pressed twice
    assert browser.state()["row"] == 1
    assert browser.undo(0) == 200
    assert browser.state() | {"caption": ""} == {"done": 0, "total": 6, "last": None, "row": 0, "caption": ""}


def test_answers_outlive_a_kill_and_a_line_that_was_cut_off(open_browser, output):
    first = open_browser()
    first.choose("tie")
    first.choose(first.side(1, 1))
    log = output.with_name("chosen.parquet.answers.jsonl")
    log.write_bytes(log.read_bytes() + b'{"row": 2, "cho')
    again = open_browser()  # the first was never closed
    assert again.state()["row"] == 2
    again.choose("neither")
    third = open_browser()
    assert third.state()["row"] == 3
    assert third.undo(2) == 200


def test_an_answer_to_another_row_changes_nothing(open_browser):
    browser = open_browser()
    browser.choose("left", row=0)
    status, told = browser.choose("right", row=0)
    assert status == 409
    assert told["row"] == 1
    assert "row 0 is not the one to be answered, 1 is" in told["error"]


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/answer", {"row": 0, "choice": "best"}, {}, 400),
        ("/answer", {"choice": "left"}, {}, 400),
        ("/answer", [], {}, 400),
        ("/answer", {"row": 0, "choice": "left"}, {"Content_Type": "text/plain"}, 400),
        ("/answer", {"row": 0, "choice": "left"}, {"Host": "evil.example"}, 403),
        ("/picture/99/left", None, {}, 404),
        ("/picture/0/up", None, {}, 404),
        ("/../pyproject.toml", None, {}, 404),
        ("/state", None, {"Host": "evil.example"}, 403),
    ],
)
def test_what_is_wrong_is_refused_and_changes_nothing(open_browser, path, body, headers, status):
    browser = open_browser()
    assert browser.ask(path, body, **headers)[0] == status
    assert browser.state()["done"] == 0


def test_answers_about_another_set_or_seed_are_refused(open_browser, tmp_path, output):
    open_browser().choose("left")
    with pytest.raises(UnusableSet, match="another set, or with another seed"):
        open_browser(seed=1)
    other = write_folder(tmp_path / "other")
    with pytest.raises(UnusableSet, match="another set"):
        Desk(open_table(other), CONFIG, output, 0)


def test_a_copy_of_the_set_can_be_gone_on_with_but_none_with_other_captions(open_browser, tmp_path, table, output):
    open_browser().choose("left")
    (tmp_path / "copy").mkdir()
    copy = shutil.copy(table, tmp_path / "copy")
    os.utime(copy, ns=(1, 1))
    assert Desk(open_table(Path(copy)), CONFIG, output, 0).row() == 1
    other = replace(CONFIG, caption="has_label")  # as if other prompts had been written into a file of the same size
    with pytest.raises(UnusableSet, match="another set"):
        Desk(open_table(Path(copy)), other, output, 0)


def test_a_split_can_be_named(tmp_path, monkeypatch):
    (tmp_path / "pairs").mkdir()
    for count, split in enumerate(("train", "test"), start=1):
        write_parquet(tmp_path / "pairs" / f"{split}-00000-of-00001.parquet", PAIRS[:count])
    told: list[str] = []
    monkeypatch.setattr(serving, "_until_ended", lambda server: None)
    serve(tmp_path / "pairs", tmp_path / "out" / "out.parquet", ["split=test"], 0, 0, told.append)
    assert told[0].startswith("0 of 2 pairs")
    with pytest.raises(ConfigError, match="the splits test, train"):
        serve(tmp_path / "pairs", tmp_path / "out" / "out.parquet", [], 0, 0, told.append)


def test_a_broken_picture_is_told_and_can_be_passed_over(tmp_path, output):
    folder = write_folder(tmp_path / "folder")
    (folder / "0_jpg_0.png").write_bytes(b"<script>")
    desk = Desk(open_table(folder), CONFIG, output, 0)
    server = LabelServer(desk, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = Browser.of(server)
    assert sorted(browser.ask(f"/picture/0/{side}")[0] for side in ("left", "right")) == [200, 404]
    browser.choose("neither")
    assert desk.export() == 1
    server.shutdown()
    server.server_close()
    with pytest.raises(UnusableSet, match="no row to train on: {'no label': 1}".replace("{", r"\{")):
        select(open_table(output), CONFIG)


@pytest.mark.parametrize(
    ("words", "output", "said"),
    [
        ([], "out.csv", "the result is Parquet"),
        (["caption=prompt"], "out.parquet", "no column 'prompt'"),
        (['images=["jpg_0"]', "labels=[]"], "out.parquet", "name two columns, to choose between"),
        (["captoin=x"], "out.parquet", "did you mean 'caption'"),
    ],
)
def test_what_cannot_be_served_is_one_error(table, tmp_path, words, output, said):
    with pytest.raises(ConfigError, match=said):
        serve(table, tmp_path / output, words, 0, 0, print)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder of pairs, beside a link to it, another set and a folder that is named like one."""
    (tmp_path / "pairs").mkdir()
    (tmp_path / "link").symlink_to("pairs")
    (tmp_path / "folder.parquet").mkdir()
    write_parquet(tmp_path / "other.parquet", PAIRS[:1])
    write_parquet(tmp_path / "pairs" / "set.parquet")
    return tmp_path / "pairs"


def contents(folder: Path) -> dict[Path, bytes]:
    """Of what is not a lock: those stay."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock"}


@pytest.mark.parametrize(
    ("path", "output", "said"),
    [
        ("pairs/set.parquet", "pairs/set.parquet", "itself or lies in it"),
        ("link/set.parquet", "pairs/set.parquet", "itself or lies in it"),
        ("pairs", "pairs/set.parquet", "itself or lies in it"),
        ("pairs", "pairs/chosen.parquet", "itself or lies in it"),
        ("pairs", "link/below/chosen.parquet", "itself or lies in it"),
        (
            "pairs",
            "other.parquet",
            r"exists, and `label` did not write it, .* no other\.parquet\.answers\.jsonl beside it",
        ),
        ("pairs", "folder.parquet", "is a folder; name a new file"),
        ("pairs", "other.parquet/chosen.parquet", "choose another output"),
    ],
)
def test_a_result_replaces_or_joins_nothing_that_is_not_its_own(pairs, path, output, said):
    before = contents(pairs.parent)
    with pytest.raises(ConfigError, match=said):
        serve(pairs.parent / path, pairs.parent / output, [], 0, 0, pytest.fail)
    assert contents(pairs.parent) == before
    assert [file.name for file in pairs.iterdir()] == ["set.parquet"]


def test_a_result_is_gone_on_with_beside_the_set(table, output, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(serving, "_until_ended", lambda server: server.desk.answer(server.desk.row(), "tie"))
    for count in (1, 2):
        serve(table, output, [], 0, 0, told.append)
        assert told[-1] == f"{count} pairs: {output}"
        assert len(open_table(output)) == count


def test_without_answers_nothing_is_written_or_said_to_be(table, output, monkeypatch):
    told, before = list[str](), contents(table.parent)
    monkeypatch.setattr(serving, "_until_ended", lambda server: None)
    serve(table, output, [], 0, 0, told.append)
    assert told[-1] == f"no answers, so {output} is not written"
    assert contents(table.parent) == before


@pytest.mark.parametrize("port", [-1, 80000, None])
def test_a_port_that_cannot_be_listened_at_is_one_error_and_leaves_nothing(table, output, port):
    before = contents(table.parent)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1] if port is None else port
        with pytest.raises(ConfigError, match=f"--port {port}: .*; name another one"):
            serve(table, output, [], 0, port, pytest.fail)
    assert contents(table.parent) == before


@pytest.mark.slow
def test_the_command_goes_on_after_a_kill_and_writes_when_it_is_ended(table, output):
    def start() -> tuple[subprocess.Popen, str]:
        command = [sys.executable, "-m", "raypref.cli", "label", str(table), str(output), "--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = process.stdout.readline()
        return process, line.split(" choose at ")[1].strip()

    first, address = start()
    browser = Browser(address)
    browser.choose("left")
    browser.choose("tie")
    first.kill()
    first.wait(20)
    assert not output.exists()
    second, address = start()
    browser = Browser(address)
    assert browser.state()["done"] == 2
    browser.choose("neither")
    second.terminate()
    assert f"3 pairs: {output}" in second.communicate(timeout=60)[0]
    assert second.returncode == 0
    assert open_table(output).values("has_label") == [True, True, False]
