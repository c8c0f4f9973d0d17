# SPDX-License-Identifier: Apache-2.0
"""The only door to a Docker engine: one client a thread, bounded time-outs.

Every method raises :class:`~nova_vcloud.exception.EngineUnavailable` when
the engine does not answer and another
:class:`~nova_vcloud.exception.EngineError` when it refuses. Requests and
answers have the shapes of the Docker Engine API v1.41.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import functools
import json
import threading
from typing import Any
from typing import TypeVar

import docker
from docker import errors
from docker.types import CancellableStream
import requests

from nova_vcloud import exception

API_VERSION = '1.41'  # Docker 20.10, the oldest engine we are tested with

_F = TypeVar('_F', bound=Callable[..., Any])


@contextlib.contextmanager
def _mapped() -> Iterator[None]:
    """Turn the library's errors into ours."""
    try:
        yield
    except errors.ImageNotFound as e:
        raise exception.ImageNotFound(e.explanation) from e
    except errors.NotFound as e:
        text = str(e.explanation)
        if 'no such image' in text.lower():
            raise exception.ImageNotFound(text) from e
        raise exception.ContainerNotFound(text) from e
    except errors.APIError as e:
        # 304: already in that state; 409: not possible in this state.
        if e.status_code in (304, 409):
            raise exception.EngineConflict(e.explanation) from e
        raise exception.EngineError(e.explanation or str(e)) from e
    except (requests.RequestException, errors.DockerException, OSError) as e:
        raise exception.EngineUnavailable(str(e)) from e


def _engine_call(method: _F) -> _F:
    """Map the errors of ``method`` and count it."""

    @functools.wraps(method)
    def call(self: 'Engine', *args: Any, **kwargs: Any) -> Any:
        self.count()
        with _mapped():
            return method(self, *args, **kwargs)

    return call  # type: ignore[return-value]


class Engine:
    """A Docker engine behind its socket.

    :param url: ``unix:///path``
    :param timeout: seconds to wait for an answer
    :param load_timeout: seconds of silence allowed while loading an image
    """

    def __init__(self, url: str, timeout: int = 60,
                 load_timeout: int = 1800) -> None:
        self.url = url
        self._timeout = timeout
        self._load_timeout = load_timeout
        self._local = threading.local()
        self._count_lock = threading.Lock()
        self.calls = 0  # requests made by this object, for the audits' sake

    def count(self) -> None:
        """Note one more request."""
        with self._count_lock:
            self.calls += 1

    def _new_client(self, timeout: int | None) -> docker.APIClient:
        return docker.APIClient(base_url=self.url, version=API_VERSION,
                                timeout=timeout)

    @property
    def _client(self) -> docker.APIClient:
        # requests.Session is not documented as thread-safe.
        client = getattr(self._local, 'client', None)
        if client is None:
            client = self._local.client = self._new_client(self._timeout)
        return client

    # The host

    @_engine_call
    def info(self) -> dict[str, Any]:
        """Return ``GET /info``."""
        return self._client.info()

    @_engine_call
    def events(self, labels: Iterable[str]) -> CancellableStream:
        """Open the stream of container events with all of ``labels``.

        The stream is open when this returns, so nothing later is missed.
        Iterating blocks, and ends when the engine goes away or another
        thread calls the stream's ``close()``.
        """
        return self._new_client(None).events(
            decode=True,
            filters={'type': 'container', 'label': list(labels)})

    # Containers

    @_engine_call
    def containers(self, labels: Iterable[str]) -> list[dict[str, Any]]:
        """List containers, stopped ones too, that carry all ``labels``."""
        return self._client.containers(all=True,
                                       filters={'label': list(labels)})

    @_engine_call
    def container(self, name: str) -> dict[str, Any]:
        """Inspect one container by name or id."""
        return self._client.inspect_container(name)

    @_engine_call
    def create(self, name: str, body: Mapping[str, Any]) -> str:
        """Create a container and return its id (64 hex digits)."""
        answer = self._client.create_container_from_config(dict(body), name)
        return answer['Id']

    @_engine_call
    def put_archive(self, name: str, path: str, tar: bytes) -> None:
        """Unpack a tar below ``path`` inside the container's filesystem."""
        self._client.put_archive(name, path, tar)

    @_engine_call
    def start(self, name: str) -> None:
        """Start a container; one that runs is left alone."""
        self._client.start(name)

    @_engine_call
    def stop(self, name: str, timeout: int) -> None:
        """Send the stop signal, wait ``timeout`` seconds, then SIGKILL."""
        self._client.stop(name, timeout=timeout)

    @_engine_call
    def pause(self, name: str) -> None:
        """Freeze all processes of a container."""
        self._client.pause(name)

    @_engine_call
    def unpause(self, name: str) -> None:
        """Thaw all processes of a container."""
        self._client.unpause(name)

    @_engine_call
    def remove(self, name: str) -> None:
        """Kill and remove a container and its anonymous volumes."""
        self._client.remove_container(name, v=True, force=True)

    @_engine_call
    def logs(self, name: str, limit: int) -> bytes:
        """Return the last ``limit`` bytes of a container's console."""
        tail = b''
        for chunk in self._client.logs(name, stdout=True, stderr=True,
                                       stream=True, follow=False):
            tail = (tail + chunk)[-limit:]
        return tail

    @_engine_call
    def stats(self, name: str) -> dict[str, Any]:
        """Return one sample of a running container's counters."""
        return self._client.stats(name, stream=False, one_shot=True)

    # Images

    @_engine_call
    def image_get(self, name: str) -> dict[str, Any] | None:
        """Inspect an image; None when the engine has none of that name."""
        try:
            return self._client.inspect_image(name)
        except errors.ImageNotFound:
            return None

    @_engine_call
    def image_load(self, chunks: Iterable[bytes]) -> list[str]:
        """Load a docker archive; return the names and ids it brought.

        :raises EngineError: with the engine's reason when it refuses; what
            was loaded until then is the engine's to collect
        """
        loaded = []
        client = self._new_client(self._load_timeout)
        with contextlib.closing(client):
            for line in client.load_image(chunks):
                if 'error' in line:
                    raise exception.EngineError(line['error'])
                kind, _, name = line.get('stream', '').partition(': ')
                if kind in ('Loaded image', 'Loaded image ID'):
                    loaded.append(name.strip())
        return loaded

    @_engine_call
    def image_import(self, chunks: Iterable[bytes], tag: str,
                     changes: Iterable[str] = ()) -> str:
        """Make an image of one layer from a root filesystem tar.

        :param changes: Dockerfile instructions, such as ``CMD ["/init"]``
        :returns: the image id
        """
        client = self._new_client(self._load_timeout)
        with contextlib.closing(client):
            answer = client.import_image_from_data(
                chunks, repository=tag, changes=list(changes))
        return _import_result(answer)

    @_engine_call
    def image_tag(self, image: str, repository: str, tag: str) -> None:
        """Give an image one more name."""
        self._client.tag(image, repository, tag, force=True)

    @_engine_call
    def image_remove(self, name: str) -> None:
        """Remove a name and, with its last one, the image; absent is fine."""
        with contextlib.suppress(errors.ImageNotFound):
            self._client.remove_image(name, noprune=False)


def _import_result(answer: str) -> str:
    last: dict[str, Any] = {}
    for line in answer.splitlines():
        last = json.loads(line)
        if 'error' in last:
            raise exception.EngineError(last['error'])
    return str(last.get('status', ''))

