# SPDX-License-Identifier: Apache-2.0
"""A program in a namespace reaches a port of ours, and nothing else."""

from collections.abc import Iterator
import contextlib
import gc
import http.server
import os
import pathlib
import subprocess
import sys
import threading
import time
import uuid

import pytest

from mini import relay

BODY = b'x' * 3_000_000
FETCH = '''
import sys, urllib.request
url = f'http://127.0.0.1:{sys.argv[1]}/'
data = sys.argv[2].encode() * 1_000_000 or None
print(len(urllib.request.urlopen(url, data, timeout=10).read()))
'''


LEAVE = '''
import socket, sys, time
one = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
one.sendall(b'GET /slow HTTP/1.0\\r\\n\\r\\n')
one.close()
time.sleep(0.5)
print('left')
time.sleep(1)
'''


class Handler(http.server.BaseHTTPRequestHandler):
    """Gives a large body, or the length of the one it got."""

    def do_GET(self) -> None:
        if self.path == '/slow':
            time.sleep(1)
        with contextlib.suppress(OSError):  # who asked may have left
            self.answer(BODY)

    def do_POST(self) -> None:
        got = self.rfile.read(int(self.headers['Content-Length']))
        self.answer(got[:1234])

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def netns() -> Iterator[str]:
    name = f'relay-{uuid.uuid4().hex[:8]}'
    subprocess.run(['ip', 'netns', 'add', name], check=True)
    subprocess.run(['ip', '-n', name, 'link', 'set', 'lo', 'up'], check=True)
    yield name
    subprocess.run(['ip', 'netns', 'delete', name], check=True)


@contextlib.contextmanager
def api() -> Iterator[int]:
    """Serve on a port of loopback out here."""
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(netns: str, port: int, folder: pathlib.Path, data: str = '',
          ports: list[int] | None = None) -> tuple[int, list[str]]:
    lines: list[str] = []
    status = relay.run(
        netns, [port] if ports is None else ports,
        [sys.executable, '-c', FETCH, str(port), data],
        {**os.environ, 'no_proxy': '127.0.0.1'}, folder, lines.append)
    return status, lines


def test_both_directions_carry_bodies(netns, tmp_path):
    with api() as port:
        assert fetch(netns, port, tmp_path) == (0, [str(len(BODY))])
        assert fetch(netns, port, tmp_path, 'y') == (0, ['1234'])


def test_who_hangs_up_early_does_no_harm(netns, tmp_path, caplog):
    """While the answer is awaited, nothing but us holds the connection."""
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        gc.collect()

    with api() as port:
        status = relay.run(
            netns, [port], [sys.executable, '-uc', LEAVE, str(port)],
            dict(os.environ), tmp_path, tell)
        after = fetch(netns, port, tmp_path)

    assert (status, lines) == (0, ['left'])
    assert after == (0, [str(len(BODY))])
    assert not caplog.records


def test_what_is_not_relayed_is_not_reached(netns, tmp_path):
    with api() as port:
        status, lines = fetch(netns, port, tmp_path, ports=[])

    assert status == 1
    assert 'Connection refused' in lines[-1]


def test_an_api_that_is_down_hangs_up(netns, tmp_path):
    with api() as port:
        pass
    status, lines = fetch(netns, port, tmp_path)

    assert status == 1
    assert 'timed out' not in lines[-1]


def test_the_caller_stays_in_its_own_namespace(netns, tmp_path):
    before = os.readlink('/proc/thread-self/ns/net')
    with api() as port:
        fetch(netns, port, tmp_path)

    assert os.readlink('/proc/thread-self/ns/net') == before


def test_no_such_namespace_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        relay.run('no-such', [], ['true'], {}, tmp_path, print)
