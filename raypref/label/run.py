"""`raypref label`, from its arguments to the file that it leaves."""

from collections.abc import Callable, Sequence
from pathlib import Path

from raypref.checks import ConfigError
from raypref.config import apply_overrides, fill
from raypref.data.open_table import open_table
from raypref.data.preference_source import DataConfig
from raypref.data.preferences import UnusableSet
from raypref.label.desk import Desk
from raypref.label.server import LabelServer
from raypref.lock import locked
from raypref.signals import ending_in_order
from raypref.train.stopped import Terminated


def serve(path: Path, output: Path, settings: Sequence[str], seed: int, port: int, say: Callable[[str], None]) -> None:
    """Serves the page until it is interrupted, and writes what was chosen.

    Raises:
        ConfigError: where the set, a setting or the port cannot be used, or another process writes into `output`.
    """
    if output.suffix != ".parquet":
        raise ConfigError(f"{output}: the result is Parquet; name a file that ends in .parquet")
    tables = apply_overrides({"data": {}}, [f"data.{word}" for word in settings])
    config = fill(DataConfig(), tables["data"], "data")
    output.parent.mkdir(parents=True, exist_ok=True)
    with locked(output, "result", "output"):
        try:
            desk = Desk(open_table(path, config.split), config, output, seed)
        except UnusableSet as problem:
            raise ConfigError(str(problem)) from None
        _serve(desk, port, say)


def _serve(desk: Desk, port: int, say: Callable[[str], None]) -> None:
    try:
        server = LabelServer(desk, "127.0.0.1", port)
    except OSError as problem:
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
            say(f"{desk.export()} pairs: {desk.output.resolve()}")
            desk.answers.close()


@ending_in_order()
def _until_ended(server: LabelServer) -> None:
    server.serve_forever()
