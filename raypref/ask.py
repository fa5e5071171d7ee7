"""Questions to runs: the policies that they need, their tables, and where these are kept."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from raypref import evaluate
from raypref.checks import ConfigError, check_changed
from raypref.config import apply_overrides, fill, load_experiment
from raypref.evaluate.question import Contender, Question
from raypref.evaluate.table import Table
from raypref.provenance import trained_on
from raypref.registry import named_classes, nearest
from raypref.report import write_report
from raypref.run import REJUDGEABLE, newest_state
from raypref.run_directory import RunDirectory
from raypref.studio import Policy, RuntimeStudio
from raypref.train.experiment import Experiment, RewardConfig

ASKABLE = (*REJUDGEABLE, "sampling")
"""What may be set for a question: nothing that the policy depends on."""


def questions() -> Mapping[str, type[Question]]:
    """Every question by its name."""
    return named_classes(evaluate, Question)


def ask(
    path: Path,
    names: Sequence[str],
    against: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    told: Callable[[Table], None] = lambda table: None,
) -> list[Table]:
    """Asks questions about the policy of a run's newest good checkpoint, or about an untrained config, which only some
    questions are content with. What is drawn is kept in the run directory, and not drawn again: for another question,
    or after a kill. Tables are told as they come, and kept in the run directory and its report.

    Args:
        path: a run directory, or a config.
        names: of questions.
        against: other runs.
        overrides: of what ASKABLE names; or a question's own settings, as in best_of_n.candidates=[8,32].

    Returns:
        The tables, in the order of the names.

    Raises:
        ConfigError: where a name, setting or run cannot work; before anything is drawn.
    """
    asked, rest = _questions(names, overrides)
    directory = RunDirectory.open(path) if path.is_dir() else None
    experiment = load_experiment(path, rest) if directory is None else directory.changed(rest, ASKABLE)
    for question in asked:
        _check(question, experiment, directory)
    prompts = tuple(prompt for question in asked for prompt in question.prompts(experiment))
    others, tables = [RunDirectory.open(other) for other in against], dict[int, Table]()
    with (
        TemporaryDirectory(prefix="raypref-questions-") as passing,
        closing(_studio(experiment, directory, others, prompts, Path(passing))) as studio,
    ):
        # Who looks at pictures comes first: their scores are there then, for all others.
        for place, question in sorted(enumerate(asked), key=lambda item: not item[1].looks):
            table = tables[place] = question.answer(studio)
            told(table)
            if directory is not None:
                directory.save_answer(_described(question, table, studio))
    if directory is not None:
        write_report(directory)
    return [tables[place] for place in range(len(asked))]


def _questions(names: Sequence[str], overrides: Sequence[str]) -> tuple[list[Question], list[str]]:
    """The questions with their settings, and the overrides that are not theirs."""
    known = questions()
    for name in names:
        if name not in known:
            raise ConfigError(f"--question {name}: there is no such question{nearest(name, known)}")
    of_questions = [override for override in overrides if override.partition(".")[0] in known]
    tables = apply_overrides({}, of_questions)
    for name in tables:
        if name not in names:
            raise ConfigError(f"{name}.{next(iter(tables[name]))}: {name} is not asked; add --question {name}")
    return [fill(known[name](), tables.get(name, {}), name) for name in names], [
        override for override in overrides if override not in of_questions
    ]


def _check(question: Question, experiment: Experiment, directory: RunDirectory | None) -> None:
    if question.trained and directory is None:
        raise ConfigError(
            f"--question {question.name}: it is about what was trained; name a run directory, such as runs/quickstart"
        )
    try:
        question.check(experiment)
    except ValueError as problem:
        raise ConfigError(f"{question.name}.{problem}") from None


def _studio(
    experiment: Experiment,
    directory: RunDirectory | None,
    others: Sequence[RunDirectory],
    prompts: tuple[str, ...],
    passing: Path,
) -> RuntimeStudio:
    """What is drawn lies in the run's directory; of a config without a run, in a folder that will pass."""
    runs = [*([] if directory is None else [directory]), *others]
    trained = [(run.path, run.experiment(), newest_state(run, run.experiment())) for run in runs]
    policies = {Contender("base"): Policy(experiment.model, None)}
    for path, theirs, state in trained:
        if state is None:
            raise ConfigError(f"run directory {path}: it has no checkpoint to ask about")
        check_changed(replace(experiment, model=theirs.model))
        label = _unlike([who.label for who in policies], theirs.run.name)
        policies[Contender(label, trained_on(theirs), state.iteration)] = Policy(theirs.model, state)
    judged = _judged_by_all(experiment, [theirs for _, theirs, _ in trained])
    return RuntimeStudio(judged, policies, passing if directory is None else directory.questions, prompts)


def _unlike(taken: Sequence[str], name: str) -> str:
    """The name, numbered where it is taken."""
    numbered = (f"{name} ({number})" for number in count(2))
    return name if name not in taken else next(found for found in numbered if found not in taken)


def _judged_by_all(experiment: Experiment, others: Sequence[Experiment]) -> Experiment:
    """The experiment with every reward that the others were trained on, with its settings, among those that judge.

    Raises:
        ConfigError: where two runs mean different rewards by one name.
    """
    own = (experiment.reward.name, *experiment.reward.also)
    known, watched = {name: experiment.settings_of(name) for name in own}, dict[str, RewardConfig]()
    for other in others:
        reward = other.reward
        if reward.name not in known:
            watched[reward.name] = replace(reward, also=())
        if known.setdefault(reward.name, reward.settings) != reward.settings:
            raise ConfigError(
                f"reward.name = {reward.name!r}: {other.run.name} was trained with {reward.settings}, and is to be "
                f"judged with {known[reward.name]}; ask about runs that mean one reward by a name"
            )
    named = tuple(name for name in experiment.evaluate.rewards if name not in watched)
    judges = replace(experiment.evaluate, rewards=named)
    return replace(experiment, evaluate=judges, watched=tuple(watched.values()))


def _described(question: Question, table: Table, studio: RuntimeStudio) -> dict[str, object]:
    """The table with what it was made with."""
    experiment = studio.experiment
    return asdict(table) | {
        "settings": asdict(question),
        "contenders": [asdict(who) for who in studio.contenders],
        "images_per_prompt": experiment.evaluate.images_per_prompt,
        "sampling": asdict(experiment.sampling),
        "seed": experiment.run.seed,
    }
