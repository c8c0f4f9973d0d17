# SPDX-License-Identifier: Apache-2.0
"""A virtual machine, emulated, that runs commands through its guest agent."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import json
import pathlib
import socket
import subprocess
import time
from typing import Any

BOOT_TIMEOUT = 180.0  # seconds; takes 16 on an idle machine with two CPUs
ANSWER_TIMEOUT = 60.0  # seconds; the agent answers within milliseconds
CPUS = 2
MEMORY = 2048  # MiB
KERNEL_LINE = ('root=/dev/nvme0n1 rw console=ttyS0 panic=-1 apparmor=0 '
               'mitigations=off')


class MachineError(Exception):
    """The machine does not do what it was told; with its console's end."""


@dataclasses.dataclass(frozen=True)
class Done:
    """A command that ended.

    :ivar status: its exit status; 124 when it took too long
    :ivar output: its standard output
    :ivar errors: its standard error
    """

    status: int
    output: str
    errors: str


class Machine:
    """One boot of a disk. Whatever it writes to its disks is forgotten.

    :param folder: with base.raw and vmlinuz
    :param payload: raw image of the second disk
    :param console: file for all that qemu, the kernel and systemd say
    """

    def __init__(self, folder: pathlib.Path, payload: pathlib.Path,
                 console: pathlib.Path) -> None:
        self._console = console
        self._agent, remote = socket.socketpair()
        self._received = b''
        with remote, console.open('wb') as output:
            self._process = subprocess.Popen(
                _command(folder, payload, remote.fileno()),
                pass_fds=[remote.fileno()], stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT)

    def wait(self) -> None:
        """Wait until it takes commands.

        :raises MachineError: it does not within BOOT_TIMEOUT
        """
        # Waits in the socket until the agent opens its port.
        self._call('guest-ping', BOOT_TIMEOUT)

    def run(self, command: Sequence[str], timeout: float,
            env: Mapping[str, str] | None = None) -> Done:
        """Run a command as root to its end.

        :param timeout: seconds after which it is killed
        :raises MachineError: nothing was heard of its end
        """
        pid = self._call(
            'guest-exec', path='/usr/bin/env',
            arg=[*(f'{name}={value}' for name, value in (env or {}).items()),
                 'timeout', '--kill-after=10', str(timeout), *command],
            **{'capture-output': True})['pid']
        deadline = time.monotonic() + timeout + ANSWER_TIMEOUT
        while True:
            found = self._call('guest-exec-status', pid=pid)
            if found['exited']:
                return Done(found.get('exitcode', 128 + found.get(
                    'signal', 0)), _text(found, 'out'), _text(found, 'err'))
            if time.monotonic() > deadline:
                raise self._error(f'no end of {" ".join(command)}')
            time.sleep(0.2)

    def stop(self) -> None:
        """End it, as pulling the plug does."""
        self._agent.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _call(self, name: str, timeout: float = ANSWER_TIMEOUT,
              **arguments: Any) -> Any:
        """Ask the agent; its protocol is a JSON object a line."""
        message = {'execute': name, 'arguments': arguments}
        try:
            self._agent.sendall(json.dumps(message).encode() + b'\n')
            line = self._line(name, time.monotonic() + timeout)
        except ConnectionError:
            raise self._error(f'qemu ended: {self._process.wait()}') from None
        answer = json.loads(line)
        if 'error' in answer:
            raise self._error(f'{name}: {answer["error"]}')
        return answer['return']

    def _line(self, name: str, deadline: float) -> bytes:
        while b'\n' not in self._received:
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._error(f'no answer to {name} in time')
            self._agent.settimeout(left)
            try:
                data = self._agent.recv(65536)
            except TimeoutError:
                continue
            if not data:
                raise ConnectionResetError
            self._received += data
        line, _, self._received = self._received.partition(b'\n')
        return line

    def _error(self, message: str) -> MachineError:
        console = self._console.read_text(errors='replace')
        return MachineError(f'{message}; the console says:\n'
                            + '\n'.join(console.splitlines()[-40:]))


def _command(folder: pathlib.Path, payload: pathlib.Path,
             agent: int) -> list[str]:
    agent_port = 'chardev=agent,name=org.qemu.guest_agent.0'
    return [
        # Whatever ends the tests ends it.
        'setpriv', '--pdeathsig', 'KILL', 'qemu-system-x86_64',
        # Never KVM: there are machines where /dev/kvm is there and hangs.
        '-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', str(CPUS),
        '-m', str(MEMORY), '-nodefaults', '-no-user-config', '-no-reboot',
        '-display', 'none', '-nic', 'none',
        '-kernel', str(folder / 'vmlinuz'), '-append', KERNEL_LINE,
        *_disk('base', folder / 'base.raw'), *_disk('payload', payload),
        '-serial', 'stdio', '-device', 'virtio-rng-pci',
        '-device', 'virtio-serial',
        '-chardev', f'socket,id=agent,fd={agent}',
        '-device', f'virtserialport,{agent_port}']


def _disk(name: str, image: pathlib.Path) -> list[str]:
    options = 'if=none,format=raw,snapshot=on,cache=unsafe'
    return ['-drive', f'id={name},file={image},{options}',
            '-device', f'nvme,drive={name},serial={name}']


def _text(found: Mapping[str, str], stream: str) -> str:
    return base64.b64decode(found.get(f'{stream}-data', '')).decode(
        errors='replace')


@contextlib.contextmanager
def booted(folder: pathlib.Path, payload: pathlib.Path,
           console: pathlib.Path) -> Iterator[Machine]:
    """Have a machine for a while; parameters are Machine's.

    :raises MachineError: it does not boot
    """
    machine = Machine(folder, payload, console)
    try:
        machine.wait()
        yield machine
    finally:
        machine.stop()
