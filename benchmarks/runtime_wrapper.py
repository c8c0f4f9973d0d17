# SPDX-License-Identifier: Apache-2.0
"""What nova-vcloud-runtime adds to runc, in milliseconds.

Each round runs the same command with and without it, so that whatever else
the machine does falls on both; the figure is the median of the differences.
"""

from collections.abc import Callable
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / 'benchmarks')]

import _report  # noqa: E402 - found by the line above

RUNTIME = str(ROOT / 'virt_docker/runtime/nova-vcloud-runtime')
ROUNDS = int(os.environ.get('BENCH_ROUNDS', '100'))
GOAL = '<= 5'  # ms
NETNS = f'bench{os.getpid()}'
HOOK = {'path': '/proc/1/exe', 'args': ['libnetwork-setkey', 'x']}


class Bundle:
    """A container that is made, never started."""

    def __init__(self, home: pathlib.Path) -> None:
        self.id = f'bench{os.getpid()}'
        self.home = home
        self.config = home / 'config.json'
        links = home / 'links'
        links.mkdir()
        (links / self.id).symlink_to(f'/run/netns/{NETNS}')
        self.wrapper = [RUNTIME, '--links', str(links)]
        bin_ = home / 'rootfs/bin'
        bin_.mkdir(parents=True)
        shutil.copy(str(shutil.which('busybox')), bin_ / 'sh')
        subprocess.run(['runc', 'spec', '--bundle', home], check=True)
        self.spec = json.loads(self.config.read_text())
        self.spec['process'] |= {'args': ['/bin/sh'], 'terminal': False}
        # As long as what dockerd writes; runc ignores it.
        self.spec['annotations'] = {'org.example.filler': 'x' * 16000}

    def dump(self, joined: bool, indent: int | None = None) -> None:
        """Write the bundle, as dockerd does or as the wrapper leaves it."""
        spec = json.loads(json.dumps(self.spec))
        for namespace in spec['linux']['namespaces']:
            if joined and namespace['type'] == 'network':
                namespace['path'] = f'/run/netns/{NETNS}'
        spec['hooks'] = {'prestart': [] if joined else [HOOK]}
        separators = None if indent else (',', ':')
        self.config.write_text(
            json.dumps(spec, indent=indent, separators=separators))

    def run(self, *command: str) -> None:
        """Run a command that must succeed."""
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL)



def difference(bundle: Bundle, runc: str, *args: str,
               after: Callable[[], Any] = lambda: None,
               indent: int | None = None) -> float:
    """Return the median of (with - without) in ms, over ROUNDS."""
    found = []
    for _round in range(ROUNDS + 1):
        taken = []
        for joined, command in (
                (True, [runc, *args]),
                (False, [*bundle.wrapper, '--runc', runc, *args])):
            bundle.dump(joined, indent)
            start = time.perf_counter()
            bundle.run(*command)
            taken.append(time.perf_counter() - start)
            after()
        found.append((taken[1] - taken[0]) * 1000)
    return statistics.median(found[1:])


def main() -> int:
    """Print the table; 0 when the goals are met."""
    # Bundles are in /run, a tmpfs on any host but a few containers.
    home = pathlib.Path(tempfile.mkdtemp(dir='/dev/shm'))
    subprocess.run(['ip', 'netns', 'add', NETNS], check=True)
    try:
        bundle = Bundle(home)
        create = ('create', '--bundle', str(home), bundle.id)
        stub = home / 'true'
        stub.write_text('#!/bin/sh\n')
        stub.chmod(0o755)
        rows = [
            _report.Row('create by runc', difference(
                bundle, 'runc', '--root', str(home / 'state'), *create,
                after=lambda: bundle.run(
                    'runc', '--root', str(home / 'state'), 'delete',
                    '--force', bundle.id)), 'ms', GOAL),
            _report.Row('create by nothing', difference(
                bundle, str(stub), *create), 'ms', GOAL),
            _report.Row('create by nothing, config.json of another engine',
                        difference(bundle, str(stub), *create, indent=1),
                        'ms'),
            _report.Row('state by nothing', difference(
                bundle, str(stub), 'state', bundle.id), 'ms', GOAL),
        ]
    finally:
        subprocess.run(['ip', 'netns', 'del', NETNS], check=True)
        shutil.rmtree(home)
    return 0 if _report.publish('runtime_wrapper', rows) else 1


if __name__ == '__main__':
    sys.exit(main())
