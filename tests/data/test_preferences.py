"""A preference set gives the rows that its address says, proves them, and survives whatever ends its writer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raypref.core.seeding import Key
from raypref.data import set_writer
from raypref.data.latents_file import LatentsFile
from raypref.data.preference_source import DataConfig
from raypref.data.preferences import LATENTS, PreparedSet, SetManifest, UnusableSet
from raypref.data.set_writer import LOG, SetWriter, write_set

KEY = Key(3)("data")
PROMPTS = tuple(f"prompt {row}" for row in range(7))
LABEL = torch.tensor([1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0])
RNG = torch.Generator().manual_seed(0)
PAIRS = torch.randn(7, 2, 2, 3, 4, 4, generator=RNG)  # the second variant is "mirrored"


@pytest.fixture
def pairs(tmp_path: Path) -> PreparedSet:
    return write_set(tmp_path / "set", PAIRS, PROMPTS, LABEL)


def test_an_epoch_holds_every_pair_once_and_the_next_in_another_order(pairs):
    batches = [pairs.batch(iteration, 2, KEY, arms=2) for iteration in range(7)]  # 14 rows: two epochs
    items = torch.cat([batch.items for batch in batches])
    assert sorted(items[:7].tolist()) == sorted(items[7:].tolist()) == list(range(7))
    assert items[:7].tolist() != items[7:].tolist()
    for batch in batches:
        assert batch.prompts == tuple(PROMPTS[item] for item in batch.items)
        assert batch.x_0.equal(PAIRS[batch.items, 0].transpose(0, 1))
        assert batch.label.equal(LABEL[batch.items])


def test_a_batch_is_a_function_of_its_address(pairs, tmp_path):
    config = DataConfig(prompt_dropout=0.3, random_flip=True)
    first, again = (PreparedSet.open(tmp_path / "set", config) for _ in range(2))
    first.batch(4, 3, KEY, arms=2)  # what was read before has no say
    one, other = first.batch(5, 3, KEY, arms=2), again.batch(5, 3, KEY, arms=2)
    assert one.prompts == other.prompts
    assert one.x_0.equal(other.x_0)
    assert not one.items.equal(again.batch(5, 3, Key(4)("data"), arms=2).items)


def test_dropout_and_flips_belong_to_a_row_and_a_pass_not_to_the_size_of_the_batch(tmp_path, pairs):
    found = PreparedSet.open(tmp_path / "set", DataConfig(prompt_dropout=0.4, random_flip=True))
    whole = found.batch(0, 28, KEY, arms=2)
    parts = [found.batch(iteration, 7, KEY, arms=2) for iteration in range(4)]
    assert whole.prompts == tuple(prompt for part in parts for prompt in part.prompts)
    assert whole.x_0.equal(torch.cat([part.x_0 for part in parts], 1))
    mirrored = [torch.equal(whole.x_0[:, row], PAIRS[item, 1]) for row, item in enumerate(whole.items)]
    plain = [torch.equal(whole.x_0[:, row], PAIRS[item, 0]) for row, item in enumerate(whole.items)]
    assert all(m != p for m, p in zip(mirrored, plain, strict=True))  # both pictures of a pair, or none
    assert 4 < sum(mirrored) < 24
    assert 3 < sum(not prompt for prompt in whole.prompts) < 20
    for happened in (mirrored, [not prompt for prompt in whole.prompts]):  # to others in every pass
        struck = [item for item, yes in zip(whole.items.tolist(), happened, strict=True) if yes]
        assert any(0 < struck.count(item) < 4 for item in range(7))


def test_the_share_of_dropped_prompts_is_what_was_asked(tmp_path, pairs):
    found = PreparedSet.open(tmp_path / "set", DataConfig(prompt_dropout=0.2))
    dropped = sum(not prompt for prompt in found.batch(0, 2000, KEY, arms=2).prompts)
    assert abs(dropped - 400) < 5 * (2000 * 0.2 * 0.8) ** 0.5
    assert all(found.as_they_are().batch(0, 50, KEY, arms=2).prompts)


def test_pairs_read_as_single_pictures_leave_out_ties(pairs):
    batch = pairs.batch(0, 12, KEY, arms=1)
    assert sorted(batch.items.tolist()) == [item for item in range(14) if item // 2 != 2]
    for row, item in enumerate(batch.items.tolist()):
        assert batch.x_0[0, row].equal(PAIRS[item // 2, 0, item % 2])
        assert batch.label[row] == 1 - item % 2
        assert batch.prompts[row] == PROMPTS[item // 2]
    winners = pairs.batch(0, 6, KEY, arms=1, desirable_only=True)
    assert sorted(winners.items.tolist()) == [0, 2, 6, 8, 10, 12]
    assert winners.label.tolist() == [1.0] * 6


def test_single_pictures_have_labels_of_their_own(tmp_path):
    singles = write_set(tmp_path / "set", PAIRS[:, :1, :1], PROMPTS, torch.tensor([1.0, 0, 0, 1, 0, 0, 1]))
    assert singles.arms == 1
    batch = singles.batch(0, 7, KEY, arms=1)
    assert batch.x_0.equal(PAIRS[batch.items, 0, 0][None])
    assert sorted(singles.batch(0, 3, KEY, arms=1, desirable_only=True).items.tolist()) == [0, 3, 6]
    with pytest.raises(UnusableSet, match="single pictures, and pairs are needed"):
        singles.batch(0, 2, KEY, arms=2)


def test_prompts_of_a_batch_are_known_without_its_latents(tmp_path, pairs):
    found = PreparedSet.open(tmp_path / "set", DataConfig(prompt_dropout=0.3, random_flip=True))
    addresses = [(3, 5, KEY, 2), (2, 5, KEY, 1), (1, 4, KEY, 1, True)]
    batches = [found.batch(*address) for address in addresses]
    (tmp_path / "set" / LATENTS).unlink()
    again = PreparedSet.open(tmp_path / "set", DataConfig(prompt_dropout=0.3, random_flip=True))
    assert [again.batch_prompts(*address) for address in addresses] == [batch.prompts for batch in batches]


def test_a_pass_is_ordered_once_and_the_file_opened_once(pairs, monkeypatch):
    calls: list[int] = []
    permutation, opened = Key.permutation, Path.open
    monkeypatch.setattr(Key, "permutation", lambda self, count: (calls.append(count), permutation(self, count))[1])
    monkeypatch.setattr(Path, "open", lambda self, *a: (calls.append(0), opened(self, *a))[1])
    for iteration in range(7):  # two passes
        pairs.batch(iteration, 2, Key(11)("data"), arms=2)
    assert sorted(calls) == [0, 7, 7]


def test_flips_need_mirrored_pictures(tmp_path):
    write_set(tmp_path / "set", PAIRS[:, :1], PROMPTS, LABEL)
    with pytest.raises(UnusableSet, match="random_flip = true"):
        PreparedSet.open(tmp_path / "set", DataConfig(random_flip=True))


def test_damaged_latents_are_never_trained_on(tmp_path, pairs):
    file = tmp_path / "set" / LATENTS
    content = bytearray(file.read_bytes())
    content[-4 * PAIRS[0].numel() + 5] ^= 1  # one bit of the last row
    file.write_bytes(content)
    with pytest.raises(UnusableSet, match="is damaged in row 6"):
        pairs.batch(0, 7, KEY, arms=2)
    file.write_bytes(content[:-8])
    with pytest.raises(UnusableSet, match="ends before row 6"):
        pairs.batch(0, 7, KEY, arms=2)


@pytest.mark.parametrize("name", ["rows.safetensors", "prompts.json"])
def test_a_damaged_table_is_refused_at_once(tmp_path, pairs, name):
    file = tmp_path / "set" / name
    file.write_bytes(file.read_bytes().replace(b"prompt", b"prompf") + b" ")
    with pytest.raises(UnusableSet, match="has changed"):
        PreparedSet.open(tmp_path / "set")
    file.unlink()
    with pytest.raises(UnusableSet, match="is damaged"):
        PreparedSet.open(tmp_path / "set")


def test_a_begun_set_goes_on_where_it_stopped_and_comes_out_the_same(tmp_path, pairs):
    manifest = SetManifest(7, 2, (3, 4, 4), True)
    begun = SetWriter(tmp_path / "other", manifest)
    for place in (5, 0, 3):
        begun.put(place, PAIRS[place], PROMPTS[place], float(LABEL[place]))
    with pytest.raises(UnusableSet, match="4 rows are missing, the first is 1"):
        begun.finish()
    with pytest.raises(UnusableSet, match="no finished preference set"):
        PreparedSet.open(tmp_path / "other")
    log = tmp_path / "other" / LOG
    log.write_text(log.read_text() + '{"place": 1, "prom')  # cut off in the middle of a line
    with (tmp_path / "other" / LATENTS).open("r+b") as file:  # a power cut took the latents of a logged row
        file.seek(-4 * PAIRS[0].numel() * 4, 2)
        file.write(np.zeros(PAIRS[0].numel(), np.float32).tobytes())
    again = SetWriter(tmp_path / "other", manifest)
    assert again.missing() == [1, 2, 3, 4, 6]
    for place in again.missing():
        again.put(place, PAIRS[place], PROMPTS[place], float(LABEL[place]))
    assert again.finish().manifest.checksum == pairs.manifest.checksum
    assert {file.name for file in (tmp_path / "other").iterdir()} == {
        file.name for file in (tmp_path / "set").iterdir()
    }
    with pytest.raises(UnusableSet, match="beginnings of another set"):
        SetWriter(_begun(tmp_path / "third", manifest), replace(manifest, places=8))


def test_only_rows_that_a_power_cut_may_have_taken_are_read_again(tmp_path, pairs, monkeypatch):
    manifest, read, proved = SetManifest(7, 2, (3, 4, 4), True), LatentsFile.read, list[int]()
    monkeypatch.setattr(LatentsFile, "read", lambda self, place: (proved.append(place), read(self, place))[1])
    monkeypatch.setattr(set_writer, "SYNC_EVERY", 3)
    begun = SetWriter(tmp_path / "other", manifest)
    for place in range(5):
        begun.put(place, PAIRS[place], PROMPTS[place], float(LABEL[place]))
    again = SetWriter(tmp_path / "other", manifest)  # the first was never closed
    assert proved == [3, 4]
    again.put(5, PAIRS[5], PROMPTS[5], float(LABEL[5]))
    again.close()
    third = SetWriter(tmp_path / "other", manifest)
    assert proved == [3, 4]
    assert third.missing() == [6]
    third.put(6, PAIRS[6], PROMPTS[6], float(LABEL[6]))
    assert third.finish().manifest.checksum == pairs.manifest.checksum


def test_rows_are_on_the_disk_before_the_log_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(set_writer, "SYNC_EVERY", 2)
    writer = SetWriter(tmp_path / "set", SetManifest(7, 2, (3, 4, 4), True))
    log, seen = tmp_path / "set" / LOG, list[int]()
    monkeypatch.setattr(LatentsFile, "sync", lambda self: seen.append(log.read_text().count(set_writer.SYNCED)))
    before = log.read_text().count(set_writer.SYNCED)
    for place in range(4):
        writer.put(place, PAIRS[place], PROMPTS[place], 1.0)
    assert seen == [before, before + 1]
    assert log.read_text().count(set_writer.SYNCED) == before + 2


def _begun(folder: Path, manifest: SetManifest) -> Path:
    SetWriter(folder, manifest).close()
    return folder


def test_skipped_rows_are_counted_and_leave_no_gap(tmp_path):
    writer = SetWriter(tmp_path / "set", SetManifest(3, 2, (3, 4, 4), True))
    writer.put(2, PAIRS[2], "c", 1.0)
    writer.skip(1, "jpg_0 is not readable")
    writer.put(0, PAIRS[0], "a", 1.0)
    found = writer.finish()
    assert found.prompts == ("a", "c")
    assert found.manifest.skipped == {"jpg_0 is not readable": 1}
    assert found.batch(0, 2, KEY, arms=2).items.sort().values.tolist() == [0, 1]
    empty = SetWriter(tmp_path / "empty", SetManifest(1, 2, (3, 4, 4), True))
    empty.skip(0, "why")
    with pytest.raises(UnusableSet, match=r"no row that can be used: \{'why': 1\}"):
        empty.finish()


def test_latents_that_are_not_finite_are_refused(tmp_path):
    writer = SetWriter(tmp_path / "set", SetManifest(1, 2, (3, 4, 4), True))
    with pytest.raises(UnusableSet, match="not finite"):
        writer.put(0, PAIRS[0] / 0, "a", 1.0)
