"""One process a folder: a lock that the operating system lets go of, however its holder dies."""

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from raypref.checks import ConfigError


@contextmanager
def locked(
    path: Path, what: str = "run directory", key: str = "run.output_dir or run.name", wait: bool = False
) -> Iterator[None]:
    """Holds a run directory, or another folder, which need not exist yet, for the duration. `key` says what would name
    another. With `wait` it is waited for, while another process holds it.

    The lock is on a file beside it, `.NAME.lock`, because --overwrite replaces the directory itself. The file stays:
    deleting it could take away the lock of whoever comes next.

    Raises:
        ConfigError: where another process holds it, or the folder above cannot be written to.
    """
    place = path.resolve()
    file = place.with_name(f".{place.name}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = file.open("a+")
    except OSError as problem:
        raise ConfigError(
            f"{what} {path}: {file.parent} cannot be written to ({problem.strerror}); choose another {key}"
        ) from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise ConfigError(
                f"{what} {path}: {stream.read() or 'another process'} is working in it; wait for that one or stop "
                f"it, or choose another {key}"
            ) from None
        except OSError as problem:
            raise ConfigError(
                f"{what} {path}: its filesystem cannot lock files ({problem.strerror}); choose another {key}"
            ) from None
        stream.truncate(0)
        now = datetime.now().astimezone().isoformat(" ", "seconds")
        stream.write(f"process {os.getpid()} on {platform.node()}, since {now},")
        stream.flush()
        yield
