# SPDX-License-Identifier: Apache-2.0
"""How long a server may take to end, and who need not wait for it.

The time is the image's to say (``os_shutdown_timeout``), and images are
tenants': it is kept within the operator's bounds, and a delete ends it.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import threading

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova.compute import task_states
from oslo_log import log

from nova_vcloud import exception
from nova_vcloud.engine import Engine

LOG = log.getLogger(__name__)

#: Seconds between looks at whether Nova deletes a server that is stopping.
POLL = 2.0
MAXIMUM = 300  # seconds
DEFAULT = 60  # seconds; that of [DEFAULT] shutdown_timeout


def deleting(uuid: str) -> bool:
    """Tell whether Nova wants a server gone.

    Its delete waits until the verb before it has returned
    (``ComputeManager.terminate_instance`` takes the server's lock): only the
    record tells of it until then.
    """
    try:
        instance = objects.Instance.get_by_uuid(
            nova_context.get_admin_context(), uuid, expected_attrs=[])
    except nova_exception.InstanceNotFound:
        return True
    return bool(instance.task_state in (task_states.DELETING,
                                        task_states.SOFT_DELETING))


def no_one_deletes(_uuid: str) -> bool:
    """Tell that no server is deleted: where there is no Nova to ask."""
    return False


@dataclasses.dataclass
class _Stop:
    """A stop that waits for a server.

    :ivar ended: the server has ended, or was not to be stopped
    """

    uuid: str
    container: str
    ended: bool = False


class Stops:
    """Stops of this host's servers.

    :param default: seconds, instead of a time that cannot be
    :param maximum: seconds that a server may take at most; ``default`` when
        that is more
    :param wanted_gone: tells whether Nova deletes a server
    """

    def __init__(self, engine: Engine, default: int = DEFAULT,
                 maximum: int = MAXIMUM,
                 wanted_gone: Callable[[str], bool] = no_one_deletes
                 ) -> None:
        self._engine = engine
        self._default = default
        self._maximum = max(default, maximum)
        self._wanted_gone = wanted_gone
        self._changed = threading.Condition()
        self._urgent: collections.Counter[str] = collections.Counter()

    def bounded(self, timeout: int) -> int:
        """Return the seconds that are kept of what an image says.

        The engine takes a negative number for "wait for ever".
        """
        if timeout < 0:
            return self._default
        return min(timeout, self._maximum)

    def stop(self, uuid: str, container_id: str, timeout: int) -> None:
        """Stop a container; one that Nova deletes meanwhile is killed.

        :param timeout: seconds between the stop signal and SIGKILL
        """
        seconds = self.bounded(timeout)
        if seconds != timeout:
            LOG.info('Server %s has %d seconds to end, not the %d of '
                     'os_shutdown_timeout: [docker] max_shutdown_timeout '
                     'and [DEFAULT] shutdown_timeout of this host allow no '
                     'other', uuid, seconds, timeout)
        if not seconds:
            self._engine.stop(container_id, 0)
            return
        with self._watched(_Stop(uuid, container_id)):
            self._engine.stop(container_id, seconds)

    @contextlib.contextmanager
    def urgent(self, uuid: str) -> Iterator[None]:
        """End stops of a server at once, those that begin meanwhile too."""
        with self._changed:
            self._urgent[uuid] += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._urgent[uuid] -= 1
                self._urgent += collections.Counter()  # without those of 0

    @contextlib.contextmanager
    def _watched(self, stop: _Stop) -> Iterator[None]:
        watcher = threading.Thread(target=self._watch, args=(stop,),
                                   name='vcloud-stop', daemon=True)
        watcher.start()
        try:
            yield
        finally:
            with self._changed:
                stop.ended = True
                self._changed.notify_all()
            watcher.join()

    def _watch(self, stop: _Stop) -> None:
        while not self._over(stop):
            if self._is_urgent(stop):
                LOG.info('Server %s is killed while it stops: it is to be '
                         'deleted', stop.uuid)
                self._kill(stop)
                return

    def _over(self, stop: _Stop) -> bool:
        """Wait for news of a stop; tell whether it has ended."""
        with self._changed:
            self._changed.wait_for(
                lambda: stop.ended or self._urgent[stop.uuid], POLL)
            return stop.ended

    def _is_urgent(self, stop: _Stop) -> bool:
        with self._changed:
            if self._urgent[stop.uuid]:
                return True
        try:
            return self._wanted_gone(stop.uuid)
        except Exception:
            # Without an answer the server has the time that it was given.
            LOG.exception('Whether server %s is to be deleted is not known',
                          stop.uuid)
            return False

    def _kill(self, stop: _Stop) -> None:
        try:
            self._engine.kill(stop.container)
        except (exception.EngineConflict, exception.ContainerNotFound):
            pass  # it has ended by itself
        except exception.EngineError as e:
            LOG.warning('Server %s is not killed and ends in its own time: '
                        '%s', stop.uuid, e)
