"""A folder on any filesystem that fsspec knows: this machine's, an object store's, memory."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem


@dataclass(frozen=True)
class Folder:
    """Where it is, and the few things that checkpoints ask of it. Whatever fails raises an OSError."""

    filesystem: AbstractFileSystem
    path: str

    @classmethod
    def at(cls, place: str | Path) -> "Folder":
        """The folder of a path, or of a URL such as `s3://bucket/folder`; it need not exist.

        Raises:
            ImportError: where the package that speaks the URL's protocol is not installed.
            ValueError: where nobody knows the protocol.
        """
        if "://" in str(place):
            return cls(*url_to_fs(str(place)))
        return cls(LocalFileSystem(), str(Path(place).absolute()))

    def __truediv__(self, name: str) -> "Folder":
        return replace(self, path=f"{self.path.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.path if self._is_local() else self.filesystem.unstrip_protocol(self.path)

    def names(self) -> list[str]:
        """What is in it, in order; nothing where there is no such folder."""
        self.filesystem.invalidate_cache()
        try:
            with _os_errors(self):
                found = self.filesystem.ls(self.path, detail=False)
        except FileNotFoundError:
            return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def read(self, name: str) -> bytes:
        """The whole content of a file."""
        with _os_errors(self / name):
            return self.filesystem.cat_file((self / name).path)

    def write(self, name: str, content: bytes) -> None:
        """Writes a file whole or not at all: on this machine by renaming, in an object store because a put is."""
        if self._is_local():
            Path(self.path).mkdir(parents=True, exist_ok=True)
            replace_file(Path(self.path, name), content)
            return
        with _os_errors(self / name):
            self.filesystem.makedirs(self.path, exist_ok=True)
            self.filesystem.pipe_file((self / name).path, content)

    def delete(self, name: str) -> None:
        """Deletes a file."""
        with _os_errors(self / name):
            self.filesystem.rm_file((self / name).path)

    def delete_all(self) -> None:
        """Deletes the folder and everything in it."""
        with _os_errors(self):
            self.filesystem.rm(self.path, recursive=True)

    def _is_local(self) -> bool:
        return isinstance(self.filesystem, LocalFileSystem)


def replace_file(file: Path, content: bytes) -> None:
    """Writes a file of this machine whole or not at all, whatever dies on the way."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, file)
    except OSError:
        unfinished.unlink(missing_ok=True)  # on a full disk half a file is in the way
        raise
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name, too, shall outlive a power cut
    finally:
        os.close(folder)


@contextmanager
def _os_errors(place: Folder) -> Iterator[None]:
    """Filesystems raise what their clients raise, such as botocore's errors: here it becomes an OSError with a path."""
    try:
        yield
    except Exception as problem:
        if isinstance(problem, OSError) and problem.errno is not None:
            raise
        number = errno.ENOENT if isinstance(problem, FileNotFoundError) else errno.EIO
        raise OSError(number, f"{type(problem).__name__}: {problem}", str(place)) from problem
