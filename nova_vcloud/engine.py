# SPDX-License-Identifier: Apache-2.0
"""The only door to a Docker engine: one client a call, bounded time-outs.

Every method raises :class:`~nova_vcloud.exception.EngineUnavailable` when
the engine does not answer and another
:class:`~nova_vcloud.exception.EngineError` when it refuses. Requests and
answers have the shapes of the Docker Engine API v1.41.
"""

import base64
from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import functools
import json
import queue
import socket
import threading
import time
from typing import Any
from typing import Concatenate
from typing import ParamSpec
from typing import TypeVar
import uuid

from docker import APIClient as Client
from docker import errors
from docker.transport import unixconn
from docker.types import CancellableStream
from docker.utils.socket import frames_iter
import requests

from nova_vcloud import exception
from nova_vcloud import late_results

API_VERSION = '1.41'  # Docker 20.10, the oldest engine we are tested with
END_SECONDS = 3.0  # that a program has after it has closed its output
MAX_SAID = 1 << 20  # bytes of what a program in a container writes
MAX_IDLE = 8  # clients, of one connection each, that wait for the next call
#: A sequence that nobody types: none at all cannot be asked for.
NO_KEYS = ','.join(['ctrl-_', 'ctrl-^'] * 8)

_P = ParamSpec('_P')
_R = TypeVar('_R')


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


def _engine_call(
        method: Callable[Concatenate['Engine', _P], _R]
) -> Callable[Concatenate['Engine', _P], _R]:
    """Map the errors of ``method`` and count it."""

    @functools.wraps(method)
    def call(self: 'Engine', /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        self.count()
        with _mapped():
            return method(self, *args, **kwargs)

    return call


def _request(
        method: Callable[Concatenate['Engine', Client, _P], _R]
) -> Callable[Concatenate['Engine', _P], _R]:
    """Give ``method`` a client that nobody else uses meanwhile."""

    def call(self: 'Engine', /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        self.count()
        with _mapped(), self._borrowed() as client:
            return method(self, client, *args, **kwargs)

    functools.update_wrapper(call, method)
    return call


class _Connection(unixconn.UnixHTTPConnection):
    """A connection that leaves no open socket when there is no engine."""

    def connect(self) -> None:
        """Connect."""
        with contextlib.ExitStack() as undo:
            raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            undo.callback(raw.close)
            raw.settimeout(self.timeout)
            raw.connect(self.unix_socket)
            undo.pop_all()
        self.sock = raw


class _Pool(unixconn.UnixHTTPConnectionPool):
    def _new_conn(self) -> _Connection:
        return _Connection(self.base_url, self.socket_path, self.timeout)


class _OneConnection(unixconn.UnixHTTPAdapter):
    """The connection of one client, for whatever it asks.

    The library (docker-py 7.2) keeps a pool for each URL, so one for each
    container: up to 25, whose connections stay open.
    """

    def get_connection(self, url: str, proxies: Any = None) -> _Pool:
        """Return the one pool."""
        with self.pools.lock:
            pool = self.pools.get('')
            if pool is None:
                pool = self.pools[''] = _Pool(
                    '', self.socket_path, self.timeout, maxsize=1)
        return pool


class Engine:
    """A Docker engine behind its socket.

    :param url: ``unix:///path``
    :param timeout: seconds to wait for an answer
    :param load_timeout: seconds of silence allowed while loading an image
    :ivar late: what it may still make or remove, without an answer in time
    """

    def __init__(self, url: str, timeout: int = 60,
                 load_timeout: int = 1800) -> None:
        self.url = url
        self._timeout = timeout
        self._load_timeout = load_timeout
        # requests.Session is not documented as thread-safe, and Nova's pools
        # have many threads: clients that nobody uses wait here, last in first
        # out so that few are ever made. After a burst, most are closed.
        self._idle: queue.LifoQueue[Client] = queue.LifoQueue(MAX_IDLE)
        self._count_lock = threading.Lock()
        self.late = late_results.LateResults()
        self.calls = 0  # requests made by this object, for the audits' sake

    def count(self) -> None:
        """Note one more request."""
        with self._count_lock:
            self.calls += 1

    def _new_client(self, timeout: int | None) -> Client:
        client = Client(base_url=self.url, version=API_VERSION,
                        timeout=timeout)
        client.mount('http+docker://', _OneConnection(
            self.url.replace('unix://', 'http+unix://'), timeout=timeout))
        # No proxy stands before a socket: do not look for one at each call.
        client.trust_env = False
        return client

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[Client]:
        """Lend a client to one call."""
        try:
            client = self._idle.get_nowait()
        except queue.Empty:
            client = self._new_client(self._timeout)
        try:
            yield client
        finally:
            try:
                self._idle.put_nowait(client)
            except queue.Full:
                client.close()

    # The host

    @_request
    def info(self, client: Client) -> dict[str, Any]:
        """Return ``GET /info``."""
        return client.info()

    @_engine_call
    def events(self, labels: Iterable[str],
               actions: Iterable[str]) -> CancellableStream:
        """Open the stream of container events with all of ``labels``.

        The stream is open when this returns, so nothing later is missed.
        Iterating blocks, and ends when the engine goes away or another
        thread calls the stream's ``close()``.

        :param actions: those that are told; others stay with the engine
        """
        return self._new_client(None).events(
            decode=True,
            filters={'type': 'container', 'label': list(labels),
                     'event': list(actions)})

    # Containers

    @_request
    def containers(self, client: Client, labels: Iterable[str]
                   ) -> list[dict[str, Any]]:
        """List containers, stopped ones too, that carry all ``labels``."""
        return client.containers(all=True,
                                       filters={'label': list(labels)})

    @_request
    def container(self, client: Client, name: str) -> dict[str, Any]:
        """Inspect one container by name or id."""
        return client.inspect_container(name)

    @contextlib.contextmanager
    def _noted_late(self, kind: str, name: str,
                    request: str = '') -> Iterator[None]:
        """Remember what the engine may still do without an answer."""
        try:
            with _mapped():
                yield
        except exception.EngineUnavailable:
            self.late.note(kind, name, request)
            raise

    @_request
    def container_size(self, client: Client, name: str) -> int:
        """Return bytes of a container's files, with those of its image.

        The library's own method cannot ask for it.
        """
        url = client._url('/containers/{0}/json', name)  # noqa: SLF001
        answer = client._get(url, params={'size': 1})  # noqa: SLF001
        found = client._result(answer, True)  # noqa: SLF001
        return int(found.get('SizeRootFs') or 0)

    @_request
    def create(self, client: Client, name: str,
               body: Mapping[str, Any]) -> str:
        """Create a container and return its id (64 hex digits).

        :raises EngineUnavailable: one that it makes all the same is known
            to :attr:`late`
        """
        request = uuid.uuid4().hex
        labelled = {**body, 'Labels': {**(body.get('Labels') or {}),
                                       late_results.LABEL: request}}
        with self._noted_late('container', name, request):
            answer = client.create_container_from_config(labelled, name)
        return answer['Id']

    @_engine_call
    def update(self, name: str, body: Mapping[str, Any]) -> None:
        """Change limits of a container: ``POST /containers/{id}/update``.

        The library's own method has no word for processes.

        :raises EngineConflict: the engine cannot in the container's state
        """
        with self._borrowed() as client:
            url = client._url('/containers/{0}/update', name)  # noqa: SLF001
            answer = client._post_json(url, data=dict(body))  # noqa: SLF001
            client._result(answer)  # noqa: SLF001

    @_request
    def put_archive(self, client: Client, name: str, path: str,
                    tar: bytes) -> None:
        """Unpack a tar below ``path`` inside the container's filesystem."""
        client.put_archive(name, path, tar)

    @_engine_call
    def path(self, name: str, path: str) -> dict[str, Any] | None:
        """Return what is at a path in a container; None for nothing.

        Links on the way are followed as inside the container, the last one
        is not, unless the path ends in ``/.``.

        :returns: name, size, mode (Go's FileMode), linkTarget
        :raises EngineError: links lead round in a circle
        """
        with self._borrowed() as client:
            url = client._url('/containers/{0}/archive', name)  # noqa: SLF001
            answer = client.head(url, params={'path': path},
                                 timeout=self._timeout)
            if answer.status_code == requests.codes.not_found:
                return None
            client._raise_for_status(answer)  # noqa: SLF001
            found = answer.headers['X-Docker-Container-Path-Stat']
            return dict(json.loads(base64.b64decode(found)))

    @_request
    def run(self, client: Client, name: str, words: list[str],
            said: bytes = b'') -> tuple[int, bytes]:
        """Run a program in a container, as its root.

        :param said: what it reads
        :returns: its exit code and what it wrote, both ways
        :raises EngineError: it does not end in time, or writes too much; it
            is a tenant's program
        """
        made = client.exec_create(name, words, stdin=True, user='0')
        stream = client.exec_start(made['Id'], socket=True)
        # It hands out a reader, which does not own the connection.
        with stream, stream._sock as raw:  # noqa: SLF001
            out = _talk(stream, raw, said, self._timeout)
        # The engine learns of the end of a program a moment after its words.
        until = time.monotonic() + END_SECONDS
        while (found := client.exec_inspect(made['Id']))['Running']:
            if time.monotonic() > until:
                raise exception.EngineError(
                    f'{words[0]} does not end, or writes without end')
            time.sleep(0.05)
        return found['ExitCode'], out

    @_request
    def begin(self, client: Client, name: str, words: list[str]) -> None:
        """Start a program in a container, as its root, and leave it alone.

        :raises EngineError: there is no such program
        """
        made = client.exec_create(name, words, stdout=False, stderr=False,
                                  user='0')
        client.exec_start(made['Id'], detach=True)

    @contextlib.contextmanager
    def attached(self, name: str) -> Iterator[socket.socket]:
        """Be attached to the terminal of a container that runs.

        No key that is typed is the engine's: it would let go of the terminal
        at Ctrl-P Ctrl-Q.
        """
        with contextlib.closing(self._new_client(self._timeout)) as client:
            self.count()
            with _mapped():
                stream = client.attach_socket(name, params={
                    'stream': 1, 'stdin': 1, 'stdout': 1, 'stderr': 1,
                    'detachKeys': NO_KEYS})
            # It hands out a reader, which does not own the connection.
            with stream, stream._sock as raw:  # noqa: SLF001
                raw.settimeout(None)
                yield raw

    @_request
    def start(self, client: Client, name: str) -> None:
        """Start a container; one that runs is left alone."""
        client.start(name)

    @_request
    def stop(self, client: Client, name: str, timeout: int) -> None:
        """Send the stop signal, wait ``timeout`` seconds, then SIGKILL."""
        client.stop(name, timeout=timeout)

    @_request
    def kill(self, client: Client, name: str) -> None:
        """Send SIGKILL to a container's first process.

        :raises EngineConflict: it does not run
        """
        client.kill(name, 'SIGKILL')

    @_request
    def pause(self, client: Client, name: str) -> None:
        """Freeze all processes of a container."""
        client.pause(name)

    @_request
    def unpause(self, client: Client, name: str) -> None:
        """Thaw all processes of a container."""
        client.unpause(name)

    @_request
    def remove(self, client: Client, name: str) -> None:
        """Kill and remove a container and its anonymous volumes.

        :raises EngineUnavailable: it is known to :attr:`late`
        """
        with self._noted_late('container', name):
            try:
                client.remove_container(name, v=True, force=True)
            except errors.APIError as e:
                if 'already in progress' not in str(e.explanation):
                    raise
                self._await_removal(client, name)

    def _await_removal(self, client: Client, name: str) -> None:
        """Wait for what an earlier request has begun."""
        deadline = time.monotonic() + self._timeout
        with contextlib.suppress(errors.NotFound):
            while client.inspect_container(name):
                if time.monotonic() > deadline:
                    raise exception.EngineUnavailable(
                        f'container {name} is being removed, which takes '
                        f'more than {self._timeout} seconds')
                time.sleep(0.2)

    @_request
    def rename(self, client: Client, name: str, new: str) -> None:
        """Give a container another name."""
        client.rename(name, new)

    @_engine_call
    def commit(self, name: str, tag: str,
               changes: Iterable[str] = ()) -> str:
        """Make an image of a container's root filesystem; return its id.

        A container that runs is frozen meanwhile, so that the image is of
        one moment.

        :param tag: name of the image, as ``repository:tag``
        :param changes: Dockerfile instructions
        :raises EngineUnavailable: an image that it makes all the same is
            known to :attr:`late`
        """
        repository, _, word = tag.rpartition(':')
        with self._noted_late('image', tag), contextlib.closing(
                self._new_client(self._load_timeout)) as client:
            answer = client.commit(name, repository, word,
                                   changes=list(changes))
        return answer['Id']

    @_engine_call
    def written(self, name: str) -> int:
        """Return bytes that the files say they have which a container wrote.

        It looks at all of them. The library has no word for it.
        """
        with contextlib.closing(
                self._new_client(self._load_timeout)) as client:
            url = client._url('/containers/{0}/json', name)  # noqa: SLF001
            answer = client._get(url, params={'size': 1})  # noqa: SLF001
            found = client._result(answer, json=True)  # noqa: SLF001
        return int(found.get('SizeRw') or 0)

    def export(self, name: str) -> Generator[bytes, None, None]:
        """Yield a container's root filesystem as a tar, links and all."""
        return self._stream(lambda client: client.export(name))

    def _stream(self, ask: Callable[[Client], Iterable[_R]]
                ) -> Generator[_R, None, None]:
        self.count()
        with _mapped(), contextlib.closing(
                self._new_client(self._load_timeout)) as client:
            yield from ask(client)

    @_request
    def logs(self, client: Client, name: str, limit: int) -> bytes:
        """Return the last ``limit`` bytes of a container's console."""
        tail = b''
        for chunk in client.logs(name, stdout=True, stderr=True,
                                       stream=True, follow=False):
            tail = (tail + chunk)[-limit:]
        return tail

    @_request
    def stats(self, client: Client, name: str) -> dict[str, Any]:
        """Return one sample of a running container's counters."""
        return client.stats(name, stream=False, one_shot=True)

    # Images

    @_request
    def image_get(self, client: Client,
                  name: str) -> dict[str, Any] | None:
        """Inspect an image; None when the engine has none of that name."""
        try:
            return client.inspect_image(name)
        except errors.ImageNotFound:
            return None

    @_request
    def image_names(self, client: Client, pattern: str) -> list[str]:
        """Return the names of images that match, as ``repository:tag``.

        :param pattern: such as ``repository/*:tag``
        """
        found = client.images(filters={'reference': pattern})
        return [name for image in found for name in image['RepoTags'] or ()]

    def image_save(self, name: str) -> Generator[bytes, None, None]:
        """Yield what ``docker save`` writes of an image."""
        return self._stream(lambda client: client.get_image(name))

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

    def image_build(self, folder: str, tag: str, **more: Any
                    ) -> Generator[str, None, None]:
        """Build a folder's Dockerfile, and yield what the engine says.

        :param more: as for the library's ``build``
        :raises EngineError: with what went wrong
        """
        for line in self._stream(lambda client: client.build(
                folder, tag, rm=True, forcerm=True, decode=True, **more)):
            if 'error' in line:
                raise exception.EngineError(line['error'])
            yield line.get('stream', '')

    @_request
    def image_tag(self, client: Client, image: str, repository: str,
                  tag: str) -> None:
        """Give an image one more name."""
        client.tag(image, repository, tag, force=True)

    @_request
    def image_remove(self, client: Client, name: str) -> None:
        """Remove a name and, with its last one, the image; absent is fine."""
        with contextlib.suppress(errors.ImageNotFound):
            client.remove_image(name, noprune=False)


def _talk(stream: Any, raw: socket.socket, said: bytes,
          seconds: int) -> bytes:
    """Write to a program and return what it writes, to an end of ours."""
    # The library waits for the next words without a time-out.
    end = threading.Timer(seconds, _shut, (raw,))
    end.start()
    out = b''
    try:
        raw.sendall(said)
        raw.shutdown(socket.SHUT_WR)
        for _number, text in frames_iter(stream, tty=False):
            out += text
            if len(out) > MAX_SAID:
                break
    finally:
        end.cancel()
    return out


def _shut(raw: socket.socket) -> None:
    with contextlib.suppress(OSError):
        raw.shutdown(socket.SHUT_RDWR)


def _import_result(answer: str) -> str:
    last: dict[str, Any] = {}
    for line in answer.splitlines():
        last = json.loads(line)
        if 'error' in last:
            raise exception.EngineError(last['error'])
    return str(last.get('status', ''))

