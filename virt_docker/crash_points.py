# SPDX-License-Identifier: Apache-2.0
"""Named steps of long operations, at which a test may kill a process."""

from collections.abc import Iterator
import contextlib
import contextvars
import os
import signal

# Names a file whose text is the step to die at; a process id may follow, of
# the one that dies instead of this one. Set by tests only; a process
# started without it never looks at the file system. With the word "fail" the
# step fails, and nobody dies.
CRASH_FILE = os.environ.get('NOVA_VCLOUD_CRASH_FILE')

SPAWN = ('image', 'namespace', 'create', 'join', 'limits', 'inject', 'start',
         'end')

#: What the steps of this thread are part of.
_within = contextvars.ContextVar('_within', default='')


@contextlib.contextmanager
def within(name: str) -> Iterator[None]:
    """Have the steps in this block be those of something else.

    :param name: goes before each of theirs, with a hyphen
    """
    token = _within.set(f'{name}-')
    try:
        yield
    finally:
        _within.reset(token)


def reached(step: str) -> None:
    """Die by SIGKILL here when a test asks for it, or have another die.

    :raises OSError: a test asks for that
    """
    if CRASH_FILE is None:
        return
    try:
        with open(CRASH_FILE) as f:
            wanted, *victims = f.read().split()
    except FileNotFoundError:
        return
    if wanted == _within.get() + step:
        os.unlink(CRASH_FILE)  # once: the restarted service must live
        if victims == ['fail']:
            raise OSError(f'Failure injected at crash point {wanted}')
        os.kill(int(victims[0]) if victims else os.getpid(), signal.SIGKILL)
