# SPDX-License-Identifier: Apache-2.0
"""Small documents that outlive the process: one JSON file for each server."""

from collections.abc import Iterator
import contextlib
import fcntl
import json
import os
import pathlib
import tempfile
from typing import Any

from nova_vcloud import exception


class Documents:
    """JSON files below a directory, safe against power loss and neighbours.

    :param directory: made on first use, for its owner only
    """

    def __init__(self, directory: str) -> None:
        self._directory = pathlib.Path(directory)

    def _path(self, name: str) -> pathlib.Path:
        return self._directory / f'{name}.json'

    def names(self) -> list[str]:
        """Return the names of all documents."""
        if not self._directory.is_dir():
            return []
        return sorted(path.stem for path in self._directory.glob('*.json'))

    def load(self, name: str) -> dict[str, Any] | None:
        """Return a document, None when there is none.

        :raises StateError: the file is damaged
        """
        try:
            text = self._path(name).read_text()
        except FileNotFoundError:
            return None
        try:
            document = json.loads(text)
        except ValueError as e:
            raise exception.StateError(
                f'{self._path(name)} is damaged ({e}); remove it, then '
                'reboot the server') from e
        return dict(document)

    def save(self, name: str, document: dict[str, Any]) -> None:
        """Write a document; after a crash it is the old one or the new."""
        self._make()
        with tempfile.NamedTemporaryFile(
                'w', dir=self._directory, prefix=f'.{name}.',
                delete=False) as file:
            try:
                json.dump(document, file, indent=1, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, self._path(name))
            except BaseException:
                os.unlink(file.name)
                raise

    def delete(self, name: str) -> None:
        """Remove a document and its lock; absent ones are fine."""
        self._path(name).unlink(missing_ok=True)
        self._lock_path(name).unlink(missing_ok=True)

    def _lock_path(self, name: str) -> pathlib.Path:
        return self._directory / f'.{name}.lock'

    @contextlib.contextmanager
    def locked(self, name: str = '') -> Iterator[None]:
        """Keep out other processes and threads that lock the same.

        Not to be taken twice by one thread.

        :param name: of a document; '' stands for the directory
        """
        self._make()
        fd = self._take(self._lock_path(name))
        try:
            yield
        finally:
            os.close(fd)

    def _take(self, path: pathlib.Path) -> int:
        """Return the descriptor that holds the lock of ``path``."""
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                # Whoever deleted the document took the file with it: what
                # we hold may lock nobody else out any more.
                if os.path.samestat(os.fstat(fd), path.stat()):
                    return fd
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _make(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
