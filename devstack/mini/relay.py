# SPDX-License-Identifier: Apache-2.0
"""Let a program in the LAN reach the APIs where the catalog says they are.

The APIs listen on 127.0.0.1 of the machine's own namespace only. A socket
stays for life in the namespace it was made in: those that listen are made in
the LAN, and served from outside it. No wire joins the two namespaces, and all
ends with this process.
"""

import asyncio
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent import futures
import ctypes
import functools
import os
import pathlib
import socket

LOOPBACK = '127.0.0.1'
NETNS_FOLDER = pathlib.Path('/run/netns')
CLONE_NEWNET = 0x40000000
CHUNK_BYTES = 1 << 16
#: The longest line of output that is read whole; a trace-back is many lines.
LINE_BYTES = 1 << 20


def _listen_inside(netns: str, ports: Sequence[int]) -> list[socket.socket]:
    """Move this thread into a namespace for good, and listen there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (NETNS_FOLDER / netns).open() as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), netns)
    return [socket.create_server((LOOPBACK, p), backlog=64) for p in ports]


def listen(netns: str, ports: Sequence[int]) -> list[socket.socket]:
    """Return sockets that listen on 127.0.0.1 of a namespace.

    :raises OSError: no such namespace, or a port is taken there.
    """
    with futures.ThreadPoolExecutor(1) as own_thread:
        return own_thread.submit(_listen_inside, netns, ports).result()


async def _copy(
    source: asyncio.StreamReader, target: asyncio.StreamWriter
) -> None:
    """Pass on what one side says until it ends."""
    try:
        while data := await source.read(CHUNK_BYTES):
            target.write(data)
            await target.drain()
        target.write_eof()
    except OSError:
        # One side hung up; the other is to see just that.
        target.close()


async def _join(
    port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Join one connection of the LAN with one to the same port out here."""
    try:
        there, here = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        writer.close()  # as when nobody listens
        return
    asking = asyncio.create_task(_copy(reader, here))
    # An API that has hung up waits for no more of the question.
    await _copy(there, writer)
    asking.cancel()
    here.close()
    writer.close()


class _Joins:
    """The connections that are open.

    asyncio holds a task by what it waits for, and streams only weakly: one
    that nobody names may be collected half-way.
    """

    def __init__(self) -> None:
        self._open: set[asyncio.Task[None]] = set()

    def begin(
        self,
        port: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Serve a connection that was just made."""
        task = asyncio.create_task(_join(port, reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)


async def _run(
    listeners: Sequence[socket.socket],
    command: Sequence[str],
    env: Mapping[str, str],
    folder: pathlib.Path,
    tell: Callable[[str], None],
) -> int:
    joins = _Joins()
    servers = [
        await asyncio.start_server(
            functools.partial(joins.begin, listener.getsockname()[1]),
            sock=listener,
        )
        for listener in listeners
    ]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=env,
        cwd=folder,
        limit=LINE_BYTES,
    )
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            tell(line.decode(errors='replace').rstrip('\n'))
        return await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
        for server in servers:
            server.close()


def run(
    netns: str,
    ports: Sequence[int],
    command: Sequence[str],
    env: Mapping[str, str],
    folder: pathlib.Path,
    tell: Callable[[str], None],
) -> int:
    """Run a program in a namespace, with these ports as they are out here.

    :param folder: where it runs.
    :param tell: called with each line of its output.
    :return: its exit status.
    """
    inside = ['ip', 'netns', 'exec', netns, *command]
    listeners = listen(netns, ports)
    return asyncio.run(_run(listeners, inside, env, folder, tell))
