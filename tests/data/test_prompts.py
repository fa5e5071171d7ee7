"""Named sets, files of every kind and Hub datasets become the same lists; what is wrong is one clear error."""

import json
import re
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from raypref.data.hub import split_files
from raypref.data.named import NAMED
from raypref.data.prompts import read_prompts, without_heldout
from raypref.data.source import PromptSource
from tests.hub_cache import STYLES, TRAIN, UNIQUE, fill_cache, papers_datasets, parquet_bytes, use_cache

WANTED = ("a cat", "an owl, asleep", "zwei Bären", 'a "blue" sign')
SIGN = '"to be" on a "blue" sign'
ROWS = ["a cat", " an owl,\nasleep ", "", None, "zwei Bären", "a cat", 'a "blue" sign']
TABLES = {
    "objects.jsonl": "\n\n".join(json.dumps({"id": 1, "caption": row}) for row in ROWS),
    "strings.jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS),
    "list.json": json.dumps(ROWS),
    "objects.json": json.dumps([{"caption": row} for row in ROWS]),
    "table.csv": 'id,caption\n1,a cat\n2," an owl,\nasleep "\n3,\n4\n5,zwei Bären\n6,a cat\n7,"a ""blue"" sign"\n',
    "table.tsv": '\ufeffid\tcaption\n1\ta cat\n2\t an owl, asleep \n3\t\n4\n5\tzwei Bären\n7\ta "blue" sign\n',
    "table.parquet": parquet_bytes(caption=ROWS, picture=[b"\x00"] * len(ROWS)),
}


def read(source: str | PromptSource, folder: Path = Path()) -> tuple[str, ...]:
    return read_prompts(PromptSource.named(source) if isinstance(source, str) else source, folder)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fill_cache(tmp_path / "hub", papers_datasets())
    use_cache(monkeypatch, tmp_path / "hub")


def test_our_animals_are_three_lists_that_share_nothing():
    lists = [read(f"animals:{split}") for split in NAMED["animals"]]
    assert [len(prompts) for prompts in lists] == [45, 15, 24]
    assert len(set().union(*lists)) == 45 + 15 + 24


def test_text_is_one_prompt_a_line_and_repeated_lines_count(tmp_path):
    (tmp_path / "prompts.txt").write_text("  a cat\n\n \na dog, running  fast\na cat\n")
    assert read("prompts.txt", tmp_path) == ("a cat", "a dog, running  fast", "a cat")


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_any_kind_gives_the_same_prompts_each_once(tmp_path, name):
    content = TABLES[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert read(PromptSource(name, column="caption"), tmp_path) == WANTED


def test_quotes_in_a_tsv_are_the_prompt_s_own(tmp_path):
    (tmp_path / "table.tsv").write_text(f'prompt\tnote\n{SIGN}\t"x\n"a cat\t\t\n')
    assert read("table.tsv", tmp_path) == (SIGN, '"a cat')


def test_a_file_goes_before_a_set_of_that_name_and_the_config_s_folder_before_the_working_directory(
    tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "animals").write_text("mine\n")
    assert read("animals", tmp_path) == ("mine",)
    (tmp_path / "animals").write_text("the config's\n")
    assert read("animals", tmp_path) == ("the config's",)


def test_a_sample_is_the_same_for_every_run_and_keeps_the_order():
    some, more = (read(PromptSource("animals", "train", sample=count)) for count in (7, 20))
    assert some == read(PromptSource("animals", "train", sample=7))
    assert len(set(some)) == 7
    assert list(some) == sorted(some, key=read("animals:train").index)
    assert set(some) < set(more)
    assert some != read("animals:train")[:7]


@pytest.mark.usefixtures("hub")
def test_the_sets_of_the_papers_are_read_from_the_hub_s_cache():
    once = tuple(" ".join(prompt.splitlines()) for prompt in UNIQUE)
    assert read("pick_a_pic:test_unique") == once
    assert read("pick_a_pic:test") == (*once, "a fox")
    assert read("pick_a_pic:train") == tuple(TRAIN)
    assert read("parti_prompts:test") == ("bond", SIGN)
    assert read("hpdv2:test") == tuple(f"{style} {which}" for style in STYLES for which in ("one", "two"))
    assert read("hpdv2:photo") == ("photo one", "photo two")
    assert read("hpdv2:train") == ("a hill", "a lake")


@pytest.mark.usefixtures("hub")
def test_any_dataset_of_the_hub_is_read_by_its_split_or_files_and_column():
    assert read(PromptSource("zhwang/HPDv2", files=("*/p*.json",))) == read("hpdv2:paintings") + read("hpdv2:photo")
    source = PromptSource("yuvalkirstain/pickapic_v2_no_images", "test", column="caption")
    assert read(source) == read("pick_a_pic:test")
    assert read(PromptSource("nateraw/parti-prompts", files=("*.tsv",), column="Category")) == ("Abstract", "Arts")


SHARDS = {
    f"data/train-0000{number}-of-00003-0a1b2c3d4e5f607{number}.parquet": parquet_bytes(prompt=[f"{number}"])
    for number in range(3)
}


def test_a_cache_that_is_used_without_the_hub_is_announced(tmp_path, monkeypatch, caplog):
    fill_cache(tmp_path, {"owner/shards": SHARDS})
    use_cache(monkeypatch, tmp_path)
    assert read("owner/shards:train") == ("0", "1", "2")
    assert re.search(r"dataset owner/shards: the Hub's cache is used, commit 0123456789abcdef.*Offline", caplog.text)


@pytest.mark.parametrize("lost", range(3))
@pytest.mark.parametrize("how", ["absent", "a link to nothing"])
def test_a_dataset_of_which_the_cache_has_a_part_is_no_shorter_list(tmp_path, monkeypatch, lost, how):
    fill_cache(tmp_path, {"owner/shards": SHARDS})
    use_cache(monkeypatch, tmp_path)
    file = next((tmp_path / "datasets--owner--shards").rglob(f"*train-0000{lost}*"))
    file.unlink()
    if how != "absent":
        file.symlink_to("../nothing")
    with pytest.raises(ValueError, match=rf"copy in the Hub's cache is not whole: it lacks data/train-0000{lost}-of-"):
        read("owner/shards:train")
    one = PromptSource("owner/shards", files=(next(name for name in SHARDS if f"0000{(lost + 1) % 3}-of" in name),))
    assert read(one) == (f"{(lost + 1) % 3}",)


def test_a_set_of_several_files_needs_all_of_them(tmp_path, monkeypatch):
    fill_cache(tmp_path, papers_datasets())
    use_cache(monkeypatch, tmp_path)
    next((tmp_path / "datasets--zhwang--HPDv2").rglob("photo.json")).unlink()
    assert read("hpdv2:anime") == ("anime one", "anime two")
    with pytest.raises(ValueError, match=r"it lacks benchmark/photo\.json; run `hf download zhwang/HPDv2 --repo-type"):
        read("hpdv2:test")


@pytest.mark.usefixtures("hub")
def test_a_named_set_s_column_can_be_another():
    assert read(PromptSource("parti_prompts", "test", column="Category")) == ("Abstract", "Arts")


BROKEN = [
    ("", r'name a set such as "animals:train", a file'),
    ("nowhere.txt", r"no such file; looked for .*nowhere\.txt and nowhere\.txt\. Nor is it a Hub dataset's id"),
    ("prompts/nowhere.txt", r"no such file; looked for"),
    ("animal:train", r"or a set: did you mean 'animals'\?"),
    ("animals", r"which split\? Write one of animals:train, animals:heldout, animals:out_of_distribution"),
    ("animals:held_out", r"animals has no split 'held_out': did you mean 'heldout'\?"),
    ("empty.txt", r"it holds no prompt"),
    ("empty.jsonl", r"it holds no prompt"),
    ("latin.txt", r"latin\.txt is not readable as UTF-8 text"),
    ("latin.csv", r"latin\.csv is not readable as UTF-8 text"),
    ("good.jsonl:train", r"split = 'train' is for sets and Hub datasets, and .*good\.jsonl is a file; leave it out"),
    ("good.jsonl", r"good\.jsonl, line 1 has no column 'prompt'; set column to one of id, text"),
    (PromptSource("good.jsonl", column="id"), r"good\.jsonl, line 1 is '7', and no text"),
    (PromptSource("good.jsonl", column="text", sample=3), r"sample = 3: it holds 2 prompts; use fewer, or 0 for all"),
    ("broken.jsonl", r"broken\.jsonl, line 2 is not valid JSON"),
    ("object.json", r"object\.json holds no list; write \[\.\.\.\] of prompts"),
    ("table.csv", r"table\.csv has no column 'prompt'; set column to one of id, text"),
    (
        "comma.csv",
        r"comma\.csv, line 3 is not readable as a table: it has more cells than the header; does a cell hold",
    ),
    ("quotes.csv", r"quotes\.csv, line 2 is not readable as a table: ',' expected after '\"'"),
    ("open.csv", r"open\.csv, line 3 is not readable as a table: unexpected end of data"),
    ("nothing.csv", r"nothing\.csv has no column 'prompt'; set column to one of none"),
    ("table.parquet", r"table\.parquet has no column 'prompt'; set column to one of text, number"),
    (PromptSource("table.parquet", column="number"), r"table\.parquet, 'number' of row 1 is '1', and no text"),
    ("fake.parquet", r"fake\.parquet is not readable as Parquet"),
    ("owner/unknown", r"which split of the Hub dataset\? Write owner/unknown:train, say"),
    ("owner/unknown:train", r"neither in the Hub's cache nor to be downloaded \(\w+: .*; fill the cache"),
    ("nateraw/parti-prompts:train", r"none of the dataset's files is named after split 'train'; set files"),
    (PromptSource("nateraw/parti-prompts", files=("*.csv",)), r"none of the dataset's files fits \*\.csv; set files"),
]


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(("source", "message"), BROKEN, ids=[str(case[0]) for case in BROKEN])
def test_a_source_that_cannot_be_read_is_one_clear_error(tmp_path, source, message):
    files = {
        "empty.txt": b"\n  \n",
        "empty.jsonl": b'{"prompt": ""}\n{"prompt": null}\n',
        "latin.txt": "ein Bär\n".encode("latin-1"),
        "latin.csv": "prompt\nein Bär\n".encode("latin-1"),
        "good.jsonl": b'{"id": 7, "text": "a"}\n{"id": 8, "text": "b"}\n',
        "broken.jsonl": b'"a"\n{"prompt": \n',
        "object.json": b'{"prompt": "a"}',
        "table.csv": b"id,text\n1,a\n",
        "comma.csv": b"prompt\na cat\na dog, running\n",
        "quotes.csv": b'prompt\n"To be" is written on a sign\n',
        "open.csv": b'prompt\n"a cat\na dog\n',
        "nothing.csv": b"",
        "table.parquet": parquet_bytes(text=["a"], number=[1]),
        "fake.parquet": b"no such thing",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read(source, tmp_path)
    assert "\n" not in str(caught.value)


def test_without_pyarrow_a_parquet_file_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "table.parquet").write_bytes(parquet_bytes(prompt=["a"]))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"Parquet files need pyarrow; run `pip install raypref\[parquet\]`"):
        read("table.parquet", tmp_path)


def test_a_split_s_files_are_those_of_the_hub_s_layouts_and_no_others():
    there = ["test.parquet", "data/test-00000-of-00002.parquet", "default/test/0000.parquet", "data/test.jsonl"]
    others = ["data/test_unique-00000-of-00001.parquet", "latest.csv", "test/cat.png", "data/train-test.parquet"]
    patterns = split_files("test")
    assert [path for path in there + others if any(fnmatchcase(path, pattern) for pattern in patterns)] == there


def test_held_out_prompts_are_not_trained_on_unless_the_lists_are_one():
    assert without_heldout(("a", "b", "a", "c"), ("c", "d")) == ("a", "b", "a")
    assert without_heldout(("a", "b"), ("b", "a")) == ("a", "b")
    with pytest.raises(ValueError, match="every one of its prompts is held out too"):
        without_heldout(("a", "b"), ("a", "b", "c"))
