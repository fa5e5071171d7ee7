"""A reward that raises, hangs or returns nonsense costs its own pairs, and beyond a share stops the run."""

import functools
import json
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from raypref.core.search import Guidance, Search
from raypref.evaluate.heldout import Evaluation, evaluate
from raypref.methods.d3po import D3PO
from raypref.methods.ddpo import DDPO
from raypref.methods.rdpo import RDPO
from raypref.rewards.base import StepAwareReward
from raypref.rewards.colorfulness import Colorfulness
from raypref.rewards.jpeg_compressibility import JpegCompressibility
from raypref.run import train as whole_run
from raypref.run_directory import RunDirectory
from raypref.train.asked import Asked
from raypref.train.chunk import rollout_chunks
from raypref.train.experiment import ClusterConfig, Experiment, GuardConfig
from raypref.train.guards import BadRewards, check_rewards
from raypref.train.loop import train
from raypref.train.rollout import ScoreRequest
from raypref.train.scorer import Scorer
from raypref.train.stopped import StoppedRun
from tests.recording import Recording, small_experiment
from tests.toy_runtime import ToyDecoder, ToyRuntime, toy_experiment, toy_run

PATIENCE = 5.0  # for a reward that does answer, on a busy machine
FIRST = torch.tensor([0])
Fault = Callable[[Tensor], object]


def raises(scores: Tensor) -> Tensor:
    raise ValueError("out of\n   ink")


def spoilt(value: float) -> Fault:
    return lambda scores: torch.full_like(scores, value)


FAULTS: dict[str, tuple[Fault, str]] = {
    "raises": (raises, "raised ValueError: out of ink"),
    "nan": (spoilt(math.nan), "returned NaN or infinity"),
    "infinity": (spoilt(math.inf), "returned NaN or infinity"),
    "minus infinity": (spoilt(-math.inf), "returned NaN or infinity"),
    "too many": (lambda scores: scores.repeat(2), "returned scores of shape [12] for 6 pictures, not [6]"),
    "a column": (lambda scores: scores[:, None], "returned scores of shape [6, 1] for 6 pictures, not [6]"),
    "one for all": (lambda scores: scores.mean(), "returned scores of shape [] for 6 pictures, not [6]"),
    "integers": (lambda scores: scores.long(), "returned a tensor of torch.int64, not a tensor of floats"),
    "a list": (lambda scores: scores.tolist(), "returned a list, not a tensor of floats"),
    "nothing": (lambda scores: None, "returned a NoneType, not a tensor of floats"),
}


class Faulty(Colorfulness):
    """Colourfulness; the numbered calls for training prompts, counted from 1, go wrong."""

    name = "faulty"

    def __init__(self, fault: Fault, wrong: Callable[[int], bool] = lambda call: True) -> None:
        self.fault, self.wrong, self.calls = fault, wrong, 0

    def score(self, images: Tensor, prompts: Sequence[str]) -> object:  # type: ignore[override]
        scores = super().score(images, prompts)
        if "f" in prompts:  # of the evaluation
            return scores
        self.calls += 1
        return self.fault(scores) if self.wrong(self.calls) else scores


class Hanging:
    """A fault: it waits to be let go."""

    def __init__(self) -> None:
        self.go, self.waiting = threading.Event(), list[threading.Thread]()

    def __call__(self, scores: Tensor) -> Tensor:
        self.waiting.append(threading.current_thread())
        self.go.wait(30)  # so that a run without patience fails the test, and soon
        return scores

    def release(self) -> None:
        self.go.set()
        for thread in self.waiting:
            thread.join()


# Four prompts in chunks of two, three branchings: calls 1 to 3 are the first chunk's, of six pictures each (a parent
# and two children of two prompts), 4 to 6 the second's; two pairs hang on a call, of the twelve of an iteration.
CALLS, PICTURES = 6, 6


class Watching(ToyRuntime):
    """Keeps the pairs that were trained on: prompt, step, credit and the winning latent."""

    def __init__(self, experiment: Experiment, reward: Colorfulness) -> None:
        super().__init__(experiment, rewards=(reward,))
        self.trained: set[tuple] = set()
        loss = self.learner.loss

        def watched(batch):
            for row, prompt in enumerate(batch.prompts):
                latents = (*batch.x_t[:, row].flatten().tolist(), *batch.x_s[:, row].flatten().tolist())
                self.trained.add((prompt, int(batch.steps[row]), *batch.credit[:, row].tolist(), *latents))
            return loss(batch)

        self.learner.loss = watched


def one_iteration(reward: Colorfulness, **guard: float) -> tuple[Recording, Watching]:
    experiment = toy_experiment(iterations=1, guard=GuardConfig(reward_timeout=PATIENCE, **guard))
    seen, runtime = Recording(), Watching(experiment, reward)
    train(experiment, runtime, seen)
    return seen, runtime


@functools.cache
def rows_of_a_healthy_reward() -> set[tuple]:
    return one_iteration(Colorfulness())[1].trained


@pytest.mark.parametrize("kind", FAULTS)
def test_a_failed_call_costs_its_own_pairs_and_no_other(kind: str):
    fault, reason = FAULTS[kind]
    # The last call of a chunk: what it would have decided comes too late to change the rollout.
    seen, runtime = one_iteration(Faulty(fault, lambda call: call == CALLS), missing_share=0.2)
    report, healthy = seen.reports[0], rows_of_a_healthy_reward()
    assert report.failures == {f"faulty {reason}": PICTURES}
    assert report.pairs == 10
    assert report.metrics["dropped_unscored"] == 2
    assert report.metrics["missing_share"] == report.metrics["dropped_share"] == pytest.approx(2 / 12)
    assert len(healthy) == 12
    assert len(runtime.trained) == 10
    assert runtime.trained < healthy
    assert {row[1] for row in healthy - runtime.trained} == {4}


def test_a_call_that_hangs_costs_its_own_pairs_and_no_other():
    hanging = Hanging()
    guard = GuardConfig(reward_timeout=PATIENCE, missing_share=0.2)
    experiment, seen = toy_experiment(iterations=2, guard=guard), Recording()
    runtime = Watching(experiment, Faulty(hanging, lambda call: call == CALLS))
    update, released = runtime.learner.update, []

    def slowly(iteration, sampled):
        hanging.release()  # it does come back, before it is needed again
        released.append(iteration)
        return update(iteration, sampled)

    runtime.learner.update = slowly
    train(experiment, runtime, seen)
    gave_up = f"faulty gave no answer for {PATIENCE:g} s (guard.reward_timeout)"
    assert [report.failures for report in seen.reports] == [{gave_up: PICTURES}, {}]
    assert [report.pairs for report in seen.reports] == [10, 12]
    assert released == [0, 1]


def test_a_reward_that_hangs_is_not_called_again_until_it_comes_back():
    hanging = Hanging()
    reward = Faulty(hanging, lambda call: call == 1)
    asked, pictures, t = Asked(reward, 0.2), torch.rand(3, 3, 4, 4), torch.zeros(3, dtype=torch.int64)
    first, second = (asked.score(pictures, ("a",) * 3, t) for _ in range(2))
    assert first.failures == {"faulty gave no answer for 0.2 s (guard.reward_timeout)": 3}
    assert second.failures == {"faulty has not come back from an earlier call": 3}
    assert asked.accuracy(pictures, ("a",) * 3) == ({}, second.failures)
    assert bool(first.scores.isnan().all() & second.scores.isnan().all())
    assert reward.calls == 1
    hanging.release()
    third = asked.score(pictures, ("a",) * 3, t)
    assert third.failures == {}
    assert torch.equal(third.scores, Colorfulness().score(pictures, ("a",) * 3))


def test_single_pictures_without_a_score_leave_the_others_their_pairs():
    """One candidate of four fails: its siblings still make a pair, and it is neither best nor worst."""

    class Blind(Colorfulness):
        def score(self, images, prompts):
            scores = super().score(images, prompts)
            return scores.index_fill(0, FIRST, torch.nan)  # the first child of the first prompt

    method = RDPO(search=Search(steps=(0, 2, 4), step_reward="q", candidates=4))
    experiment = toy_experiment(method, iterations=1)
    seen = Recording()
    train(experiment, ToyRuntime(experiment, rewards=(Blind(),)), seen)
    assert seen.reports[0].failures == {"colorfulness returned NaN or infinity": CALLS}
    assert seen.reports[0].pairs == 12
    assert seen.reports[0].metrics["missing_share"] == 0


@functools.cache
def never_bad(lag: int) -> str:
    return toy_run(toy_experiment(iterations=4, lag=lag))[0].final_checksum()


@pytest.mark.parametrize(("kind", "lag"), [("raises", 1), *((kind, 0) for kind in (*FAULTS, "hangs", "constant"))])
def test_above_the_share_the_run_stops_says_why_and_goes_on_as_if_nothing_had_been(kind: str, lag: int):
    hanging = Hanging()
    fault, reason = {
        **FAULTS,
        "hangs": (hanging, "gave no answer for 0.5 s (guard.reward_timeout)"),
        "constant": (spoilt(0.25), "exact ties"),
    }[kind]
    guard = GuardConfig(reward_timeout=0.5 if kind == "hangs" else PATIENCE)
    experiment = toy_experiment(iterations=4, lag=lag, guard=guard)
    seen = Recording()
    reward = Faulty(fault, lambda call: call > 2 * CALLS)
    with pytest.raises(BadRewards) as stopped:
        train(experiment, ToyRuntime(experiment, rewards=(reward,)), seen)
    hanging.release()
    said = str(stopped.value)
    assert said.startswith("iteration 2: 100.0% of the pairs ")
    assert reason in said
    assert f"guard.{'tied' if kind == 'constant' else 'missing'}_share = 0." in said
    assert "raypref resume" in said
    assert [state.iteration for state in seen.states] == [0, 1, 2]
    resumed, _ = toy_run(experiment, resumed=seen.states[-1])
    assert resumed.final_checksum() == never_bad(lag)


def test_the_limit_is_a_share_and_the_reasons_are_counted():
    with pytest.raises(
        BadRewards, match=r"iteration 0: 33\.3% .*missing_share = 0\.3 .*ValueError: out of ink \(12x\)"
    ):
        one_iteration(Faulty(raises, lambda call: call in (1, 4)), missing_share=0.3)
    seen, _ = one_iteration(Faulty(raises, lambda call: call in (1, 4)), missing_share=0.34)
    assert seen.reports[0].metrics["dropped_unscored"] == 4


def test_only_missing_scores_and_exact_ties_count():
    config = GuardConfig(missing_share=0.2, tied_share=0.5)
    silent = {"unscored": 0, "tie": 0, "incomparable": 0, "threshold": 0}
    for harmless in ({"unscored": 2}, {"tie": 5}, {"incomparable": 9}, {"threshold": 9}):
        check_rewards(config, 0, silent | harmless, 10 - sum(harmless.values()), {})
    check_rewards(config, 0, {}, 0, {})
    with pytest.raises(
        BadRewards, match=r"30\.0% of the pairs lack a score, .*= 0\.2 .*b \(8x\); d \(4x\); a \(3x\)\."
    ):
        check_rewards(config, 0, silent | {"unscored": 3}, 7, {"a": 3, "b": 8, "c": 1, "d": 4})
    with pytest.raises(BadRewards, match=r"60\.0% of the pairs are exact ties, .*guard\.tied_share = 0\.5 allows"):
        check_rewards(config, 0, silent | {"tie": 6}, 4, {})


@pytest.mark.parametrize(
    "method", [D3PO(search=Search(shape="chain", step_reward="final", steps=(0, 2))),
               DDPO(search=replace(DDPO().search, steps=(0, 2)))]
)  # fmt: skip
@pytest.mark.parametrize("kind", ["raises", "constant"])
def test_trajectories_are_looked_after_like_siblings(method, kind: str):
    fault = {"raises": raises, "constant": spoilt(0.25)}[kind]
    experiment = toy_experiment(method, iterations=1)
    with pytest.raises(BadRewards, match={"raises": "lack a score", "constant": "exact ties"}[kind]):
        train(experiment, ToyRuntime(experiment, rewards=(Faulty(fault),)), Recording())
    patient = replace(experiment, guard=GuardConfig(missing_share=0.5))
    seen = Recording()
    train(patient, ToyRuntime(patient, rewards=(Faulty(raises, lambda call: call == 2),)), seen)
    assert seen.reports[0].metrics["missing_share"] == 0.5
    assert seen.reports[0].pairs == experiment.run.prompts_per_iteration // 2 * method.rows_per_prompt()


def test_a_winner_whose_gradient_fails_stays_where_it_is():
    class NoSlope(Colorfulness):
        def score(self, images, prompts):
            if images.requires_grad:
                raise ValueError("no slope")
            return super().score(images, prompts)

    def first_rollout(reward: Colorfulness, kind: str) -> Tensor:
        guidance = Guidance(kind=kind, normalize=kind != "target_l2")
        experiment = toy_experiment(RDPO(search=Search(steps=(0, 2, 4), guidance=guidance)))
        runtime = ToyRuntime(experiment, rewards=(reward,))
        chunk = rollout_chunks(experiment, 0)[0]
        return runtime.sampler.rollout(chunk, runtime.learner.weights(0)).rollout.x_s

    plain = first_rollout(Colorfulness(), "none")
    for kind in ("reward_ascent", "target_l2"):
        assert torch.equal(first_rollout(NoSlope(), kind), plain)
        assert not torch.equal(first_rollout(Colorfulness(), kind), plain)


class Broken(torch.autograd.Function):
    """Differentiable, it says."""

    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise ValueError("no way back")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(Broken.apply, "ValueError: no way back"), (torch.detach, "RuntimeError: element 0 of tensors does not require")],
)
def test_a_gradient_that_cannot_be_computed_is_counted_and_moves_nothing(spoil, reason):
    class NoWayBack(Colorfulness):
        def score(self, images, prompts):
            return spoil(super().score(images, prompts))

    scorer = Scorer(ToyDecoder(), (NoWayBack(),))
    request = ScoreRequest(torch.randn(3, 2, 2, 2), ("a",) * 3, torch.zeros(3, dtype=torch.int64), gradient=True)
    found = scorer.score(request)
    assert found.value.isfinite().all()
    assert torch.equal(found.gradient, torch.zeros(3, 2, 2, 2))
    ((why, count),) = found.failures.items()
    assert reason in why
    assert count == 3


def test_a_call_that_failed_is_not_counted_again_for_its_gradient():
    class Silent(Colorfulness):
        def score(self, images, prompts):
            raise ValueError("no score")

    request = ScoreRequest(torch.randn(3, 2, 2, 2), ("a",) * 3, torch.zeros(3, dtype=torch.int64), gradient=True)
    found = Scorer(ToyDecoder(), (Silent(),)).score(request)
    assert found.failures == {"colorfulness raised ValueError: no score": 3}
    assert torch.equal(found.gradient, torch.zeros(3, 2, 2, 2))


class Interrupted(Colorfulness):
    """Wants the whole run to end."""

    def __init__(self, wish: BaseException) -> None:
        self.wish = wish

    def score(self, images, prompts):
        raise self.wish


@pytest.mark.parametrize("wish", [KeyboardInterrupt(), SystemExit(3), StoppedRun("enough")])
def test_a_wish_to_end_the_run_is_granted(wish: BaseException):
    asked = Asked(Interrupted(wish), PATIENCE)
    with pytest.raises(type(wish)):
        asked.score(torch.rand(1, 3, 4, 4), ("a",), torch.zeros(1, dtype=torch.int64))


def test_gradients_are_kept_where_they_are_wanted_and_only_there():
    pictures, t = torch.rand(2, 3, 4, 4, requires_grad=True), torch.zeros(2, dtype=torch.int64)
    asked = Asked(Colorfulness(), PATIENCE)
    assert asked.score(pictures, ("a", "b"), t).scores.requires_grad
    with torch.no_grad():
        assert not asked.score(pictures, ("a", "b"), t).scores.requires_grad


def test_a_reward_computes_with_the_threads_of_its_run():
    found = []

    class Counting(Colorfulness):
        def score(self, images, prompts):
            found.append(torch.get_num_threads())
            return super().score(images, prompts)

    before = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            Asked(Counting(), PATIENCE).score(torch.rand(1, 3, 4, 4), ("a",), torch.zeros(1, dtype=torch.int64))
    finally:
        torch.set_num_threads(before)
    assert found == [1, 2]


def test_half_precision_becomes_single_before_it_is_judged():
    class Double(StepAwareReward):
        name, unit, differentiable = "double", "none", False

        def score_at(self, images, prompts, t):
            return torch.tensor([1.5, 1e300], dtype=torch.float64)  # the second is infinite in single precision

    answer = Asked(Double(), PATIENCE).score(torch.rand(2, 3, 4, 4), ("a", "b"), torch.zeros(2, dtype=torch.int64))
    assert answer.scores.dtype == torch.float32
    assert answer.scores[0] == 1.5
    assert bool(answer.scores[1].isnan())
    assert answer.failures == {"double returned NaN or infinity": 1}


def test_what_is_no_picture_has_no_score_though_the_reward_makes_one_of_it():
    """JPEG knows no NaN: it compresses black."""
    images = torch.rand(3, 3, 16, 16)
    images[0, 1, 2, 3], images[2] = torch.nan, torch.inf
    answer = Asked(JpegCompressibility(), PATIENCE).score(images, ("a", "b", "c"), torch.zeros(3, dtype=torch.int64))
    assert answer.scores.isfinite().tolist() == [False, True, False]
    assert answer.failures == {"the decoder made NaN or infinity": 2}


def test_reasons_stay_short():
    class Wordy(Colorfulness):
        def score(self, images, prompts):
            raise ValueError("blah " * 1000)

    answer = Asked(Wordy(), PATIENCE).score(torch.rand(1, 3, 4, 4), ("a",), torch.zeros(1, dtype=torch.int64))
    assert [len(reason) for reason in answer.failures] == [200]


# Watched rewards: held-out pictures come one prompt a chunk, two pictures each.
class Watched(JpegCompressibility):
    """JPEG size; goes wrong always, or only on pictures of prompt f."""

    name = "watched"

    def __init__(self, fault: Fault, prompts: tuple[str, ...] = ("f", "g")) -> None:
        self.fault, self.prompts = fault, prompts

    def score(self, images: Tensor, prompts: Sequence[str]) -> object:  # type: ignore[override]
        scores = super().score(images, prompts)
        return self.fault(scores) if prompts[0] in self.prompts else scores


def watched_run(*watched: JpegCompressibility, **guard: float) -> tuple[Recording, Evaluation]:
    guards = GuardConfig(reward_timeout=PATIENCE, **guard)
    experiment = toy_experiment(iterations=1, heldout_prompts=("f", "g"), guard=guards)
    experiment = replace(experiment, run=replace(experiment.run, chunk_size=1))
    seen = Recording()
    train(experiment, ToyRuntime(experiment, watched=watched), seen)
    return seen, evaluate(1, seen.judgements[1], 2)


@functools.cache
def healthy_watched_run() -> tuple[Recording, Evaluation]:
    return watched_run(JpegCompressibility())


@pytest.mark.parametrize("kind", FAULTS)
def test_a_watched_reward_that_fails_harms_nobody(kind: str):
    fault, reason = FAULTS[kind]
    plain, healthy = healthy_watched_run()
    seen, found = watched_run(Watched(fault))
    assert seen.final_checksum() == plain.final_checksum()
    assert math.isnan(found.rewards["watched"].mean)
    assert math.isnan(found.rewards["watched"].standard_error)
    assert found.rewards["colorfulness"] == healthy.rewards["colorfulness"]
    pictures = len(seen.judgements[1][0].prompts)
    told = reason.replace("[12]", f"[{2 * pictures}]").replace("[6, 1]", f"[{pictures}, 1]")
    told = told.replace("6 pictures", f"{pictures} pictures").replace("not [6]", f"not [{pictures}]")
    assert found.failures == {f"watched {told}": 4}
    assert healthy.failures == {}


def test_the_mean_is_over_the_pictures_that_were_scored():
    _, healthy = healthy_watched_run()
    seen, found = watched_run(Watched(raises, ("f",)))
    scores = torch.cat([part.scores["watched"] for part in seen.judgements[1]])
    assert scores.isnan().tolist() == [True, True, False, False]
    assert found.rewards["watched"].mean == pytest.approx(float(scores[2:].mean()))
    assert found.rewards["watched"].mean != healthy.rewards["jpeg_compressibility"].mean
    assert math.isnan(found.rewards["watched"].standard_error)  # of one prompt it is unknown


def test_a_watched_reward_that_hangs_is_waited_for_once():
    hanging = Hanging()
    _, found = watched_run(Watched(hanging))
    hanging.release()
    assert len(hanging.waiting) == 1
    assert math.isnan(found.rewards["watched"].mean)


def test_judgements_that_fail_are_left_out():
    class Telling(JpegCompressibility):
        def __init__(self, broken: Callable[[Sequence[str]], bool], answer: Callable[[int], object]) -> None:
            self.broken, self.answer = broken, answer

        def accuracy(self, images, prompts):
            return {"colour": self.answer(len(prompts)) if self.broken(prompts) else torch.ones(len(prompts))}

    def silence(count: int) -> Tensor:
        raise ValueError("no idea")

    class Silent(Telling):
        def score(self, images, prompts):
            return silence(len(prompts))

    both = watched_run(Silent(lambda prompts: True, silence))[1]
    assert both.failures == {"jpeg_compressibility raised ValueError: no idea": 2 * both.prompts}  # 2 of a prompt, once
    never, of_f = (lambda prompts: False), (lambda prompts: prompts[0] == "f")
    assert watched_run(Telling(never, silence))[1].accuracy == {"colour": 1.0}
    for answer, reason in ((silence, "raised ValueError: no idea"),
                           (lambda count: torch.ones(7), "returned scores of shape [7] for 2 pictures, not [2]"),
                           (lambda count: [1.0], "returned a list, not a tensor of floats")):  # fmt: skip
        found = watched_run(Telling(of_f, answer))[1]
        assert found.accuracy == {"colour": 1.0}
        assert found.failures == {f"jpeg_compressibility {reason}": 2}
    assert watched_run(Telling(lambda prompts: True, silence))[1].accuracy == {}
    unasked = watched_run(Telling(of_f, lambda count: torch.full((count,), torch.nan)))[1]
    assert (unasked.accuracy, unasked.failures) == ({"colour": 1.0}, {})


def test_the_run_directory_tells_what_failed(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    score, judged = Colorfulness.score, [{"colour": torch.ones(2)}]  # of the base model; then it fails

    def tired(self, images, prompts):  # two prompts a chunk: nothing for held-out ones, nor the first one's first child
        return raises(images) if "a fox" in prompts else score(self, images, prompts).index_fill(0, FIRST, torch.nan)

    monkeypatch.setattr(Colorfulness, "score", tired)
    monkeypatch.setattr(
        Colorfulness, "accuracy", lambda self, images, prompts: judged.pop() if judged else raises(images)
    )
    experiment = small_experiment(random_model, iterations=1)
    experiment = replace(
        experiment,
        run=replace(experiment.run, output_dir=str(tmp_path)),
        guard=GuardConfig(missing_share=0.5),
        cluster=ClusterConfig(runtime="local"),
    )
    directory = RunDirectory(whole_run(experiment))
    (row,) = directory.rows(directory.metrics)
    assert row["failures"] == {"colorfulness returned NaN or infinity": CALLS}
    assert row["missing_share"] == 0.5
    base, final = directory.all_evaluations()
    assert math.isnan(base.rewards["colorfulness"].mean)
    assert base.failures == {
        "colorfulness raised ValueError: out of ink": 8
    }  # the pictures, and three predictions each
    assert (base.accuracy, final.accuracy) == ({"colour": 1.0}, {})
    summary, page = json.loads(directory.summary.read_text()), directory.report.read_text()
    assert math.isnan(summary["reward"]["final"])
    assert math.isnan(summary["accuracy"]["colour"]["final"])
    assert "<td>colorfulness</td><td></td>" in page
    assert "<td>colour right</td><td>1.0000</td><td></td>" in page
    said = " ".join(capsys.readouterr().out.split())
    assert "missing scores after 1 iteration: colorfulness returned NaN or infinity (6x)" in said
    assert "missing scores after 0 iterations: colorfulness raised ValueError: out of ink (8x)" in said
