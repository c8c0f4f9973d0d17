# SPDX-License-Identifier: Apache-2.0
"""Refuses a server that is one too many of its application on this host.

The scheduler judges by what it has seen, and two of them may decide at once;
what comes of it meets here, before anything is made. Only hard maxima of a
host that are numbers can be judged by the host alone.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import threading
from typing import Any

from nova import exception as nova_exception
from nova import objects
from oslo_db import exception as db_exception
from oslo_log import log
import oslo_messaging

from nova_vcloud import exception
from nova_vcloud.flavor import applications

LOG = log.getLogger(__name__)


class Admission:
    """Counts the servers of applications on this host.

    :param present: returns {server uuid: label of its application}, of all
        servers here that have one
    :param hints: returns the scheduler hints of a server
    :param defaults: the maxima of servers that do not say; as
        :func:`~nova_vcloud.flavor.applications.rule` takes them
    """

    def __init__(self, present: Callable[[], Mapping[str, str]],
                 hints: Callable[[Any, objects.Instance],
                                 Mapping[str, object]],
                 defaults: Mapping[str, str]) -> None:
        self._present = present
        self._hints = hints
        self._defaults = defaults
        self._lock = threading.Lock()
        self._building: dict[str, set[str]] = collections.defaultdict(set)

    @contextlib.contextmanager
    def admitted(self, context: Any,
                 instance: objects.Instance) -> Iterator[str]:
        """Let a server in, until it is made.

        :returns: the label of its application, '' when it has none
        :raises TooManyServers: there are as many here as may be
        :raises InvalidRequest: a hint or a key of the flavor is wrong
        """
        rule = self._rule(context, instance)
        if rule is None:
            yield ''
            return
        label, uuid = rule.key.label, instance.uuid
        with self._lock:
            self._check(rule, label, uuid)
            self._building[label].add(uuid)
        try:
            yield label
        finally:
            with self._lock:
                self._building[label].discard(uuid)
                if not self._building[label]:
                    del self._building[label]

    def label(self, context: Any, instance: objects.Instance) -> str:
        """Return the label of a server's application, '' when it has none.
        """
        rule = self._rule(context, instance)
        return rule.key.label if rule else ''

    def _rule(self, context: Any, instance: objects.Instance
              ) -> applications.Rule | None:
        return applications.rule(
            instance.project_id, self._hints(context, instance),
            instance.flavor.extra_specs or {}, self._defaults)

    def _check(self, rule: applications.Rule, label: str, uuid: str) -> None:
        cap = rule.caps.get('host')
        if cap is None or cap.percent or not rule.hard:
            return
        here = {other for other, of in self._present().items()
                if of == label} | self._building.get(label, set())
        count = len(here - {uuid})
        if count >= cap.amount:
            raise exception.TooManyServers(
                f'this host has {count} servers of application {rule.key}, '
                f'may have {cap.amount}')


def hints_of(context: Any, instance: objects.Instance) -> dict[str, object]:
    """Return the scheduler hints of a server; asks the API database.

    Where a cell's conductor may not, there are none: the scheduler's judgment
    stands.
    """
    try:
        spec = objects.RequestSpec.get_by_instance_uuid(
            context, instance.uuid)
    except nova_exception.RequestSpecNotFound:
        return {}
    except (nova_exception.NovaException, db_exception.DBError,
            oslo_messaging.MessagingException) as e:
        LOG.warning('Cannot read the scheduler hints, so maxima of an '
                    'application are not checked here: %s', e,
                    instance=instance)
        return {}
    return (spec.scheduler_hints if 'scheduler_hints' in spec else None) or {}
