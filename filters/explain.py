# SPDX-License-Identifier: Apache-2.0
"""What the scheduler would make of a request, filter by filter.

The filters, the weighers and their order are those of the configuration; the
request is never built and claims nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import uuid

from nova import conf
from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova import weights as nova_weights
from nova.scheduler import filters as nova_filters
from nova.scheduler import host_manager
from nova.scheduler import request_filter
from nova.scheduler import utils
from nova.scheduler import weights
from nova.scheduler.client import report
from nova.virt import hardware

from nova_vcloud import exception
from nova_vcloud.filters import base
from nova_vcloud.filters import weighers as our_weighers

PLACEMENT = 'Placement'
NO_CANDIDATE = ('cannot claim what the flavor asks for: resources, traits, '
                'zone, or its service is down')
NOT_SAID = 'the filter does not say why'


@dataclasses.dataclass(frozen=True)
class Wish:
    """A server that might be.

    :ivar flavor: name or id
    :ivar hints: {name: value}
    :ivar server: uuid of a server that is there, to be moved
    """

    flavor: str
    hints: Mapping[str, str] = dataclasses.field(default_factory=dict)
    project: str = ''
    zone: str | None = None
    host: str | None = None
    count: int = 1
    server: str | None = None


@dataclasses.dataclass
class Verdict:
    """What became of a host.

    :ivar filters: {filter: whether the host passed}; it stops at the first
        that rejected it
    :ivar reason: of that one
    :ivar scores: {weigher: multiplier x normalised weight}
    """

    host: str
    filters: dict[str, bool] = dataclasses.field(default_factory=dict)
    reason: str = ''
    scores: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Tell whether the server could be there."""
        return all(self.filters.values())

    @property
    def total(self) -> float:
        """Return the weight; the heaviest host is chosen."""
        return sum(self.scores.values())


def walk(filters: Iterable[nova_filters.BaseHostFilter],
         weighers: Iterable[weights.BaseHostWeigher],
         hosts: Iterable[host_manager.HostState],
         spec: objects.RequestSpec) -> list[Verdict]:
    """Return a verdict on each host, the one to be chosen first.

    :param hosts: candidates of Placement
    """
    left = list(hosts)
    verdicts = {each: Verdict(each.host, {PLACEMENT: True}) for each in left}
    for each in filters:
        name, reasons = type(each).__name__, _judge(each, left, spec)
        for host in left:
            verdicts[host].filters[name] = not reasons[host]
            verdicts[host].reason = reasons[host]
        left = [host for host in left if not reasons[host]]
        if not left:
            break
    _weigh(weighers, left, spec, verdicts)
    return sorted(verdicts.values(), key=lambda v: (not v.passed, -v.total,
                                                    v.host))


def _judge(each: nova_filters.BaseHostFilter,
           hosts: list[host_manager.HostState], spec: objects.RequestSpec
           ) -> dict[host_manager.HostState, str]:
    """Return why each host is rejected; '' when it is not."""
    if isinstance(each, base.Filter):
        said = each.judge(hosts, spec) or [''] * len(hosts)
        return dict(zip(hosts, said, strict=True))
    passed = set(each.filter_all(hosts, spec))
    return {host: '' if host in passed else NOT_SAID for host in hosts}


def _weigh(weighers: Iterable[weights.BaseHostWeigher],
           hosts: list[host_manager.HostState], spec: objects.RequestSpec,
           verdicts: Mapping[host_manager.HostState, Verdict]) -> None:
    """Note the scores, as Nova's BaseWeightHandler computes them."""
    weighed = [weights.WeighedHost(host, 0.0) for host in hosts]
    for each in _parts(weighers):
        found = list(nova_weights.normalize(
            each.weigh_objects(weighed, spec), minval=each.minval,
            maxval=each.maxval)) or [0.0] * len(hosts)
        for host, weight in zip(hosts, found, strict=True):
            verdicts[host].scores[type(each).__name__] = \
                each.weight_multiplier(host) * weight


def _parts(weighers: Iterable[weights.BaseHostWeigher]
           ) -> Iterator[weights.BaseHostWeigher]:
    """Yield the weighers, for a sum of some those that it adds."""
    for each in weighers:
        if isinstance(each, our_weighers.VcloudWeigher):
            yield from each.parts
        else:
            yield each


def explain(wish: Wish) -> list[Verdict]:
    """Return verdicts on all hosts of the cloud.

    Reads Nova's databases and Placement, as nova-scheduler does; Nova is
    configured already.

    :raises InvalidRequest: there is no such flavor or server
    """
    objects.register_all()
    context = nova_context.get_admin_context()
    manager = _manager()
    spec = _spec(context, wish)
    uuids = _candidates(context, spec, manager)
    hosts = list(manager.get_host_states_by_uuids(context, uuids, spec))
    found = walk(manager.enabled_filters, manager.weighers,
                 _requested(hosts, wish), spec)
    known = {each.host for each in found}
    others = manager.get_host_states_by_uuids(context, None, spec)
    return found + [
        Verdict(host.host, {PLACEMENT: False}, NO_CANDIDATE)
        for host in sorted(others, key=lambda h: h.host)
        if host.host not in known and wish.host in (None, host.host)]


def _manager() -> host_manager.HostManager:
    # Without a service of ours no compute host tells of its servers.
    conf.CONF.set_override('track_instance_changes', False,
                           'filter_scheduler')
    return host_manager.HostManager()


def _requested(hosts: list[host_manager.HostState],
               wish: Wish) -> list[host_manager.HostState]:
    return [host for host in hosts if wish.host in (None, host.host)]


def _spec(context: nova_context.RequestContext,
          wish: Wish) -> objects.RequestSpec:
    flavor = _flavor(context, wish.flavor)
    if wish.server:
        try:
            spec = objects.RequestSpec.get_by_instance_uuid(
                context, wish.server)
        except nova_exception.RequestSpecNotFound:
            raise exception.InvalidRequest(
                f'there is no server {wish.server}') from None
        spec.flavor = flavor
        spec.reset_forced_destinations()
        # What is not stored, as conductor sets it for a resize.
        spec.requested_resources = []
        spec.request_level_params = objects.RequestLevelParams()
        return spec
    image = objects.ImageMeta.from_dict({'properties': {}})
    hints = {name: [value] for name, value in wish.hints.items()}
    spec = objects.RequestSpec.from_components(
        context, str(uuid.uuid4()), image, flavor,
        hardware.numa_get_constraints(flavor, image),
        objects.InstancePCIRequests(requests=[]),
        {'scheduler_hints': hints}, None, wish.zone,
        project_id=wish.project or None)
    spec.num_instances = wish.count
    return spec


def _flavor(context: nova_context.RequestContext,
            name: str) -> objects.Flavor:
    for find in (objects.Flavor.get_by_flavor_id,
                 objects.Flavor.get_by_name):
        try:
            return find(context, name)
        except nova_exception.NotFound:
            continue
    raise exception.InvalidRequest(f'there is no flavor {name}')


def _candidates(context: nova_context.RequestContext,
                spec: objects.RequestSpec,
                manager: host_manager.HostManager) -> list[str]:
    """Return the resource providers that Placement would give it.

    :raises InvalidRequest: the request is refused before Placement is asked
    """
    try:
        request_filter.process_reqspec(context, spec)
    except nova_exception.RequestFilterFailed as e:
        raise exception.InvalidRequest(e.format_message()) from e
    wanted = utils.resources_from_request_spec(
        context, spec, manager, enable_pinning_translate=True)
    client = report.report_client_singleton()
    answer = client.get_allocation_candidates(context, wanted)
    summaries = answer[1] if answer else None
    return list(summaries or {})
