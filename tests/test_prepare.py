"""A set is encoded once, by the pipeline's own VAE; what is made again, partly or by others, is the same."""

import errno
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from raypref import prepare as preparing
from raypref.checks import ConfigError, check_experiment
from raypref.core.seeding import Key
from raypref.data.open_table import open_table
from raypref.data.pictures import read_picture
from raypref.data.preference_source import DataConfig
from raypref.data.preferences import MANIFEST
from raypref.data.selection import select
from raypref.data.set_writer import SetWriter
from raypref.lock import locked
from raypref.methods.sft import SFT
from raypref.prepare import prepare
from raypref.train.encoding import BLOCK, RowEncoder, blocks
from raypref.train.experiment import Experiment, OptimizerConfig
from raypref.train.stopped import StoppedRun
from tests.conftest import MakeExperiment
from tests.data.labelled import PAIRS, write_parquet
from tests.hub_cache import fill_cache, use_cache

KEY = Key(0)("data")


@pytest.fixture
def with_data(make_experiment: MakeExperiment, tmp_path: Path):
    write_parquet(tmp_path / "set.parquet")
    config = DataConfig(path=str(tmp_path / "set.parquet"), cache_dir=str(tmp_path / "cache"))

    def make(**changes: object) -> Experiment:
        return make_experiment(data=replace(config, **changes))

    return make


def quietly(_: str) -> None:
    pass


def test_latents_are_the_vaes_with_the_winner_first(with_data, random_model):
    found = prepare(with_data(random_flip=True, ties="keep"), quietly)
    assert found.prompts == ("a cat", "a dog", "an owl", "a cat", "a hen")
    batch = found.batch(0, 10, KEY, arms=2)  # two passes: plain and mirrored both occur
    vae = AutoencoderKL.from_pretrained(random_model / "vae")
    rows, mirrored = (0, 1, 2, 3, 5), 0
    for place, item in enumerate(batch.items.tolist()):
        source = PAIRS[rows[item]]
        winner = ("jpg_0", "jpg_1") if source["label_0"] >= source["label_1"] else ("jpg_1", "jpg_0")
        images = torch.stack([read_picture(source[name], 16) for name in winner])
        with torch.no_grad():
            plain, flipped = (
                vae.encode(2 * x - 1).latent_dist.mode() * vae.config.scaling_factor for x in (images, images.flip(-1))
            )
        is_flipped = torch.allclose(batch.x_0[:, place], flipped, atol=1e-5)
        assert is_flipped != torch.allclose(batch.x_0[:, place], plain, atol=1e-5)
        assert batch.label[place] == (0.5 if rows[item] == 2 else 1.0)
        mirrored += is_flipped
    assert 0 < mirrored < 10


def test_the_cache_is_used_until_something_that_matters_changes(with_data, tmp_path, monkeypatch):
    encoded: list[int] = []
    rows = preparing._rows
    monkeypatch.setattr(preparing, "_rows", lambda *a: (encoded.append(1), rows(*a))[1])

    def folder(**changes: object) -> Path:
        return prepare(with_data(**changes), quietly).folder

    first = folder()
    assert folder() == folder(prompt_dropout=0.5) == first
    assert len(encoded) == 1
    others = {folder(random_flip=True), folder(ties="keep"), folder(duplicate_prompts="first")}
    assert len({first, *others}) == 4
    vae = replace(with_data(), model=replace(with_data().model, dtype="bfloat16"))
    assert prepare(vae, quietly).folder not in {first, *others}
    write_parquet(tmp_path / "set.parquet", PAIRS[:2])
    assert folder() not in {first, *others}
    assert len(prepare(with_data(), quietly)) == 2


def test_a_prepared_folder_is_read_as_it_is_where_the_model_fits(with_data, make_experiment, random_v_model):
    found = prepare(with_data(), quietly)
    given = DataConfig(path=str(found.folder), prompt_dropout=0.5)
    assert prepare(make_experiment(data=given), quietly).manifest.checksum == found.manifest.checksum
    other = make_experiment(data=given, model=replace(with_data().model, dtype="bfloat16"))
    with pytest.raises(
        ConfigError, match="its latents are another model's: dtype is float32, and the model's is bfloat16"
    ):
        prepare(other, quietly)


def test_an_interrupted_preparation_goes_on_and_gives_the_same_set(with_data, monkeypatch):
    whole = prepare(with_data(cache_dir=with_data().data.cache_dir + "2"), quietly)
    encode, calls = RowEncoder._encode_row, list[int]()

    def failing(self, place, files):
        calls.append(place)
        if calls == [0, 1]:
            raise KeyboardInterrupt
        return encode(self, place, files)

    monkeypatch.setattr(RowEncoder, "_encode_row", failing)
    with pytest.raises(KeyboardInterrupt):
        prepare(with_data(), quietly)
    again = prepare(with_data(), quietly)
    assert calls == [0, 1, 1, 2, 3]  # the finished row is not encoded again
    assert again.manifest.checksum == whole.manifest.checksum


def test_unreadable_pictures_end_it_or_are_counted(with_data, tmp_path):
    rows = [dict(row) for row in PAIRS]
    rows[1]["jpg_0"] = b"no picture"
    rows[3]["jpg_1"] = rows[3]["jpg_1"][:90]
    write_parquet(tmp_path / "set.parquet", rows)
    with pytest.raises(StoppedRun, match=r"in row 1 a picture is not readable .*data\.unreadable"):
        prepare(with_data(), quietly)
    found = prepare(with_data(unreadable="skip"), quietly)
    assert found.prompts == ("a cat", "a hen")
    assert sum(found.manifest.skipped.values()) == 2
    assert preparing.describe(found).startswith("2 pairs (left out: 1x a tie, 1x no label, ")


def test_of_duplicate_prompts_the_first_labelled_row_counts_even_where_it_cannot_be_read(with_data, tmp_path):
    rows = [dict(row) for row in PAIRS]
    rows[0]["jpg_0"] = b"no picture"  # "a cat", which row 3 is about too
    write_parquet(tmp_path / "set.parquet", rows)
    found = prepare(with_data(unreadable="skip", duplicate_prompts="first"), quietly)
    assert found.prompts == ("a dog", "a hen")  # as docs/data.md says
    assert sum(found.manifest.skipped.values()) == 1


def test_a_dataset_of_the_hub_is_encoded_under_its_own_name(with_data, tmp_path, monkeypatch):
    files = {"data/train-00000-of-00001.parquet": (tmp_path / "set.parquet").read_bytes()}
    fill_cache(tmp_path / "hub", {"owner/pictures": files | {"data/test-00000-of-00001.parquet": b"not read"}})
    use_cache(monkeypatch, tmp_path / "hub")
    experiment = with_data(path="owner/pictures", split="train")
    runnable = replace(experiment, method=SFT(), optimizer=OptimizerConfig(batch_size=2, micro_batch_size=2))
    check_experiment(runnable)
    found = prepare(experiment, quietly)
    assert found.prompts == prepare(with_data(), quietly).prompts
    assert found.folder.name.startswith("pictures-")
    with pytest.raises(ConfigError, match=r"data\.path = 'owner/none\.parquet': there is no such file"):
        check_experiment(replace(runnable, data=with_data(path="owner/none.parquet").data))


def test_what_the_config_names_wrongly_is_one_error_before_a_model_loads(with_data, make_experiment, monkeypatch):
    monkeypatch.setattr(preparing, "model_family", lambda _: pytest.fail("a model is loaded"))
    with pytest.raises(ConfigError, match=r"data\.path = .*no column 'prompt' \(caption\)"):
        prepare(with_data(caption="prompt"), quietly)
    with pytest.raises(ConfigError, match=r"data\.path is missing"):
        prepare(make_experiment(), quietly)


def test_who_comes_second_waits_and_uses_what_the_first_has_made(with_data):
    found = prepare(with_data(), quietly)
    (found.folder / MANIFEST).rename(found.folder / "aside")  # as if it were still being made
    with ThreadPoolExecutor() as pool:
        with locked(found.folder):
            second = pool.submit(prepare, with_data(), lambda line: pytest.fail(line) if "encoding" in line else None)
            time.sleep(0.5)
            assert not second.done()
            (found.folder / "aside").rename(found.folder / MANIFEST)
        assert second.result(60).manifest.checksum == found.manifest.checksum


def test_a_full_disk_is_one_line_and_nothing_is_lost(with_data, monkeypatch):
    put, places = SetWriter.put, list[int]()

    def full(self, place, *row):
        places.append(place)
        if len(places) == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.folder / "latents.npy"))
        put(self, place, *row)

    monkeypatch.setattr(SetWriter, "put", full)
    with pytest.raises(StoppedRun, match=r"latents\.npy: No space left on device; what is encoded stays"):
        prepare(with_data(), quietly)
    assert len(prepare(with_data(), quietly)) == 4
    assert places == [0, 1, 2, 2, 3]


def test_blocks_hold_every_place_once_and_stay_inside_a_group(tmp_path):
    table = open_table(write_parquet(tmp_path / "set.parquet", PAIRS * 100, group=250))
    chosen = select(table, DataConfig()).chosen
    places = [place for place in range(len(chosen)) if place % 3]
    found = blocks(table, chosen, places)
    assert [place for block in found for place in block.places] == places
    for block in found:
        assert len(block.rows) <= BLOCK
        assert any(block.rows[0] in group and block.rows[-1] in group for group in table.groups())
        assert [chosen[place].row for place in block.places] == list(block.rows)
