"""`raypref label`, from its arguments to the file that it leaves."""

from collections.abc import Callable, Sequence
from pathlib import Path

from raypref.checks import ConfigError
from raypref.config import apply_overrides, fill
from raypref.data.open_table import open_table
from raypref.data.preference_source import DataConfig
from raypref.data.preferences import UnusableSet
from raypref.label.answers import answers_file
from raypref.label.desk import Desk
from raypref.label.server import LabelServer
from raypref.lock import locked
from raypref.signals import ending_in_order
from raypref.train.stopped import Terminated


def serve(path: Path, output: Path, settings: Sequence[str], seed: int, port: int, say: Callable[[str], None]) -> None:
    """Serves the page until it is interrupted, and writes what was chosen.

    Raises:
        ConfigError: where the set, a setting or the port cannot be used, `output` would replace or join what is not
            this command's, or another process writes into it.
    """
    if output.suffix != ".parquet":
        raise ConfigError(f"{output}: the result is Parquet; name a file that ends in .parquet")
    tables = apply_overrides({"data": {}}, [f"data.{word}" for word in settings])
    config = fill(DataConfig(), tables["data"], "data")
    _check_apart(path, output)
    with locked(output, "result", "output"):
        _check_own(output)
        try:
            desk = Desk(open_table(path, config.split), config, output, seed)
        except UnusableSet as problem:
            raise ConfigError(str(problem)) from None
        _serve(desk, port, say)


def _check_apart(path: Path, output: Path) -> None:
    """Within a folder of pairs the result would be read as more of them."""
    folder = output.parent.resolve()
    if path.resolve() in (output.resolve(), folder, *folder.parents):
        raise ConfigError(f"{output}: it is {path} itself or lies in it, whose pairs are read; name a file elsewhere")


def _check_own(output: Path) -> None:
    """What is there already must have come from answers."""
    if output.is_dir():
        raise ConfigError(f"{output} is a folder; name a new file, such as {output / 'chosen.parquet'}")
    if output.exists() and not answers_file(output).exists():
        raise ConfigError(
            f"{output} exists, and `label` did not write it, for there is no {answers_file(output).name} beside it; "
            "name a new file"
        )


def _serve(desk: Desk, port: int, say: Callable[[str], None]) -> None:
    try:
        server = LabelServer(desk, "127.0.0.1", port)
    except (OSError, OverflowError) as problem:
        raise ConfigError(f"--port {port}: {problem}; name another one") from None
    with server:
        say(
            f"{desk.state()['done']} of {len(desk.table)} pairs are done; choose at http://127.0.0.1:{server.server_port}"
        )
        try:
            _until_ended(server)
        except (KeyboardInterrupt, Terminated):
            pass
        finally:
            count = desk.export()
            say(f"{count} pairs: {desk.output.resolve()}" if count else f"no answers, so {desk.output} is not written")
            desk.answers.close()


@ending_in_order()
def _until_ended(server: LabelServer) -> None:
    server.serve_forever()
