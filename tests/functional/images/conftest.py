# SPDX-License-Identifier: Apache-2.0
"""A real, private engine, and the images devstack builds."""

import contextlib
import pathlib
import shutil
import subprocess
import tempfile
import time

import dockerd as dockerd_fixture  # found by tests/conftest.py
import pytest

from nova_vcloud import exception
from nova_vcloud.engine import Engine

BUILD = (pathlib.Path(__file__).resolve().parents[3]
         / 'devstack' / 'images' / 'build')


class PrivateEngine:
    """A dockerd without network whose every file is below one folder."""

    def __init__(self, home: pathlib.Path) -> None:
        self.home = home
        self.url = f'unix://{home}/docker.sock'

    @contextlib.contextmanager
    def running(self):
        with (self.home / 'log').open('wb') as log:
            process = subprocess.Popen(
                ['dockerd', '--bridge=none', '--iptables=false',
                 f'--data-root={self.home}/data',
                 f'--exec-root={self.home}/exec',
                 f'--pidfile={self.home}/pid', f'--host={self.url}'],
                stdout=log, stderr=subprocess.STDOUT)
        try:
            self._wait(process)
            yield self
        finally:
            process.terminate()
            process.wait(30)

    def _wait(self, process):
        engine = Engine(self.url)
        for _ in range(150):
            with contextlib.suppress(exception.EngineUnavailable):
                engine.info()
                return
            assert process.poll() is None, (self.home / 'log').read_text()
            time.sleep(0.2)
        pytest.fail((self.home / 'log').read_text())

    def docker(self, *args, check=True, **kwargs):
        """Run the docker command line against this engine."""
        return subprocess.run(['docker', '--host', self.url, *args],
                              check=check, capture_output=True, **kwargs)

    def contents(self):
        """Return all the engine holds of images, dangling ones too."""
        images = self.docker('images', '--all', '--no-trunc', '--format',
                             '{{.Repository}}:{{.Tag}} {{.ID}}').stdout
        data = self.home / 'data'
        layers = {path.name for path in
                  (data / 'image/overlay2/layerdb/sha256').glob('*')}
        # Half-made layers and uploads.
        rest = {str(path.relative_to(data)) for folder in
                ('tmp', 'image/overlay2/layerdb/tmp')
                for path in (data / folder).glob('*')}
        return {'images': set(images.decode().splitlines()),
                'layers': layers, 'rest': rest}

    def settled(self, wanted):
        """Wait for the engine's own clearing; return what it holds."""
        for _ in range(50):
            if (found := self.contents()) == wanted:
                break
            time.sleep(0.1)
        return found


@pytest.fixture(scope='session')
def private_engine():
    # A socket's path is at most 107 bytes long: pytest's folders are longer.
    home = pathlib.Path(tempfile.mkdtemp(prefix='nv-'))
    try:
        with PrivateEngine(home).running() as engine:
            yield engine
    finally:
        # dockerd mounts its folder on itself where / is not shared.
        dockerd_fixture.Dockerd(home).remove_mounts()
        shutil.rmtree(home)


@pytest.fixture(scope='session')
def built():
    """Build an image once; the mini cloud's cache serves later sessions."""
    cache = pathlib.Path('/var/cache/nova-vcloud/images')

    def build(name):
        done = subprocess.run([BUILD, name, cache], check=True, text=True,
                              stdout=subprocess.PIPE)
        return pathlib.Path(done.stdout.splitlines()[-1])
    return build
