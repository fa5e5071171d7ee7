"""How far does choosing get, without training?"""

import hashlib
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from raypref.core.pictures import diversity_by_prompt
from raypref.core.search import Guidance, Search, StepReward
from raypref.core.search_cost import guided_evaluations_of_picture, reward_calls
from raypref.evaluate.bootstrap import by_prompt, measured
from raypref.evaluate.question import Album, Contender, Question, Scene, Studio, missing
from raypref.evaluate.table import Measured, Row, Table
from raypref.train.drawing import Chosen, Drawing, Plain
from raypref.train.experiment import Experiment

RULES: tuple[StepReward, ...] = (
    *("q", "delta_parent", "delta_parent_printed", "lookahead_q", "lookahead_gain", "lookahead_printed"),
)
"""The rules that can rank siblings."""


@dataclass(frozen=True)
class BestOfN(Question):
    """Step-wise best-of-N, RDPO's Table 4: of N candidates of one parent at chosen steps the best is followed, by every
    reading of the step reward; beside it, what the runs that were asked about have learned.

    All rules see common random numbers: they start at the same x_T, and a candidate's noise depends on the prompt, the
    step and its number alone; so rules differ only by what they choose.
    """

    name: ClassVar[str] = "best_of_n"
    paper: ClassVar[str] = "RDPO, Table 4"
    asks: ClassVar[str] = "How far does choosing the best of N candidates at each step get, without training?"
    trained: ClassVar[bool] = False
    looks: ClassVar[bool] = True

    candidates: tuple[int, ...] = (8,)
    """N."""
    rules: tuple[StepReward, ...] = RULES
    """Step rewards that can rank candidates of one parent."""
    steps: tuple[int, ...] = ()
    """Steps to choose at; empty: all that a rule allows."""

    def check(self, experiment: Experiment) -> None:
        """Makes the searches."""
        self.searches(experiment.sampling.num_inference_steps)

    def searches(self, num_inference_steps: int) -> list[Search]:
        """One a number of candidates and rule.

        Raises:
            ValueError: where the rules, numbers or steps cannot work.
        """
        return [self._search(rule, number, num_inference_steps) for number in self.candidates for rule in self.rules]

    def _search(self, rule: StepReward, candidates: int, total: int) -> Search:
        if rule not in RULES:
            raise ValueError(f"rules: {rule!r} ranks no candidates of one parent; choose from {', '.join(RULES)}")
        steps = self.steps or tuple(range(total - 1 if rule.startswith("lookahead") else total))
        search = Search(candidates=candidates, steps=steps, step_reward=rule, guidance=Guidance())
        search.check_steps(total)
        return search

    def answer(self, studio: Studio) -> Table:
        """A row a rule and number of candidates; first without choosing, last the trained policies without choosing."""
        total = studio.experiment.sampling.num_inference_steps
        searches = (None, *self.searches(total))
        looks = [_look(studio, studio.contenders[0], search) for search in searches]
        plain, rows, earlier = looks[0].album, list[Row](), dict[bytes, str]()
        for search, look in zip(searches, looks, strict=True):
            same = earlier.get(look.digest, "")  # bit for bit
            name = "none" if search is None else f"{search.step_reward}, N = {search.candidates}"
            earlier.setdefault(look.digest, name)
            rows.append(Row(("base", *_told(search, total), same), _cells(look, plain, studio)))
        for who in studio.contenders[1:]:
            looks.append(_look(studio, who, None))
            rows.append(Row((who.label, *_told(None, total), ""), _cells(looks[-1], plain, studio)))
        chooser = next(iter(plain.scores))
        return Table(
            question=self.name,
            caption=f"Candidates are ranked by {chooser}; the gain is in {chooser}, over no choice, prompt by prompt "
            "from the same noise. Evaluations of the network and reward calls are for one picture.",
            heads=("policy", "rule", "N", "chosen at", "evaluations", "reward calls", "same pictures as"),
            columns=(*plain.scores, "gain", "diversity"),
            rows=tuple(rows),
            notes=missing(*(look.album for look in looks)),
        )


@dataclass(frozen=True)
class _Look:
    """What is left of pictures when they have been looked at."""

    album: Album
    """Scores alone."""
    diversity: Float[Tensor, " P"]
    digest: bytes
    """Of all pixels."""


def _look(studio: Studio, who: Contender, search: Search | None) -> _Look:
    drawing: Drawing = Plain() if search is None else Chosen(search)
    (album,) = studio.albums(who, [Scene(studio.experiment.heldout_prompts, drawing, pictures=True)])
    digest = hashlib.blake2b(album.images.contiguous().numpy().data).digest()
    return _Look(album.scores_alone(), diversity_by_prompt(album.images), digest)


def _told(search: Search | None, total: int) -> tuple[str, ...]:
    cost = (str(guided_evaluations_of_picture(search, total)), str(reward_calls(search)))
    if search is None:
        return ("none", "1", "", *cost)
    return (search.step_reward, str(search.candidates), _steps(search.steps), *cost)


def _steps(steps: tuple[int, ...]) -> str:
    """0-19, or 0, 4, 8."""
    whole = len(steps) > 2 and steps == tuple(range(steps[0], steps[-1] + 1))
    return f"{steps[0]}-{steps[-1]}" if whole else ", ".join(map(str, steps))


def _cells(look: _Look, plain: Album, studio: Studio) -> tuple[Measured, ...]:
    def figure(values: Tensor) -> Measured:
        return measured(by_prompt(values), studio.key())

    chooser = next(iter(plain.scores))
    scores = [figure(values) for values in look.album.scores.values()]
    gain = figure(look.album.scores[chooser] - plain.scores[chooser])
    return (*scores, gain, measured(look.diversity, studio.key()))
