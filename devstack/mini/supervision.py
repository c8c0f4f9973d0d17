# SPDX-License-Identifier: Apache-2.0
"""Start supervisord and tell it what to run."""

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import pathlib
import subprocess
import time
from typing import Any
import xmlrpc.client

from supervisor import xmlrpc as supervisor_xmlrpc

from mini import config
from mini import errors
from mini import services
from mini import settings

_ALREADY_STARTED = supervisor_xmlrpc.Faults.ALREADY_STARTED
_NOT_RUNNING = supervisor_xmlrpc.Faults.NOT_RUNNING
_BAD_NAME = supervisor_xmlrpc.Faults.BAD_NAME
_ON_THE_WAY = ('STARTING', 'RUNNING', 'BACKOFF', 'STOPPING')
MAX_FAILED_STARTS = 3


@contextlib.contextmanager
def _tolerating(*codes: int) -> Iterator[None]:
    """Ignore answers of supervisord that mean: it is so already."""
    try:
        yield
    except xmlrpc.client.Fault as fault:
        if fault.faultCode not in codes:
            raise


class Supervision:
    """The supervisord of one cloud."""

    def __init__(self, cloud: settings.Cloud) -> None:
        self._cloud = cloud
        self._failed_starts: dict[str, set[int]] = {}

    def _rpc(self) -> Any:
        """Return a new connection: they are not for several threads."""
        url = f'unix://{self._cloud.supervisor_socket}'
        transport = supervisor_xmlrpc.SupervisorTransport(None, None, url)
        proxy = xmlrpc.client.ServerProxy('http://127.0.0.1', transport)
        return proxy.supervisor

    def is_running(self) -> bool:
        """Tell whether supervisord answers."""
        try:
            return bool(self._rpc().getState()['statename'] == 'RUNNING')
        except (OSError, xmlrpc.client.Error):
            return False

    def ensure(self) -> str:
        """Start supervisord unless it runs; say what was found."""
        if self.is_running():
            return 'running already'
        conf = self._cloud.etc / 'supervisord.conf'
        log = self._cloud.log / 'supervisord.log'
        command = [str(self._cloud.venv / 'bin/supervisord'), '-c', str(conf)]
        env = services.environment(self._cloud, 'supervisord')
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, check=False
        )
        deadline = time.monotonic() + 20
        while not self.is_running():
            if done.returncode or time.monotonic() > deadline:
                raise errors.MinicloudError(
                    f'supervisord does not start: {done.stderr.strip()}', log
                )
            time.sleep(0.1)
        return ''

    def states(self) -> dict[str, dict[str, Any]]:
        """Return what supervisord knows of each service."""
        return {info['name']: info for info in self._rpc().getAllProcessInfo()}

    def declare(self, wanted: Iterable[services.Service]) -> None:
        """Make supervisord know these services and no other ones."""
        folder = self._cloud.etc / 'supervisor'
        files = [services.program(self._cloud, item) for item in wanted]
        for file in files:
            config.write_one(file)
        for stray in set(folder.glob('*.conf')) - {f.path for f in files}:
            stray.unlink()
        self.reread()

    def reread(self) -> None:
        """Apply changed program files; what changed is stopped."""
        rpc = self._rpc()
        added, changed, removed = rpc.reloadConfig()[0]
        self.stop([*changed, *removed])
        for name in [*changed, *removed]:
            with _tolerating(_BAD_NAME):
                rpc.removeProcessGroup(name)
        for name in [*added, *changed]:
            rpc.addProcessGroup(name)

    def start(self, service: services.Service, project: str) -> str:
        """Start a service, anew if what it was started with has changed.

        :param project: hash of the installed project.
        """
        mark = self._mark(service.name)
        now = services.fingerprint(self._cloud, service, project)
        before = mark.read_text() if mark.is_file() else ''
        remark = ''
        rpc = self._rpc()
        if before != now:
            if self._state(rpc, service.name) in _ON_THE_WAY:
                self.stop([service.name])
                remark = 'restarted'
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_text(now)
        with _tolerating(_ALREADY_STARTED):
            rpc.startProcess(service.name, False)
        return remark

    def stop(self, names: Iterable[str]) -> None:
        """Stop services at once and wait until they ended.

        supervisord kills what does not end in its time, so they do end.
        """
        rpc = self._rpc()
        names = list(names)
        for name in names:
            with _tolerating(_NOT_RUNNING, _BAD_NAME):
                rpc.stopProcess(name, False)
        for name in names:
            while self._state(rpc, name) in _ON_THE_WAY:
                time.sleep(0.1)

    @staticmethod
    def _state(rpc: Any, name: str) -> str:
        """Return the state of a service; '' if supervisord has none."""
        infos = {info['name']: info for info in rpc.getAllProcessInfo()}
        return str(infos[name]['statename']) if name in infos else ''

    def require_alive(self, name: str) -> None:
        """Raise if a service ends again and again.

        :raises MinicloudError: with the log of the service.
        """
        info = self._rpc().getProcessInfo(name)
        starts = self._failed_starts.setdefault(name, set())
        if info['statename'] in ('BACKOFF', 'FATAL', 'UNKNOWN'):
            starts.add(info['start'])
        if len(starts) >= MAX_FAILED_STARTS:
            raise errors.MinicloudError(
                f'{name} does not stay up: {info["description"]}',
                services.log_path(self._cloud, name),
                f'`minicloud logs {name}`, then `minicloud up` again',
            )

    def started_at(self, name: str) -> float:
        """Return when a service was started last, in Unix time."""
        return float(self._rpc().getProcessInfo(name)['start'])

    def _mark(self, name: str) -> pathlib.Path:
        return self._cloud.run / 'started' / name
