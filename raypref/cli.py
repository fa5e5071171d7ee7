"""The command line: `raypref train experiments/quickstart.toml method.beta=0.2`."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

# Commands import what they need when they run: `raypref --help` should not load torch, diffusers and Ray.

# Help is plain text: as markup, [data] would be a style, and not be shown.
app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, help=__doc__
)

Config = Annotated[Path, typer.Argument(help="A TOML file, see experiments/.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.key=value, TOML values.")]
Run = Annotated[Path, typer.Argument(help="A run directory, such as runs/quickstart.")]


@app.command()
def train(
    config: Config,
    overrides: Overrides = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing run of that name.")] = False,
) -> None:
    """Train from the start."""
    from raypref.config import load_experiment
    from raypref.run import train as start

    start(load_experiment(config, overrides or []), overwrite)


@app.command()
def prepare(config: Config, overrides: Overrides = None) -> None:
    """Encode the labelled pictures of [data] once, as `train` would before it starts; goes on where it stopped."""
    from raypref.config import load_experiment
    from raypref.prepare import describe
    from raypref.prepare import prepare as encode
    from raypref.progress import warn

    prepared = encode(load_experiment(config, overrides or []), warn)
    typer.echo(f"{describe(prepared)}: {prepared.folder.resolve()}")


@app.command()
def tune(
    config: Config,
    overrides: Overrides = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing study of that name.")] = False,
) -> None:
    """Search settings with Ray Tune, as [tune] says: every trial is a run, continued like any other."""
    from raypref.tune.run import tune as search
    from raypref.tune.study import load_study

    search(load_study(config, overrides or []), overwrite)


@app.command()
def resume(run: Run, overrides: Overrides = None) -> None:
    """Continue a run from its checkpoint, bit for bit, or a study of `tune`. Of a run cluster.*, checkpoint.every,
    checkpoint.keep, guard.* and run.iterations may change."""
    from raypref.run import resume as go_on
    from raypref.tune.directory import StudyDirectory

    if StudyDirectory.is_one(run):
        from raypref.tune.run import resume as go_on_with_study

        go_on_with_study(run, overrides or [])
    else:
        go_on(run, overrides or [])


@app.command()
def submit(
    config: Annotated[Path, typer.Argument(help="A TOML file; with --resume, a run directory that the cluster sees.")],
    overrides: Overrides = None,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard.")
    ] = "http://127.0.0.1:8265",
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing run of that name.")] = False,
    file: Annotated[list[Path] | None, typer.Option(help="A file that a setting names; may be given again.")] = None,
    send_code: Annotated[
        bool, typer.Option("--send-code", help="Send this raypref, in the place of the one that is installed there.")
    ] = False,
    wait: Annotated[bool, typer.Option(help="Show the job's output, and exit as it does.")] = True,
) -> None:
    """Train on a Ray cluster, as a job of it."""
    import tempfile

    from raypref.checks import check_rules
    from raypref.cluster.jobs import JobServer
    from raypref.config import load_experiment
    from raypref.submit import resuming_job, training_job

    with tempfile.TemporaryDirectory() as travelling:
        folder, files, changes = Path(travelling), file or [], overrides or []
        if resume:
            job = resuming_job(config, folder, changes, files, send_code)
        else:
            job = training_job(load_experiment(config, changes, check_rules), folder, files, overwrite, send_code)
        server = JobServer(address)
        name = server.submit(job)
    typer.echo(f"job {name} at {address}; `ray job stop {name} --address {address}` ends it, after a checkpoint")
    if not wait:
        return
    try:
        code = server.follow(name, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        typer.echo(f"the job goes on; `ray job logs --follow {name} --address {address}` shows it again", err=True)
        code = 130
    sys.exit(code)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory; for some questions a TOML file will do.")],
    overrides: Overrides = None,
    question: Annotated[list[str] | None, typer.Option(help="See `raypref questions`; may be given again.")] = None,
    against: Annotated[list[Path] | None, typer.Option(help="Another run; may be given again.")] = None,
) -> None:
    """Judge a run's policy on held-out prompts, or ask a question about it. run.heldout_prompts, evaluate.* and
    cluster.* may change; for a question sampling.* too, and QUESTION.* are its own settings."""
    if question:
        from raypref.answers import echo
        from raypref.ask import ask

        ask(run, question, against or (), overrides or (), echo)
        return
    from raypref.checks import ConfigError
    from raypref.run import describe, evaluate_run

    if against:
        raise ConfigError("--against: it is for a question; add --question win_rate")
    typer.echo(describe(evaluate_run(run, overrides or [])))


@app.command()
def questions(as_json: Annotated[bool, typer.Option("--json", help="With settings, for programs.")] = False) -> None:
    """List what can be asked about a run: `raypref evaluate RUN --question NAME`."""
    import json
    from dataclasses import asdict

    from raypref import evaluate as folder
    from raypref.evaluate.question import Question
    from raypref.registry import named_classes

    found = {name: kind() for name, kind in named_classes(folder, Question).items()}  # type: ignore[type-abstract]
    if as_json:
        told = {name: {"asks": one.asks, "paper": one.paper, "settings": asdict(one)} for name, one in found.items()}
        typer.echo(json.dumps(told))
        return
    table = Table(Column("name", no_wrap=True), "asks", "paper")
    for name, one in found.items():
        table.add_row(name, one.asks, one.paper)
    Console().print(table)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, such as runs/a runs/b.")],
    output: Annotated[Path, typer.Option(help="The page to write.")] = Path("compare.html"),
) -> None:
    """Put runs side by side on one HTML page: curves, tables, pictures."""
    from raypref.compare import compare as write

    typer.echo(write(runs, output).resolve())


@app.command()
def report(run: Run) -> None:
    """Write report.html again from what a run directory, or a study's, holds."""
    from raypref.report import write_report
    from raypref.run_directory import RunDirectory
    from raypref.tune.directory import StudyDirectory
    from raypref.tune.report import write_study_report

    is_study = StudyDirectory.is_one(run)
    written = write_study_report(StudyDirectory(run)) if is_study else write_report(RunDirectory.open(run))
    typer.echo(written.resolve())


@app.command()
def export(
    run: Run,
    layout: Annotated[str, typer.Option(help="diffusers or kohya (ComfyUI): a LoRA. merged: a whole pipeline.")],
    output: Annotated[Path, typer.Option(help="A new .safetensors file; for merged, a new folder.")],
) -> None:
    """Write what a finished run has trained as one LoRA file, or merged into a pipeline."""
    from raypref.export import export as write

    write(run, layout, output)
    typer.echo(output.resolve())


@app.command()
def push(
    run: Run,
    repo_id: Annotated[str, typer.Argument(help="owner/name on the Hugging Face Hub; made where there is none.")],
    private: Annotated[bool, typer.Option(help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="A branch; made where there is none.")] = None,
) -> None:
    """Upload what a finished run has trained, with its model card and pictures, to the Hugging Face Hub."""
    from raypref.push import push as upload

    typer.echo(upload(run, repo_id, private, revision))


@app.command()
def show(config: Config, overrides: Overrides = None) -> None:
    """Print the resolved config and what a run of it would do, without loading a model."""
    import tomli_w

    from raypref.config import load_experiment, resolved
    from raypref.data.prompts import read_prompts_here
    from raypref.dry_run import dry_run
    from raypref.memory import memory

    experiment = load_experiment(config, overrides or [], read=read_prompts_here)
    typer.echo(tomli_w.dumps(resolved(experiment)))
    for name, value in (dry_run(experiment) | memory(experiment)).items():
        typer.echo(f"# {name}: {value}")


@app.command()
def collect(
    config: Annotated[Path, typer.Argument(help="A TOML file, or a run directory for what it has trained.")],
    folder: Annotated[Path, typer.Argument(help="A new folder for the pairs; or one to go on with.")],
    overrides: Overrides = None,
    pairs: Annotated[int, typer.Option(help="How many.")] = 1000,
) -> None:
    """Draw pairs of pictures with the pretrained model, or a run's policy, and let the reward choose: a preference set,
    as Parquet. Of a run cluster.*, reward.*, sampling.*, run.prompts and run.seed may change."""
    from raypref.collect import collect as draw
    from raypref.collect import load
    from raypref.progress import warn

    experiment, policy = load(config, overrides or [])
    done = draw(experiment, folder, pairs, lambda count: warn(f"{count} pairs"), policy)
    typer.echo(f"{done.pairs} pairs, {done.ties} ties, {done.unscored} without a score: {folder.resolve()}")


@app.command()
def label(
    path: Annotated[Path, typer.Argument(help="Pairs: a Parquet file, a folder, a tar file; see docs/data.md.")],
    output: Annotated[Path, typer.Argument(help="A .parquet file for the result; or one to go on with.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value: the keys split, images and caption of [data].")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides which picture of a pair is on the left.")] = 0,
    port: Annotated[int, typer.Option(help="0: a free one.")] = 8001,
) -> None:
    """Choose between pairs of pictures in a browser on this machine; Ctrl-C ends it and writes the result."""
    from raypref.label.run import serve

    serve(path, output, settings or [], seed, port, typer.echo)


@app.command()
def methods(as_json: Annotated[bool, typer.Option("--json", help="Names and defaults, for programs.")] = False) -> None:
    """List the preference methods."""
    import json
    import warnings
    from dataclasses import asdict

    from raypref import methods as folder
    from raypref.methods.base import Method
    from raypref.registry import named_classes

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a listing trains nothing that a method could warn of
        found = {name: kind() for name, kind in named_classes(folder, Method).items()}
    if as_json:
        typer.echo(json.dumps({name: {"paper": method.paper} | asdict(method) for name, method in found.items()}))
        return
    table = Table("name", "paper", "learns from")
    for name, method in found.items():
        table.add_row(name, method.paper, method.diet())
    Console().print(table)


@app.command()
def rewards() -> None:
    """List the rewards."""
    from raypref import rewards as folder
    from raypref.registry import named_classes
    from raypref.rewards.base import Reward

    table = Table(Column("name", no_wrap=True), "unit", "range", "gradient")
    for name, kind in named_classes(folder, Reward).items():
        table.add_row(name, kind.unit, kind.range, "yes" if kind.differentiable else "no")
    Console().print(table)


@app.command(name="serve-reward")
def serve_reward(
    name: Annotated[str, typer.Argument(help="A reward, see `raypref rewards`.")],
    settings: Annotated[list[str] | None, typer.Argument(help="key=value, TOML values: the keys of [reward].")] = None,
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: a free one.")] = 8000,
) -> None:
    """Score pictures for runs elsewhere (reward.name=remote) over HTTP, until interrupted."""
    from raypref.checks import ConfigError
    from raypref.config import load_reward
    from raypref.rewards.server import RewardServer

    reward = load_reward(name, settings or [])
    try:
        server = RewardServer(reward, host, port)
    except (OSError, OverflowError) as problem:
        raise ConfigError(f"--host {host} --port {port}: {problem}; name another address or port") from None
    typer.echo(f"{name} at http://{host}:{server.server_port}")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


def main() -> None:
    """Runs the command line. A wrong setting is one line on stderr and exit code 2; a run that stopped itself, 3; one
    that a signal ended, 128 and the signal's number."""
    try:
        app(standalone_mode=True)
    except (ValueError, RuntimeError) as problem:
        # The kinds of errors are imported late for the same reason as everything above.
        from raypref.checks import ConfigError
        from raypref.train.stopped import StoppedRun, Terminated

        if not isinstance(problem, ConfigError | StoppedRun):
            raise
        typer.echo(f"error: {problem}", err=True)
        if isinstance(problem, Terminated):
            sys.exit(128 + problem.signal_number)
        sys.exit(2 if isinstance(problem, ConfigError) else 3)


if __name__ == "__main__":
    main()
