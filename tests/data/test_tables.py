"""One set in three formats is one set; what is wrong with a file is said of that file."""

import io
import json
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from raypref.data.open_table import open_table
from raypref.data.preference_source import DataConfig
from raypref.data.preferences import UnusableSet
from raypref.data.selection import select
from raypref.data.splits import files_of_split, splits_shown
from tests.data.labelled import PAIRS, pair, picture, write_folder, write_parquet, write_tar
from tests.hub_cache import fill_cache, use_cache

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


def test_a_copy_has_the_identity_without_times(path, tmp_path):
    copy = tmp_path / "elsewhere" / path.name
    copy.parent.mkdir()
    shutil.copytree(path, copy) if path.is_dir() else shutil.copy(path, copy)
    os.utime(copy / "3_jpg_1.png" if copy.is_dir() else copy, ns=(1, 1))
    table, copied = open_table(path), open_table(copy)
    assert copied.identity(times=False) == table.identity(times=False)
    assert copied.identity() != table.identity()
    with (copy / "3_jpg_1.png" if copy.is_dir() else copy).open("ab") as file:
        file.write(b"x")
    assert copied.identity(times=False) != table.identity(times=False)


def test_pictures_may_be_named_by_absolute_paths(tmp_path):
    folder = write_folder(tmp_path / "set")
    (tmp_path / "away").mkdir()
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for line in lines:
        line["jpg_0"] = str((folder / line["jpg_0"]).rename(tmp_path / "away" / line["jpg_0"]))
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    before = open_table(folder).identity()
    assert next(open_table(folder).pictures(("jpg_0",), [1])) == (PAIRS[1]["jpg_0"],)
    os.utime(tmp_path / "away" / "1_jpg_0.png", ns=(1, 1))
    assert open_table(folder).identity() != before


def splits(folder, suffix, write):
    """A file for each split of Pick-a-Pic: a pair in train, two in validation, three in test."""
    (folder / "data").mkdir(parents=True)
    for count, split in enumerate(("train", "validation", "test"), start=1):
        write(folder / "data" / f"{split}-00000-of-00001-0a1b{suffix}", PAIRS[:count])
    return folder


@pytest.mark.parametrize(("suffix", "write"), [(".parquet", write_parquet), (".tar", write_tar)])
def test_a_split_of_a_folder_is_read_alone_and_several_are_never_mixed_unasked(tmp_path, suffix, write):
    folder = splits(tmp_path / "pickapic_v2", suffix, write)
    assert len(open_table(folder, "train")) == 1
    assert len(open_table(folder / "data", "test")) == 3
    assert len(open_table(folder, "*")) == 6
    with pytest.raises(UnusableSet, match=r'the splits test, train, validation; set data\.split to .* or to "\*"'):
        open_table(folder / "data")
    with pytest.raises(UnusableSet, match=r"no file that is named after data\.split = 'trian': did you mean 'train'"):
        open_table(folder, "trian")
    with pytest.raises(UnusableSet, match=r"data\.split = 'train' is for folders and Hub datasets, and .* is a file"):
        open_table(folder / "data" / f"train-00000-of-00001-0a1b{suffix}", "train")


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["train/0000.parquet", "test/0000.parquet"], ["test", "train"]),
        (["train/data-00000-of-00002.parquet", "train/data-00001-of-00002.parquet"], ["train"]),
        (["train.parquet", "validation.parquet", "extra.parquet"], ["train", "validation"]),
        (["train-0.parquet", "train-1.parquet", "pairs-0000064.parquet"], ["train"]),
        (["data/test-00000-of-00001.parquet", "data/test_unique-00000-of-00001.parquet"], ["test", "test_unique"]),
        (["a.parquet", "b.parquet"], []),
    ],
)
def test_splits_are_told_by_the_names_of_files(tmp_path, names, shown):
    files = [tmp_path / name for name in names]
    assert splits_shown(tmp_path, files) == shown
    for split in shown:  # and each of them can be asked for
        for file in files:
            file.parent.mkdir(exist_ok=True)
            file.touch()
        assert splits_shown(tmp_path, files_of_split(tmp_path, ".parquet", split)) == [split]


def test_json_lines_of_a_split_are_found(tmp_path):
    write_folder(tmp_path / "set")
    (tmp_path / "set" / "metadata.jsonl").rename(tmp_path / "set" / "train.jsonl")
    (tmp_path / "set" / "test.jsonl").write_text('{"caption": "a"}')
    assert len(open_table(tmp_path / "set", "train")) == 6
    with pytest.raises(UnusableSet, match=r"several .jsonl files; name one of test.jsonl, train.jsonl"):
        open_table(tmp_path / "set")


def test_a_dataset_of_the_hub_is_read_from_its_cache_split_by_split(tmp_path, monkeypatch):
    files = {
        f"data/{split}-00000-of-00001-0a1b.parquet": write_parquet(tmp_path / split, PAIRS[:count]).read_bytes()
        for count, split in enumerate(("train", "test"), start=1)
    }
    fill_cache(tmp_path / "hub", {"owner/pictures": files, "owner/mixed": {"test.tar": b"", "test.parquet": b""}})
    use_cache(monkeypatch, tmp_path / "hub")
    table = open_table(Path("owner/pictures"), "test")
    assert list(table.pictures(("jpg_0",), [1])) == [(PAIRS[1]["jpg_0"],)]
    assert len(table) == 2
    assert open_table(table.path, "test").identity() == table.identity()  # what data workers open
    with pytest.raises(UnusableSet, match=r'name its split, as in data\.split = "train"'):
        open_table(Path("owner/pictures"))
    with pytest.raises(UnusableSet, match=r"none of the Hub dataset's \.parquet or \.tar files .* 'validation'"):
        open_table(Path("owner/pictures"), "validation")
    with pytest.raises(UnusableSet, match=r"\.parquet and \.tar of the Hub dataset's"):
        open_table(Path("owner/mixed"), "test")
    with pytest.raises(UnusableSet, match="no such file or folder, and as a dataset of the Hub: neither in the Hub's"):
        open_table(Path("owner/unknown"), "train")
    with pytest.raises(UnusableSet, match="there is no such file or folder"):
        open_table(Path("owner/set.parquet"), "train")  # a file's name


def test_what_save_to_disk_writes_says_how_to_make_parquet_of_it(tmp_path):
    """The files as `datasets` leaves them, a set of one split and a dictionary of them."""
    part = tmp_path / "set" / "train"
    part.mkdir(parents=True)
    for name in ("data-00000-of-00001.arrow", "state.json", "dataset_info.json"):
        (part / name).write_text("{}")
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(UnusableSet, match=r"load_from_disk\('.*set/train'\)\.to_parquet\(\"train\.parquet\"\)"):
        open_table(part)
    with pytest.raises(UnusableSet, match=r'save_to_disk of `datasets`, .*\)\["train"\]\.to_parquet'):
        open_table(tmp_path / "set", "train")


def test_parquet_files_with_other_columns_are_one_error(tmp_path):
    write_parquet(tmp_path / "a.parquet")
    unlabelled = [{name: value for name, value in row.items() if name != "label_1"} for row in PAIRS]
    write_parquet(tmp_path / "b.parquet", unlabelled)
    with pytest.raises(UnusableSet, match=r"a\.parquet and .*b\.parquet do not have the same columns: .* has label_1;"):
        open_table(tmp_path)


def test_a_damaged_column_of_a_parquet_file_is_one_error(tmp_path):
    file = write_parquet(tmp_path / "set.parquet", PAIRS[:1])
    column = next(
        chunk
        for number in range(parquet.read_metadata(file).num_columns)
        if (chunk := parquet.read_metadata(file).row_group(0).column(number)).path_in_schema == "caption"
    )
    content = bytearray(file.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = bytes([255] * column.total_compressed_size)
    file.write_bytes(content)
    with pytest.raises(UnusableSet, match=r"set\.parquet is damaged"):
        open_table(file).values("caption")


def test_json_lines_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "set.jsonl").write_bytes(b'\xef\xbb\xbf{"caption": "a cat"}\n')
    assert open_table(tmp_path / "set.jsonl").values("caption") == ["a cat"]


@pytest.mark.parametrize("column", ["caption", "label_0", "has_label"])
def test_values_that_webdataset_keeps_as_files_of_their_own_are_one_error(tmp_path, column):
    rows = [row | {column: str(row[column]).encode()} for row in PAIRS]
    table = open_table(write_tar(tmp_path / "set.tar", rows))
    with pytest.raises(UnusableSet, match=rf"set\.tar has '{column}' as files of their own, .*\.json"):
        select(table, CONFIG)


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
        ("set.jsonl", '{"caption": "Bär"}'.encode("latin-1"), "not readable as UTF-8 text"),
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
