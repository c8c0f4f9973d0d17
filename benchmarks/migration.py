# SPDX-License-Identifier: Apache-2.0
"""How long a server that has written 200 MB is down while it moves.

From one engine to another on this machine, by real TLS and real ssh: send,
stop, send what has changed since, make, unpack, start. Beside it, in the same
run, what can be done with the engine alone: stop, commit, push to a registry
that has the image already, pull, create, start. There the server is down for
all of it. And the least that a move by ssh takes: a connection, and as many
bytes from a file to a file, with nothing of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in (
    'benchmarks', 'tests/fixtures', 'devstack')]

import _report  # noqa: E402 - found by the line above
import computehost  # noqa: E402
import dockerd as dockerd_fixture  # noqa: E402
import lan as lan_fixture  # noqa: E402
from nova import objects  # noqa: E402
import sshd  # noqa: E402
import tlsd  # noqa: E402
import transfers  # noqa: E402

from nova_vcloud import privsep  # noqa: E402
from nova_vcloud.transfer import transport  # noqa: E402
from nova_vcloud.virt_docker.guest import container_spec  # noqa: E402
from nova_vcloud.virt_docker.image import images  # noqa: E402
from nova_vcloud.virt_docker.migration import cold_migration  # noqa: E402
from nova_vcloud.virt_docker.volumes import ephemeral  # noqa: E402

ROUNDS = int(os.environ.get('BENCH_ROUNDS', '5'))
MEGABYTES = 200
MEMORY = 2000 << 20  # bytes; more than any of the ways fills
GOAL = '<= 0.1'
STOP_TIMEOUT = 60  # seconds; Nova's shutdown_timeout, unless it is set
REGISTRY = '''
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
'''


@contextlib.contextmanager
def registry(folder: pathlib.Path) -> Iterator[str]:
    """Have a registry; yield its address."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    config = folder / 'registry.yml'
    config.write_text(REGISTRY.format(folder=folder / 'data', port=port))
    with subprocess.Popen(['docker-registry', 'serve', config],
                          stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(100):
                with contextlib.suppress(OSError):
                    socket.create_connection(('127.0.0.1', port)).close()
                    break
                time.sleep(0.1)
            yield f'127.0.0.1:{port}'
        finally:
            process.terminate()


def have_memory() -> None:
    """Have free pages that no host has to be asked for."""
    touched = bytearray(b'.') * MEMORY
    del touched


class Bench:
    """Two hosts, and two ways from one to the other."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        folder = pathlib.Path(stack.enter_context(
            tempfile.TemporaryDirectory()))
        self.hosts = []
        for name in ('one', 'two'):
            engine = stack.enter_context(dockerd_fixture.private())
            lan = stack.enter_context(lan_fixture.private(str(engine.links)))
            self.hosts.append(computehost.ComputeHost(
                engine, lan, folder / name))
        for name in ('spool', 'ssh', 'tls', 'bare', 'registry'):
            (folder / name).mkdir()
        self.registry = stack.enter_context(registry(folder / 'registry'))
        ssh = stack.enter_context(
            sshd.private(folder / 'ssh', folder / 'spool'))
        tls = stack.enter_context(
            tlsd.private(folder / 'tls', folder / 'spool'))
        self._others = {'ssh': transport.Hosts(ssh, 300),
                        'tls': transport.Hosts(tls, 300)}
        for each in self._others.values():
            stack.callback(each.close)
        self._transport = 'ssh'
        self._data = folder / 'data'
        self._data.write_bytes(os.urandom(MEGABYTES << 20))
        self._bare = stack.enter_context(sshd.private(
            folder / 'bare', folder, f'cat >{folder / "copy"}'))
        images.tag_of = lambda _id: f'{dockerd_fixture.IMAGE}:latest'
        destination = transfers.Destination(folder / 'spool')
        self.moves = [cold_migration.Moves(
            host.dockerd.engine, host.containers, computehost.Images(),
            'layer', str(folder / 'spool'), self._remote, destination,
            lambda _context, _image: True, 2, 64 << 10, 5,
            ephemeral.Store(str(folder / 'ephemerals'), 'ext4'))
            for host in self.hosts]
        destination.check = self.moves[1].check_can_receive
        self._share_base()

    def _share_base(self) -> None:
        """Let registry and both engines have the same image."""
        base = f'{self.registry}/base'
        one, two = (host.dockerd for host in self.hosts)
        one.docker('tag', dockerd_fixture.IMAGE, base)
        one.docker('push', base)
        two.docker('rmi', dockerd_fixture.IMAGE)
        two.docker('pull', base)
        two.docker('tag', base, f'{dockerd_fixture.IMAGE}:latest')

    def _remote(self, address: str) -> transport.Remote:
        return self._others[self._transport].remote(address)

    def server(self) -> tuple[objects.Instance, object]:
        """Return a server that has written something."""
        host = self.hosts[0]
        instance, ports = host.instance(memory_mb=512), host.ports()
        host.spawn(instance, ports)
        host.inside(instance, f'dd if=/dev/urandom of=/root/data bs=1M '
                              f'count={MEGABYTES}; sync')
        return instance, ports

    def ours(self, way: str, connected: bool) -> tuple[float, float]:
        """Return the seconds that a move takes, and of them without server.

        :param way: 'ssh' or 'tls'
        :param connected: by a move before
        """
        self._transport = way
        instance, ports = self.server()
        there = self.hosts[1].ports()
        # What was written within the last second is sent again.
        time.sleep(2)
        stopped = self._note_stop()
        if not connected:
            self._others[way].close()
        have_memory()
        start = time.perf_counter()
        manifest = self.moves[0].send(None, instance, sshd.ADDRESS, ports,
                                    STOP_TIMEOUT)
        self.moves[1].receive(None, instance, manifest, there,
                              objects.ImageMeta(), power_on=True)
        end = time.perf_counter()
        for host in self.hosts:
            host.containers.destroy(instance.uuid)
        return end - start, end - stopped[-1]

    def _note_stop(self) -> list[float]:
        """Return a list to which the moment of the stop is added."""
        servers, times = self.hosts[0].containers, []
        real = type(servers).stop

        def stop(uuid: str, timeout: int) -> None:
            times.append(time.perf_counter())
            real(servers, uuid, timeout)
        servers.stop = stop
        return times

    def engines(self) -> float:
        """Return the seconds that commit, push and pull take."""
        instance, _ports = self.server()
        one, two = (host.dockerd for host in self.hosts)
        name = container_spec.container_name(instance.uuid)
        image = f'{self.registry}/moved:{instance.uuid}'
        have_memory()
        start = time.perf_counter()
        one.docker('stop', '--time', str(STOP_TIMEOUT), name)
        one.docker('commit', name, image)
        one.docker('push', image)
        two.docker('pull', image)
        two.docker('run', '--detach', '--tty', '--network', 'none', '--name',
                   name, image)
        found = time.perf_counter() - start
        two.docker('rm', '--force', name)
        self.hosts[0].containers.destroy(instance.uuid)
        for engine in (one, two):
            engine.docker('rmi', image)
        return found

    def bare(self) -> float:
        """Return the seconds that ssh takes for as much, from file to file.
        """
        os.sync()
        have_memory()
        start = time.perf_counter()
        with self._data.open('rb') as data:
            subprocess.run(self._bare.words(sshd.ADDRESS), stdin=data,
                           check=True)
        return time.perf_counter() - start


def main() -> int:
    """Print the table; 0 when the goals are met."""
    privsep.in_process()
    ours: dict[tuple[str, bool], list[tuple[float, float]]] = {
        ('tls', False): [], ('ssh', False): [], ('ssh', True): []}
    theirs, bare = [], []
    with contextlib.ExitStack() as stack:
        bench = Bench(stack)
        for _ in range(ROUNDS):
            for case, times in ours.items():
                times.append(bench.ours(*case))
            theirs.append(bench.engines())
            bare.append(bench.bare())
    base, ssh = statistics.median(theirs), statistics.median(bare)
    rows = [_report.Row('stop, commit, push, pull, create, start', base, 's')]
    for (way, connected), times in ours.items():
        total, down = (statistics.median(each) for each in zip(*times,
                                                               strict=True))
        name = f'{way}{", connected already" if connected else ""}'
        # Of ssh, bytes and connection alone take nearly all that is allowed.
        goal = GOAL if way == 'tls' else ''
        rows += [
            _report.Row(f'all of the move by {name}', total, 's'),
            _report.Row(f'of it without server, by {name}', down, 's'),
            _report.Row(f'all, {name} / commit, push, pull', total / base,
                        'ratio', goal),
            _report.Row(f'down, {name} / commit, push, pull', down / base,
                        'ratio', GOAL)]
    rows += [
        _report.Row(f'{MEGABYTES} MB by ssh, from file to file', ssh, 's'),
        _report.Row('ssh alone / commit, push, pull', ssh / base, 'ratio')]
    return 0 if _report.publish('migration', rows) else 1


if __name__ == '__main__':
    sys.exit(main())
