# SPDX-License-Identifier: Apache-2.0
"""A thread that looks at all limits again and again."""

from collections.abc import Callable
import threading

from oslo_log import log

LOG = log.getLogger(__name__)


class Watch:
    """Calls something every ``interval`` seconds, whatever it raises.

    :param interval: seconds; 0 never calls
    :param at_once: whether the first call is now, not one interval away
    """

    def __init__(self, look: Callable[[], None], interval: float,
                 at_once: bool = False) -> None:
        self._at_once = at_once
        self._look = look
        self._interval = interval
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin, in a thread."""
        if self._interval:
            threading.Thread(target=self._run, name='vcloud-limits',
                             daemon=True).start()

    def stop(self) -> None:
        """End after the present look, if there is one."""
        self._stopped.set()

    def _run(self) -> None:
        wait = 0.0 if self._at_once else self._interval
        while not self._stopped.wait(wait):
            wait = self._interval
            try:
                self._look()
            except Exception:
                # Nobody waits for us: the next look may go better.
                LOG.exception('Looking at the limits of servers failed')
