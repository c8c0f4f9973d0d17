# SPDX-License-Identifier: Apache-2.0
"""What loading an image costs nova-compute in memory, small and large.

An image of generated content goes through the driver's image store into a
private engine, as one that Glance sends would; meanwhile the memory of this
process, which has loaded what nova-compute loads, is looked at.
"""

from collections.abc import Iterator
import contextlib
import hashlib
import io
import json
import os
import pathlib
import sys
import tarfile
import tempfile
import threading
import time
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / 'benchmarks'), str(ROOT / 'tests/fixtures')]

import _report  # noqa: E402 - found by the line above
import dockerd  # noqa: E402
from nova import objects  # noqa: E402

objects.register_all()  # as nova-compute does before it loads a driver

from nova_vcloud.virt_docker import driver  # noqa: E402
from nova_vcloud.virt_docker.image import images  # noqa: E402

MIB = 1 << 20
SIZES = [int(word) for word in os.environ.get(
    'BENCH_IMAGE_MIB', '40,4096').split(',')]
GOAL = '<= 50'
EVERY = 0.02  # seconds between two looks at the memory
CHUNK = 64 << 10  # what Glance's client hands over at once
_BLOCK = os.urandom(MIB)


def layer(size: int) -> Iterator[bytes]:
    """Yield a layer with one file of so many MiB that does not pack well."""
    info = tarfile.TarInfo('data')
    info.size = size * MIB
    yield info.tobuf()
    for number in range(size):
        yield number.to_bytes(8, 'big') + _BLOCK[8:]
    yield bytes(1024)


def small(name: str, content: bytes) -> bytes:
    """Return one member of a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    out = io.BytesIO()
    with tarfile.TarFile(fileobj=out, mode='w') as tar:
        tar.addfile(info, io.BytesIO(content))
        return out.getvalue()[:tar.offset]


def image(size: int) -> Iterator[bytes]:
    """Yield what ``docker save`` would write of an image with that layer."""
    digest = hashlib.sha256()
    for piece in layer(size):
        digest.update(piece)
    config = json.dumps({
        'architecture': '', 'os': 'linux', 'config': {}, 'rootfs': {
            'type': 'layers',
            'diff_ids': [f'sha256:{digest.hexdigest()}']}}).encode()
    name = f'{uuid.uuid4().hex * 2}/layer.tar'
    manifest = json.dumps([{'Config': 'c.json', 'RepoTags': [],
                            'Layers': [name]}]).encode()
    outer = tarfile.TarInfo(name)
    outer.size = size * MIB + 1536
    yield outer.tobuf()
    for piece in layer(size):
        for place in range(0, len(piece), CHUNK):
            yield piece[place:place + CHUNK]
    yield bytes(-outer.size % 512)
    yield small('c.json', config) + small('manifest.json', manifest)
    yield bytes(1024)


class Memory:
    """The most memory that this process had, looked at in a thread."""

    def __init__(self) -> None:
        self.most = self.now()
        self._end = threading.Event()

    @staticmethod
    def now() -> float:
        """Return MiB of memory that this process has now."""
        with open('/proc/self/statm') as statm:
            return int(statm.read().split()[1]) * os.sysconf(
                'SC_PAGE_SIZE') / MIB

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Look all the time."""
        thread = threading.Thread(target=self._look)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()

    def _look(self) -> None:
        while not self._end.wait(EVERY):
            self.most = max(self.most, self.now())


def load(store: images.ImageStore, size: int) -> tuple[float, float]:
    """Load an image; return MiB above idle, and seconds."""
    meta = objects.ImageMeta.from_dict({
        'container_format': 'docker', 'disk_format': 'raw',
        'properties': {}})
    memory, image_id = Memory(), str(uuid.uuid4())
    idle, start = memory.now(), time.perf_counter()
    with memory.watched():
        store.ensure(size, image_id, meta, root_gb=0, instance=None)
    taken = time.perf_counter() - start
    with store.records.locked(image_id):
        store.room.discard(image_id)
    return memory.most - idle, taken


def main() -> int:
    """Print the table; 0 when the goal is met."""
    rows = [_report.Row('with what nova-compute imports '
                        f'({driver.DockerDriver.__name__})',
                        Memory.now(), 'MiB')]
    with dockerd.private() as engine, \
            tempfile.TemporaryDirectory() as locks:
        store = images.ImageStore(
            engine.engine, lambda size, _image_id: image(size), locks)
        load(store, 1)  # what the first one makes for all
        for size in SIZES:
            grown, taken = load(store, size)
            rows += [
                _report.Row(f'{size} MiB image, memory above idle', grown,
                            'MiB', GOAL),
                _report.Row(f'{size} MiB image, loaded', size / taken,
                            'MiB/s')]
    return 0 if _report.publish('image_load', rows) else 1


if __name__ == '__main__':
    sys.exit(main())
