"""Each question, on pictures whose answer is known."""

import json
import math
from dataclasses import asdict
from weakref import WeakSet

import pytest
import torch

from raypref import evaluate
from raypref.core.seeding import Key
from raypref.evaluate.best_of_n import RULES, BestOfN
from raypref.evaluate.diversity import Diversity
from raypref.evaluate.editing import KEPT, Editing
from raypref.evaluate.fidelity import NO_FEATURES, NO_PICTURES, Fidelity
from raypref.evaluate.generalisation import Generalisation
from raypref.evaluate.ood import OutOfDistribution
from raypref.evaluate.question import Question
from raypref.evaluate.table import Table
from raypref.evaluate.win_rate import WinRate
from raypref.registry import named_classes
from raypref.rewards.base import Featured
from raypref.train.drawing import Chosen, Edited
from raypref.train.experiment import EvaluateConfig, RewardConfig
from tests.evaluate.studio import BASE, OTHER, RUN, GivenStudio, album, scored
from tests.toy_runtime import toy_experiment

OURS = torch.tensor([[3.0, 1.0], [2.0, 2.0], [5.0, 0.0], [1.0, torch.nan]])
THEIRS = torch.tensor([[1.0, 2.0], [2.0, 2.0], [1.0, 1.0], [0.0, 0.0]])
# by prompt: (1 + 0) / 2, (1/2 + 1/2) / 2, (1 + 0) / 2, 1 (its other picture has no score)
SHARES = torch.tensor([0.5, 0.5, 0.5, 1.0])


def test_a_win_rate_is_the_mean_of_the_shares_of_prompts():
    table = WinRate().answer(GivenStudio(scored({RUN: {"r": OURS}, BASE: {"r": THEIRS}})))
    found = table.cell("base", "r", column="win rate")
    assert found.mean == pytest.approx(float(SHARES.mean()))
    assert found.standard_error == pytest.approx(float(SHARES.std() / 2))
    assert found.n == 4
    assert table.cell("base", "r", column="tied").mean == pytest.approx(0.25)
    assert table.cell("base", "r", column="difference").mean == pytest.approx((0.5 + 0 + 1.5 + 1) / 4)


def test_a_win_rate_does_not_know_the_order_of_prompts_or_of_pictures():
    order = Key(3)("order").permutation(4)
    plain = WinRate().answer(GivenStudio(scored({RUN: {"r": OURS}, BASE: {"r": THEIRS}})))
    mixed = WinRate().answer(GivenStudio(scored({RUN: {"r": OURS[order].flip(1)}, BASE: {"r": THEIRS[order].flip(1)}})))
    assert plain == mixed


def test_win_rates_of_the_two_sides_add_up_to_one():
    ours, theirs = Key(1)("ours").normal(30, 2), Key(1)("theirs").normal(30, 2)
    there = WinRate().answer(GivenStudio(scored({RUN: {"r": ours}, BASE: {"r": theirs}})))
    back = WinRate().answer(GivenStudio(scored({RUN: {"r": theirs}, BASE: {"r": ours}})))
    one, other = (table.cell("base", "r", column="win rate") for table in (there, back))
    assert (one.mean, one.low, one.high) == pytest.approx((1 - other.mean, 1 - other.high, 1 - other.low))


def test_against_itself_it_is_a_half_and_named_runs_take_the_bases_place():
    studio = GivenStudio(scored({RUN: {"r": OURS}, OTHER: {"r": OURS}}), BASE, RUN, OTHER)
    table = WinRate().answer(studio)
    found = table.cell("other", "r", column="win rate")
    assert found.mean == 0.5
    assert found.low < 0.5 < found.high
    assert [row.labels for row in table.rows] == [("other", "r")]


def test_generalisation_is_trained_by_judged_with_gains_over_the_base_model():
    scores = {
        BASE: {"colorfulness": torch.zeros(4, 2), "jpeg": torch.ones(4, 2)},
        RUN: {"colorfulness": torch.full((4, 2), 2.0), "jpeg": torch.zeros(4, 2)},
        OTHER: {"colorfulness": torch.zeros(4, 2), "jpeg": torch.full((4, 2), 4.0)},
    }
    table = Generalisation().answer(GivenStudio(scored(scores), BASE, RUN, OTHER))
    assert table.columns == ("colorfulness", "jpeg")
    assert table.cell("run", "colorfulness", "score", column="jpeg").mean == 0.0
    assert table.cell("run", "colorfulness", "gain", column="jpeg").mean == -1.0
    assert table.cell("other", "jpeg", "gain", column="jpeg").mean == 3.0
    assert table.cell("base", "nothing", "score", column="jpeg").mean == 1.0


def test_other_sets_of_prompts_come_after_the_held_out_ones():
    question = OutOfDistribution(sets=("animals:out_of_distribution",), sample=3)
    experiment = toy_experiment(heldout_prompts=("f", "g"))
    seen = {}

    def drawn(who, scene):
        seen[who, scene.prompts] = None
        return album({"r": torch.full((len(scene.prompts), 2), float(who == RUN))})

    table = question.answer(GivenStudio(drawn, experiment=experiment))
    assert [row.labels[0] for row in table.rows] == ["held out", "animals:out_of_distribution"]
    assert [row.cells[0].n for row in table.rows] == [2, 3]
    assert table.cell("animals:out_of_distribution", "base", "r", column="win rate").mean == 1.0
    assert set(question.prompts(experiment)) == {prompt for _, prompts in seen for prompt in prompts}


def test_best_of_n_tells_what_a_choice_gains_and_which_rules_are_one():
    pictures = {None: 0, "q": 10, "delta_parent": 10, "delta_parent_printed": 20}

    def drawn(who, scene):
        rule = scene.drawing.search.step_reward if isinstance(scene.drawing, Chosen) else None
        images = torch.full((4, 2, 2, 2, 3), pictures[rule], dtype=torch.uint8)
        return album({"r": torch.full((4, 2), 5.0 + pictures[rule])}, images)

    question = BestOfN(candidates=(3,), rules=("q", "delta_parent", "delta_parent_printed"), steps=(0, 2))
    table = question.answer(GivenStudio(drawn))
    # Six steps, outputs at 0 to 5: 1, 3 candidates, 1, 3 candidates, 1, 1. Scored: 2 x 3 candidates, and 2 parents.
    assert [row.labels for row in table.rows] == [
        ("base", "none", "1", "", "6", "0", ""),
        ("base", "q", "3", "0, 2", "10", "6", ""),
        ("base", "delta_parent", "3", "0, 2", "10", "8", "q, N = 3"),
        ("base", "delta_parent_printed", "3", "0, 2", "10", "8", ""),
        ("run", "none", "1", "", "6", "0", ""),
    ]
    assert [row.cells[table.columns.index("gain")].mean for row in table.rows] == [0, 10, 10, 20, 0]
    assert [row.cells[table.columns.index("r")].mean for row in table.rows] == [5, 15, 15, 25, 5]


def test_best_of_n_chooses_wherever_a_rule_can_by_default():
    """Nothing lies behind the last step that could be looked ahead to."""
    steps = {search.step_reward: search.steps for search in BestOfN().searches(6)}
    assert steps == {rule: tuple(range(5 if rule.startswith("lookahead") else 6)) for rule in RULES}


@pytest.mark.parametrize(
    ("question", "problem"),
    [
        (BestOfN(rules=("delta_cross",)), "rules: 'delta_cross'"),
        (BestOfN(candidates=(1,)), "candidates = 1"),
        (BestOfN(steps=(0, 9)), "the last step is 5"),
        (OutOfDistribution(sets=("animals:nowhere",)), "sets: 'animals:nowhere': animals has no split"),
        (Editing(edits="nowhere.jsonl"), "edits = 'nowhere.jsonl': nowhere.jsonl: there is no such file"),
        (Fidelity(tower="colorfulness"), "tower = 'colorfulness': it has no features"),
        (Fidelity(pictures="nowhere"), "pictures = 'nowhere': which network's"),
        (Fidelity(pictures="nowhere", tower="prompt_match"), "pictures = 'nowhere': nowhere: there is no such folder"),
    ],
)
def test_what_cannot_be_asked_is_refused(question, problem):
    with pytest.raises(ValueError, match=problem):
        question.check(toy_experiment(heldout_prompts=("f", "g")))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(Editing, {"strength": 0.0}), (Fidelity, {"bandwidth": -1.0}), (OutOfDistribution, {"sets": ()})],
)
def test_settings_that_make_no_sense_are_refused(kind, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        kind(**settings)


def test_diversity_is_what_is_left_of_the_bases():
    def drawn(who, scene):
        images = torch.zeros(3, 2, 2, 2, 3, dtype=torch.uint8)
        levels = {BASE: [51, 102, 0], RUN: [25, 51, 51]}[
            who
        ]  # from 0 to 255: of the second picture, the first is black
        images[:, 1] = torch.tensor(levels)[:, None, None, None]
        return album({"r": torch.zeros(3, 2)}, images)

    table = Diversity().answer(GivenStudio(drawn))
    assert table.cell("diversity", "base", column="difference between pictures").mean == pytest.approx(0.2)
    assert table.cell("diversity", "run", column="change from base").mean == pytest.approx(-0.1 / 3, abs=2e-3)
    kept = table.cell("diversity", "run", column="share kept")
    assert kept.mean == pytest.approx(0.5, abs=0.01)
    assert kept.n == 2  # the third prompt's pictures were alike at the start


def test_an_edit_keeps_what_does_not_change():
    def drawn(who, scene):
        if not isinstance(scene.drawing, Edited):
            return album({"r": torch.zeros(4, 2)})  # black
        assert scene.prompts == ("g", "h", "i", "f")
        assert len(scene.sources) == 4
        grey = 51 if who == RUN else 102
        return album({"r": torch.zeros(4, 2)}, torch.full((4, 2, 2, 2, 3), grey, dtype=torch.uint8))

    table = Editing().answer(GivenStudio(drawn))
    assert table.cell("base", KEPT, column="ours").mean == pytest.approx(-0.2)
    assert table.cell("base", KEPT, column="theirs").mean == pytest.approx(-0.4)
    assert table.cell("base", KEPT, column="win rate").mean == 1.0
    assert table.cell("base", "r", column="win rate").mean == 0.5


def test_edits_begin_where_diffusers_begins():
    assert [Edited(strength).first_step(20) for strength in (0.75, 1.0, 0.01)] == [5, 0, 19]


def test_drift_is_told_by_step_and_what_was_not_measured_is_told_too():
    kl = torch.tensor([[[1.0, 3.0, torch.nan]] * 2, [[3.0, 5.0, torch.nan]] * 2])

    def drawn(who, scene):
        return album({"colorfulness": torch.zeros(2, 2)}, kl=None if who == BASE else kl)

    experiment = toy_experiment(heldout_prompts=("f", "g"))
    table = Fidelity().answer(GivenStudio(drawn, experiment=experiment))
    values = {row.labels[0]: row.cells[0].mean for row in table.rows}
    assert values == {"KL, mean over steps": 3.0, "KL at step 0": 2.0, "KL at step 1": 4.0}
    assert NO_FEATURES in table.notes


def test_the_same_pictures_are_no_distance_apart_and_others_are():
    images = torch.randint(0, 255, (8, 2, 64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

    def drawn(who, scene):
        mine = {"base": images, "run": images, "other": images // 4}[who.label]
        return album({"colorfulness": torch.zeros(8, 2)}, mine, torch.zeros(8, 2, 3))

    experiment = toy_experiment(heldout_prompts=("f", "g"), evaluate=EvaluateConfig(rewards=("prompt_match",)))
    table = Fidelity().answer(GivenStudio(drawn, BASE, RUN, OTHER, experiment=experiment))
    assert table.cell("MMD²", "run", "base", column="value").mean == pytest.approx(0.0, abs=1e-12)
    assert table.cell("MMD²", "other", "base", column="value").low > 0.01
    assert table.cell("MMD²: p-value", "run", "base", column="value").mean == 1.0
    assert table.cell("MMD²: p-value", "other", "base", column="value").mean < 0.05
    assert NO_PICTURES in table.notes


def test_pictures_are_compared_by_directions_at_the_bandwidth_that_is_asked_for(monkeypatch):
    """Features of one direction are the same however long. CMMD's kernel has the bandwidth 10 for features of length 1:
    of such, at a right angle, it is exp(-2 / (2 * 10^2))."""

    class Directions(Featured):
        name, unit, differentiable = "directions", "none", True

        def score(self, images, prompts):
            return images.mean((1, 2, 3))

        def features(self, images):
            return images.mean((2, 3))[:, :2] * 7

    monkeypatch.setattr("raypref.evaluate.fidelity.build_reward", lambda name, **settings: Directions())
    colours = {BASE: (200, 0), RUN: (100, 0), OTHER: (0, 50)}

    def drawn(who, scene):
        images = torch.zeros(4, 2, 2, 2, 3, dtype=torch.uint8)
        images[..., :2] = torch.tensor(colours[who], dtype=torch.uint8)
        return album({"r": torch.zeros(4, 2)}, images, torch.zeros(4, 2, 3))

    table = Fidelity(tower="clip", bandwidth=10.0).answer(GivenStudio(drawn, BASE, RUN, OTHER))
    assert table.cell("MMD²", "run", "base", column="value").mean == pytest.approx(0.0, abs=1e-9)
    far = table.cell("MMD²", "other", "base", column="value").mean
    assert far == pytest.approx(2 - 2 * math.exp(-2 / 200), rel=1e-4)


ASKED = (
    *(WinRate(), OutOfDistribution(sample=3), Generalisation(), Diversity(), Editing(), Fidelity()),
    BestOfN(candidates=(3,), rules=("q", "delta_parent"), steps=(0, 2)),
)


@pytest.mark.parametrize("question", ASKED, ids=lambda question: question.name)
def test_pictures_are_asked_for_by_who_looks_and_held_one_album_at_a_time(question):
    alive, most, looked = WeakSet(), 0, False

    def drawn(who, scene):
        nonlocal most, looked
        most, looked = max(most, len(alive)), looked or scene.pictures
        if not scene.pictures:
            return album({"colorfulness": torch.zeros(len(scene.prompts), 2)}, kl=None)
        images = Key(0)(who.label).normal(len(scene.prompts), 2, 16, 16, 3).abs().mul(50).byte()
        alive.add(images)
        return album({"colorfulness": torch.zeros(len(scene.prompts), 2)}, images, torch.ones(len(scene.prompts), 2, 3))

    experiment = toy_experiment(heldout_prompts=("f", "g", "h"), evaluate=EvaluateConfig(rewards=("prompt_match",)))
    question.answer(GivenStudio(drawn, BASE, RUN, OTHER, experiment=experiment))
    assert looked == question.looks
    assert most == 0
    assert {type(one) for one in ASKED} == set(named_classes(evaluate, Question).values())


def test_a_tower_has_the_settings_that_it_judges_with(monkeypatch):
    built = []
    monkeypatch.setattr("raypref.evaluate.fidelity.build_reward", lambda name, **given: built.append((name, given)))

    def asked(**sections):
        experiment = toy_experiment(heldout_prompts=("f", "g"), **sections)
        kl = torch.ones(2, 2, 3)
        Fidelity(tower="clip").answer(
            GivenStudio(lambda who, scene: album({"r": torch.zeros(2, 2)}, kl=kl), experiment=experiment)
        )

    first, second = {"tower": "x"}, {"tower": "y"}
    asked(reward=RewardConfig("clip", settings=first), evaluate=EvaluateConfig(reward_settings={"clip": second}))
    asked(
        reward=RewardConfig(also=("clip",), also_settings={"clip": first}), evaluate=EvaluateConfig(rewards=("clip",))
    )
    asked(evaluate=EvaluateConfig(rewards=("clip",), reward_settings={"clip": first}))
    asked(watched=(RewardConfig("clip", settings=first),))
    asked()
    assert built == [*[("clip", first)] * 4, ("clip", {})]


def test_questions_are_found_by_name_and_answers_survive_json():
    found = named_classes(evaluate, Question)
    assert set(found) == {
        *("win_rate", "ood", "generalisation", "best_of_n", "diversity", "editing", "fidelity"),
    }
    for name, kind in found.items():
        assert kind().name == name
        assert kind.asks.endswith("?")
        json.dumps(asdict(kind()))
    table = WinRate().answer(GivenStudio(scored({RUN: {"r": OURS}, BASE: {"r": THEIRS}})))
    assert Table.read(json.loads(json.dumps(asdict(table)))) == table
    with pytest.raises(ValueError, match="heads"):
        Table("q", "", ("a",), ("b",), table.rows)
    assert not math.isnan(table.rows[0].cells[0].low)
