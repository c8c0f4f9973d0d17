# SPDX-License-Identifier: Apache-2.0
"""Containers and images of ours that nobody wants any more, again and again.

Of requests that an engine has ended after we gave up, and of servers that
were deleted behind this host's back.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import contextlib
import re
import time
from typing import Any

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova.compute import vm_states
from oslo_log import log
from oslo_utils import timeutils

from nova_vcloud import exception
from nova_vcloud.engine import Engine
from nova_vcloud.late_results import LABEL
from nova_vcloud.late_results import Late
from nova_vcloud.qos import periodic
from nova_vcloud.virt_docker import server_labels

LOG = log.getLogger(__name__)

INTERVAL = 60.0  # seconds
#: Seconds for which a server has to be deleted before it is removed here:
#: Nova notes that after it has had the host remove it.
GRACE = 120.0
#: States of a container that has processes.
RUNNING = ('running', 'paused', 'restarting')
_ID = re.compile('[0-9a-f]{64}')


def deleted(uuids: set[str], host: str) -> dict[str, float]:
    """Return those of some servers that Nova has deleted.

    One that it knows nothing of is not: another database may have it.

    :param host: where they are; one question is for all that belong there
    :returns: {server: seconds since}
    """
    context = nova_context.get_admin_context(read_deleted='yes')
    found = {}
    for uuid in _not_on(uuids, host):
        try:
            instance = objects.Instance.get_by_uuid(context, uuid,
                                                    expected_attrs=[])
        except nova_exception.InstanceNotFound:
            LOG.warning('Nova knows nothing of server %s, which has a '
                        'container on this host', uuid)
            continue
        if instance.deleted:
            found[uuid] = _age(instance)
    return found


def _not_on(uuids: set[str], host: str) -> set[str]:
    """Return those of some servers that Nova does not have on a host.

    Nearly all are there, and one query tells of them.
    """
    return uuids - {each.uuid for each in objects.InstanceList.get_by_host(
        nova_context.get_admin_context(), host, expected_attrs=[])}


def _age(instance: objects.Instance) -> float:
    """Return for how many seconds a server is deleted, by its record."""
    if instance.deleted_at is None:
        return 0.0
    return float(timeutils.delta_seconds(
        timeutils.normalize_time(instance.deleted_at), timeutils.utcnow()))


#: Of Nova's record of a move, once it has ended.
ENDED = ('confirmed', 'reverted', 'error', 'failed', 'completed',
         'cancelled')
#: A server in these has all it has on the host that Nova names for it.
WHOLE = (vm_states.ACTIVE, vm_states.STOPPED, vm_states.PAUSED,
         vm_states.SUSPENDED, vm_states.RESCUED, vm_states.SHELVED)

Holds = Callable[[nova_context.RequestContext, str, str], bool]


def elsewhere(uuids: set[str], host: str, holds: Holds) -> set[str]:
    """Return those of some servers that live on other hosts, whole.

    What a move that failed at its end has left here is all that there is of
    a server until the other host has it: that host is asked. One that is
    shelved, and nowhere, is in its image.

    :param host: where something is left of them
    :param holds: tells whether a host has a server, of (context, host, uuid)
    """
    context = nova_context.get_admin_context()
    found = set()
    for uuid in _not_on(uuids, host):
        try:
            instance = objects.Instance.get_by_uuid(context, uuid,
                                                    expected_attrs=[])
        except nova_exception.InstanceNotFound:
            continue
        # It may have come back since.
        if instance.task_state is not None or instance.host == host \
                or _moves(context, uuid, host):
            continue
        if instance.vm_state == vm_states.SHELVED_OFFLOADED or (
                instance.vm_state in WHOLE and instance.host
                and holds(context, instance.host, uuid)):
            found.add(uuid)
    return found


def _moves(context: nova_context.RequestContext, uuid: str,
           host: str) -> bool:
    """Tell whether a server has a move, of this host, that has not ended."""
    return any(host in (move.source_compute, move.dest_compute)
               and move.status not in ENDED
               for move in objects.MigrationList.get_by_filters(
                   context, {'instance_uuid': uuid}))


class Leftovers:
    """Looks for leftovers of this host, and removes them.

    :param host: nova-compute's host name
    :param remove: removes all that this host has of a server
    :param gone: says which of some servers, on a host, Nova has deleted, and
        for how long (seconds)
    :param elsewhere: says which of some servers live on other hosts than
        this one
    :param interval: seconds between looks
    """

    def __init__(self, engine: Engine, host: str,
                 remove: Callable[[str], object],
                 gone: Callable[[set[str], str], dict[str, float]]
                 = deleted,
                 elsewhere: Callable[[set[str], str], set[str]]
                 = lambda _uuids, _host: set(),
                 interval: float = INTERVAL) -> None:
        self._engine = engine
        self._host = host
        self._remove = remove
        self._gone = gone
        self._elsewhere = elsewhere
        self._left: set[str] = set()
        self._seen: dict[str, float] = {}
        self._watch = periodic.Watch(self.look, interval, at_once=True)

    def start(self) -> None:
        """Begin with what was left before this start."""
        self._watch.start()

    def stop(self) -> None:
        """End after the present look, if there is one."""
        self._watch.stop()

    def look(self) -> None:
        """Remove what is there, and should not be.

        :raises EngineUnavailable: the next look may go better
        """
        for late in self._engine.late.all():
            self._end(late)
        containers = self._engine.containers(
            server_labels.of_host(self._host))
        self._end_deleted({each['Labels'][server_labels.UUID]
                           for each in containers})
        self._end_left(containers)

    def _end_left(self, containers: Iterable[Mapping[str, Any]]) -> None:
        """Remove servers that have left, and nothing of which runs here.

        Of those that this look and the one before has found.
        """
        runs = {each['Labels'][server_labels.UUID]
                for each in containers if each['State'] in RUNNING}
        rest = {each['Labels'][server_labels.UUID]
                for each in containers} - runs
        found = self._elsewhere(rest, self._host) if rest else set()
        for uuid in found & self._left:
            self._end_one(uuid, 'lives on another host')
        self._left = found

    def _end(self, late: Late) -> None:
        """Remove what has come late; note it once it is gone."""
        try:
            if self._removed(late) or late.expired(time.monotonic()):
                self._engine.late.forget(late)
        except exception.EngineError as e:
            LOG.info('%s is removed later: %s', late.name, e)

    def _removed(self, late: Late) -> bool:
        """Remove something; tell whether nothing more can come of it."""
        if late.kind == 'image':
            if self._engine.image_get(late.name) is None:
                return False
            self._engine.image_remove(late.name)
            LOG.info('Removed image %s, which the engine made after nobody '
                     'waited for it any more', late.name)
            return True
        try:
            found = self._engine.container(late.name)
        except exception.ContainerNotFound:
            # By its id one is known that was there; a name may come true.
            return bool(_ID.fullmatch(late.name))
        labels = found['Config']['Labels'] or {}
        if late.request in ('', labels.get(LABEL)):
            # Without an answer it is known by its id from now on.
            with contextlib.suppress(exception.EngineUnavailable):
                self._engine.remove(found['Id'])
            LOG.info('Removing container %s, which the engine made, or kept, '
                     'after nobody waited for it any more', late.name)
        return True

    def _end_deleted(self, found: set[str]) -> None:
        gone = self._gone(found, self._host) if found else {}
        for uuid in self._seen.keys() - gone:
            del self._seen[uuid]
        now = time.monotonic()
        for uuid, age in gone.items():
            # A host that is started again and again has not seen it for long.
            if max(age, now - self._seen.setdefault(uuid, now)) >= GRACE:
                self._end_one(uuid, 'is deleted')

    def _end_one(self, uuid: str, why: str) -> None:
        """Remove a server; that it fails keeps no other one."""
        LOG.warning('Removing the leftover container and disks of server %s, '
                    'which %s', uuid, why)
        try:
            self._remove(uuid)
        except Exception:
            # Of the kernel's and of Nova's, too: that a mount is in use, that
            # a link does not go.
            LOG.exception('Cannot remove the leftovers of server %s, which '
                          '%s; will retry', uuid, why)
