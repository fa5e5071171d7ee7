"""One set in three formats is one set; what is wrong with a file is said of that file."""

import io
import json
import os
import tarfile
from dataclasses import replace

import pyarrow as pa
import pytest
from pyarrow import parquet

from raypref.data.open_table import open_table
from raypref.data.preference_source import DataConfig
from raypref.data.preferences import UnusableSet
from raypref.data.selection import select
from tests.data.labelled import PAIRS, pair, picture, write_folder, write_parquet, write_tar

WRITERS = {"parquet": write_parquet, "folder": write_folder, "tar": write_tar}
CONFIG = DataConfig()


@pytest.fixture(params=WRITERS)
def path(request, tmp_path):
    return WRITERS[request.param](tmp_path / f"set{'' if request.param == 'folder' else f'.{request.param}'}")


def test_every_format_gives_the_same_rows_and_pictures(path):
    table = open_table(path)
    assert len(table) == 6
    assert table.values("caption") == [row["caption"] for row in PAIRS]
    assert [row for group in table.groups() for row in group] == list(range(6))
    for group in table.groups():
        rows = list(group)[::2]
        found = list(table.pictures(("jpg_1", "jpg_0"), rows))
        assert found == [(PAIRS[row]["jpg_1"], PAIRS[row]["jpg_0"]) for row in rows]


def test_a_selection_tells_winners_and_counts_what_it_leaves_out(path):
    found = select(open_table(path), CONFIG)
    assert [(c.row, c.prompt, c.label, c.swapped) for c in found.chosen] == [
        (0, "a cat", 1.0, False),
        (1, "a dog", 1.0, True),
        (3, "a cat", 1.0, True),
        (5, "a hen", 1.0, False),
    ]
    assert found.left_out == {"a tie": 1, "no label": 1}


def test_ties_are_kept_and_duplicates_dropped_where_asked(path):
    found = select(open_table(path), replace(CONFIG, ties="keep", duplicate_prompts="first"))
    assert [(c.row, c.label) for c in found.chosen] == [(0, 1.0), (1, 1.0), (2, 0.5), (5, 1.0)]
    assert found.left_out == {"no label": 1, "the prompt of an earlier row": 1}


def test_single_pictures_are_desirable_above_zero_or_without_a_label(path):
    single = replace(CONFIG, images=("jpg_1",), labels=("label_1",))
    assert [c.label for c in select(open_table(path), single).chosen] == [0.0, 1.0, 1.0, 1.0, 0.0]
    unlabelled = select(open_table(path), replace(single, labels=()))
    assert {c.label for c in unlabelled.chosen} == {1.0}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (replace(CONFIG, images=("jpg_0", "jpg_2")), r"no column 'jpg_2' \(images\): did you mean 'jpg_"),
        (replace(CONFIG, caption="prompt"), r"no column 'prompt' \(caption\)"),
        (replace(CONFIG, labels=("label_0", "best")), r"no column 'best' \(labels\)"),
        (replace(CONFIG, labels=("label_0", "caption")), "row 0 has the label 'a cat', and no number"),
    ],
)
def test_columns_that_are_missing_are_named(path, config, said):
    with pytest.raises(UnusableSet, match=said):
        select(open_table(path), config)


def test_a_set_without_a_usable_row_says_why(tmp_path):
    rows = [pair(0, "a", 0.5, 0.5), pair(1, "b", None, None)]
    with pytest.raises(UnusableSet, match=r"no row to train on: \{'a tie': 1, 'no label': 1\}"):
        select(open_table(write_folder(tmp_path / "set", rows)), CONFIG)


def test_identity_changes_with_any_file(path):
    before = open_table(path).identity()
    assert open_table(path).identity() == before
    touched = path / "3_jpg_1.png" if path.is_dir() else path
    os.utime(touched, ns=(1, 1))
    assert open_table(path).identity() != before


def test_several_parquet_files_are_one_set(tmp_path):
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data" / "train-0.parquet", PAIRS[:2], 1)
    write_parquet(tmp_path / "data" / "train-1.parquet", PAIRS[2:], 3)
    table = open_table(tmp_path)
    assert table.groups() == (range(0, 1), range(1, 2), range(2, 5), range(5, 6))
    assert list(table.pictures(("jpg_0",), [3, 4])) == [(PAIRS[3]["jpg_0"],), (PAIRS[4]["jpg_0"],)]


def test_rows_deep_in_a_large_group_are_found(tmp_path):
    table = open_table(write_parquet(tmp_path / "set.parquet", PAIRS * 5, group=30))
    rows = [1, 9, 16, 22, 29]
    assert list(table.pictures(("jpg_0",), rows)) == [(PAIRS[row % 6]["jpg_0"],) for row in rows]


def test_images_as_datasets_writes_them_are_read(tmp_path):
    rows = [row | {"jpg_0": {"bytes": row["jpg_0"], "path": "x.png"}} for row in PAIRS]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "set.parquet")
    assert next(open_table(tmp_path).pictures(("jpg_0",), [1])) == (PAIRS[1]["jpg_0"],)


def test_pictures_that_are_not_there_are_none(tmp_path):
    folder = write_folder(tmp_path / "set")
    (folder / "1_jpg_0.png").unlink()
    assert list(open_table(folder).pictures(("jpg_0", "jpg_1"), [1])) == [(None, PAIRS[1]["jpg_1"])]
    (folder / "metadata.jsonl").write_text(json.dumps({"jpg_0": None, "caption": "x" * 5000}) + "\n")
    assert list(open_table(folder).pictures(("jpg_0",), [0])) == [(None,)]


def test_webdataset_texts_and_classes_are_columns(tmp_path):
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for column, content in {"jpg": picture(0), "txt": b"a cat\n", "cls": b"1"}.items():
            member = tarfile.TarInfo(f"0.{column}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    config = DataConfig(images=("jpg",), caption="txt", labels=("cls",))
    (found,) = select(open_table(tmp_path), config).chosen
    assert (found.prompt, found.label) == ("a cat", 1.0)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("set.parquet", b"no parquet", "not readable as Parquet"),
        ("set.tar", b"no tar" * 200, "not readable as an uncompressed tar file"),
        ("set.jsonl", b"{", "line 1 is not valid JSON"),
        ("set.jsonl", b"[1]", "and no object"),
        ("set.jsonl", b"\n", "holds no row"),
        ("set.csv", b"a,b", "is none of a .parquet, .tar or .jsonl file"),
    ],
)
def test_what_cannot_be_read_is_one_error(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnusableSet, match=said):
        open_table(tmp_path / name)


def test_a_folder_must_be_of_one_format(tmp_path):
    with pytest.raises(UnusableSet, match="there is no such"):
        open_table(tmp_path / "absent")
    with pytest.raises(UnusableSet, match="is none of"):
        open_table(tmp_path)
    write_parquet(tmp_path / "a.parquet")
    write_tar(tmp_path / "a.tar")
    with pytest.raises(UnusableSet, match="several formats"):
        open_table(tmp_path)
