# SPDX-License-Identifier: Apache-2.0
"""Keeps the servers of an application apart, as far as it asks for.

An application is a name, in the hint ``app`` or the flavor's ``vcloud:app``:
no group is made before, and its servers may come at any time.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence

from nova import conf
from nova import objects
from nova.scheduler import host_manager
from oslo_log import log

from nova_vcloud import exception
from nova_vcloud.conf import scheduler
from nova_vcloud.filters import app_index
from nova_vcloud.filters import app_reader
from nova_vcloud.filters import base
from nova_vcloud.flavor import applications

CONF = conf.CONF
scheduler.register_opts(CONF)
LOG = log.getLogger(__name__)

#: {level: key in the metadata of aggregates}
DOMAINS = {'zone': 'availability_zone', 'rack': 'rack'}

INDEX = app_index.listening(app_index.Index(
    app_reader.Reader, lambda: CONF.vcloud_scheduler.app_refresh_interval))


class AppAntiAffinityFilter(base.Filter):
    """Holds to the maxima of a server's application, or lets them give way.

    List it last: a soft rule gives way when no host is left *here*.
    """

    def judge(self, hosts: list[host_manager.HostState],
              spec: objects.RequestSpec) -> Sequence[str]:
        """Return why each host cannot be; none where all can."""
        try:
            rule = rule_of(spec)
        except exception.InvalidRequest as e:
            return [str(e)] * len(hosts)
        if rule is None or not hosts:
            return ()
        uuid = spec.instance_uuid
        INDEX.begin(uuid, rule.key)
        candidates = base.Candidates.of(hosts, spec)
        candidates.watch()
        if not rule.caps:
            return ()
        reasons = _judge(candidates, rule, spec, INDEX.placed(rule.key, uuid))
        if all(reasons):
            INDEX.end(rule.key)
        return reasons


def rule_of(spec: objects.RequestSpec) -> applications.Rule | None:
    """Return what holds for the server of a request.

    :raises InvalidRequest: with the hint, key or option that is wrong
    """
    group = CONF.vcloud_scheduler
    names = [f'app_max_per_{level}' for level in applications.LEVELS]
    return applications.rule(
        spec.project_id, base.hints(spec), base.extra_specs(spec),
        {name: getattr(group, name) for name in [*names, 'app_policy']})


def _judge(candidates: base.Candidates, rule: applications.Rule,
           spec: objects.RequestSpec,
           placed: dict[str, int]) -> list[str]:
    """Return why each host cannot be."""
    spread = spread_of(candidates, placed)
    total = spread.total + 1
    if not INDEX.knows(spec.instance_uuid):
        # Of one request for many, the others come after this one.
        total = max(total, spec.num_instances or 1)
    caps = {level: cap.of(total) for level, cap in rule.caps.items()}
    attempts = rule.attempts()
    for levels in attempts:
        reasons = _reasons(candidates, levels, caps, spread, rule.key, placed)
        if not all(reasons):
            break
    if levels != attempts[0]:
        LOG.info('Server %s of application %s: no host is within its maxima '
                 'of %s, which are soft', spec.instance_uuid, rule.key,
                 ', '.join(lv for lv in attempts[0] if lv not in levels))
    return reasons


def _reasons(candidates: base.Candidates,
             levels: tuple[str, ...], caps: dict[str, int],
             spread: applications.Spread, key: applications.Key,
             placed: dict[str, int]) -> list[str]:
    """Return why each host is full.

    Hosts are many, those with such servers few: the others are full only
    with a domain that they share.
    """
    def shared(host: host_manager.HostState) -> str:
        places_of = places(host)
        return _full(host, places_of, [lv for lv in levels if places_of.get(
            lv) is not None], caps, spread, key)
    found = candidates.by_pool(shared, *DOMAINS.values())
    for number, name in enumerate(candidates.names):
        if name in placed and not found[number]:
            host = candidates.hosts[number]
            found[number] = _full(host, places(host), levels, caps, spread,
                                  key)
    return found


def _full(host: host_manager.HostState, where: dict[str, str | None],
          levels: Iterable[str], caps: dict[str, int],
          spread: applications.Spread, key: applications.Key) -> str:
    """Return at which level a host is full of an application, '' if none."""
    for level in levels:
        count = spread.count(level, host.host, where.get(level))
        if count >= caps[level]:
            name = where.get(level) or host.host
            return (f'{level} {name} has {count} servers of application '
                    f'{key}, may have {caps[level]}')
    return ''


def places(host: host_manager.HostState) -> dict[str, str | None]:
    """Return {level: domain} of a host; without a rack it is one itself."""
    said = [aggregate.metadata or {} for aggregate in host.aggregates or ()]
    zone, rack = (min((each[key] for each in said if key in each),
                      default=None) for key in DOMAINS.values())
    return {'zone': zone or CONF.default_availability_zone, 'rack': rack}


def spread_of(candidates: base.Candidates,
              placed: dict[str, int]) -> applications.Spread:
    """Return how servers are spread.

    :param placed: {host: servers}, of candidates and of others
    """
    found = domains(candidates, placed)
    # Of a zone without aggregate only what is there is known.
    named = set().union(*found['zone'].values())
    found['zone'].setdefault(CONF.default_availability_zone, set()).update(
        host for host in placed if host not in named)
    return applications.Spread(placed, found)


def domains(candidates: base.Candidates,
            placed: dict[str, int]) -> dict[str, dict[str, set[str]]]:
    """Return {level: {domain: those of its hosts that have servers}}.

    Hosts are many, those with servers few: no set is made of the others.

    :param placed: {host: servers}, of candidates and of others
    """
    found: dict[str, dict[str, set[str]]] = {level: {} for level in DOMAINS}
    for aggregate in candidates.aggregates:
        said = aggregate.metadata or {}
        names = {level: said[key] for level, key in DOMAINS.items()
                 if key in said}
        if names:
            here = placed.keys() & (aggregate.hosts or ())
            for level, name in names.items():
                found[level].setdefault(name, set()).update(here)
    return found
