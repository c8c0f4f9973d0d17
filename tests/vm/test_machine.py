# SPDX-License-Identifier: Apache-2.0
"""The machine tells how commands ended, and why it does not run."""

import machine as machine_fixture
import pytest


def test_status_and_both_outputs(machine):
    done = machine.run(['sh', '-c', 'echo out; echo err >&2; exit 3'], 30)
    assert (done.status, done.output, done.errors) == (3, 'out\n', 'err\n')


def test_a_command_that_does_not_end_is_killed(machine):
    assert machine.run(['sleep', '1000'], 2).status == 124
    assert machine.run(['pgrep', 'sleep'], 30).status == 1


def test_environment(machine):
    assert machine.run(['sh', '-c', 'echo "$WORD"'], 30,
                       {'WORD': 'a b'}).output == 'a b\n'


@pytest.fixture
def broken(tmp_path):
    for name in ('base.raw', 'payload.raw'):
        (tmp_path / name).write_bytes(bytes(1 << 20))
    return tmp_path


def test_no_kernel(broken):
    with (pytest.raises(machine_fixture.MachineError,
                        match=r'(?s)qemu ended: 1.*vmlinuz'),
          machine_fixture.booted(broken, broken / 'payload.raw',
                                 broken / 'console')):
        pass


def test_no_system(broken, cache):
    (broken / 'vmlinuz').symlink_to(cache / 'vmlinuz')
    with (pytest.raises(machine_fixture.MachineError,
                        match=r'(?s)the console says:.*Unable to mount root'),
          machine_fixture.booted(broken, broken / 'payload.raw',
                                 broken / 'console')):
        pass
