# SPDX-License-Identifier: Apache-2.0
"""Quotas: what Nova refuses of a project's wishes, by the name of it."""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib

from desk import Desk
from desk import until
from openstack import exceptions
import pytest

from mini import identity
from mini import seed

FLAVOR = 'c1.small'
LARGER = 'c1.medium'
RESOURCES = ('servers', 'class:VCPU', 'class:MEMORY_MB', 'class:CUSTOM_ECU')


def needs(flavor: str) -> dict[str, int]:
    """Return what one server of a flavor counts for."""
    found = seed.FLAVORS[flavor]
    return {'servers': 1, 'class:VCPU': found.vcpus,
            'class:MEMORY_MB': found.ram,
            'class:CUSTOM_ECU': int(found.specs['resources:CUSTOM_ECU'])}


class Project:
    """A tenant's project, as the cloud's admin sees it."""

    def __init__(self, admin: Desk, tenant: Desk) -> None:
        self.id = tenant.api.current_project_id
        self._admin = admin
        service = next(iter(admin.api.identity.services(type='compute')))
        self._place = {'service_id': service.id, 'project_id': self.id,
                       'region_id': identity.REGION}

    def used(self) -> dict[str, int]:
        """Return what counts now, by the name of its limit."""
        usages = self._admin.api.placement.get(
            f'/usages?project_id={self.id}',
            microversion='1.9').json()['usages']
        servers = self._admin.compute.servers(all_projects=True,
                                              project_id=self.id)
        found = {f'class:{name}': used for name, used in usages.items()}
        return {**dict.fromkeys(RESOURCES, 0), **found,
                'servers': len(list(servers))}

    def limits(self) -> dict[str, int]:
        """Return the limits of this project alone."""
        found = self._admin.api.identity.limits(**self._place)
        return {limit.resource_name: limit.resource_limit for limit in found}

    @contextlib.contextmanager
    def room(self, amounts: Mapping[str, int]) -> Iterator[None]:
        """Leave the project room for so much more, and no more."""
        keystone, used = self._admin.api.identity, self.used()
        with contextlib.ExitStack() as made:
            for name, amount in amounts.items():
                limit = keystone.create_limit(
                    resource_name=name, resource_limit=used[name] + amount,
                    **self._place)
                made.callback(keystone.delete_limit, limit)
            yield


@pytest.fixture(scope='module')
def tenant(desk: Desk) -> Desk:
    """The desk of somebody who is no admin."""
    return Desk(desk.cloud, 'demo')


@pytest.fixture
def project(desk: Desk, tenant: Desk) -> Iterator[Project]:
    """The tenant's project, which has no limits of its own after a test."""
    found = Project(desk, tenant)
    assert found.limits() == {}
    yield found
    assert found.limits() == {}


@pytest.fixture
def server(tenant: Desk, project: Project):
    return tenant.boot('quota', flavor=FLAVOR)


@contextlib.contextmanager
def refused(*names: str) -> Iterator[None]:
    """Require a 403 that names these resources and no other."""
    with pytest.raises(exceptions.ForbiddenException) as caught:
        yield
    assert caught.value.status_code == 403
    said = str(caught.value)
    for name in RESOURCES:
        assert (f'Resource {name} is over limit' in said) == (name in names)


@pytest.mark.parametrize('name', RESOURCES)
@pytest.mark.parametrize('flavor', [FLAVOR, LARGER])
def test_a_boot_over_quota_is_refused_by_name(tenant, project, name, flavor):
    less = {name: needs(flavor)[name] - 1}
    before = project.used()
    with project.room(less), refused(name):
        tenant.request('over', flavor=flavor)
    assert project.used() == before


def test_all_that_is_over_is_named_at_once(tenant, project):
    with project.room(dict.fromkeys(RESOURCES, 0)), \
            refused(*RESOURCES):
        tenant.request('over', flavor=FLAVOR)


def test_exactly_enough_is_enough_and_no_limit_is_the_default(
        tenant, project):
    before = project.used()
    with project.room(needs(FLAVOR)):
        tenant.boot('exact', flavor=FLAVOR)
        now = project.used()
        for name, amount in needs(FLAVOR).items():
            assert now[name] == before[name] + amount
        with refused(*RESOURCES):
            tenant.request('over', flavor=FLAVOR)
    tenant.boot('over', flavor=FLAVOR)


def test_many_are_as_many_as_fit(tenant, project):
    """At least one and at most three are wanted; there is room for two."""
    before = project.used()
    with project.room({'servers': 2}):
        tenant.request('many', flavor='c1.tiny', min_count=1, max_count=3)
    assert project.used()['servers'] == before['servers'] + 2
    for server in tenant.compute.servers(name='^many'):
        tenant.wait(server, 'ACTIVE')


def test_a_resize_over_quota_is_refused_and_changes_nothing(
        desk, tenant, project, server):
    before, counted = desk.container(server), project.used()
    less = {'class:CUSTOM_ECU': needs(LARGER)['class:CUSTOM_ECU'] - 1}
    with project.room(less), refused('class:CUSTOM_ECU'):
        tenant.compute.resize_server(
            server.id, tenant.compute.find_flavor(LARGER).id)
    now = desk.get(server)
    assert (now.status, now.flavor.name) == ('ACTIVE', FLAVOR)
    assert desk.container(server)['State'] == before['State']
    assert desk.container(server)['HostConfig'] == before['HostConfig']
    assert project.used() == counted


def test_a_resize_counts_both_sizes_until_it_is_confirmed(
        desk, tenant, project, server):
    flavor = tenant.compute.find_flavor(LARGER).id
    counted, more = project.used(), needs(LARGER)
    # Nova asks for room for one more server, though there will be none.
    with project.room({'servers': 0}), refused('servers'):
        tenant.compute.resize_server(server.id, flavor)
    with project.room(more):
        tenant.compute.resize_server(server.id, flavor)
        desk.wait(server, 'VERIFY_RESIZE')
    assert project.used() == {
        **counted, **{name: counted[name] + more[name]
                      for name in RESOURCES if name != 'servers'},
        'class:DISK_GB': counted['class:DISK_GB']
        + seed.FLAVORS[LARGER].disk}
    tenant.compute.confirm_server_resize(server.id)
    desk.wait(server, 'ACTIVE')
    less, ecu = needs(FLAVOR), 'class:CUSTOM_ECU'
    until(lambda: project.used()[ecu]
          == counted[ecu] + more[ecu] - less[ecu], 60, 'only the new counts')


def test_what_is_there_stays_when_the_quota_shrinks(
        desk, tenant, project, server):
    state = desk.container(server)['State']
    used = project.used()
    nothing = {name: -used[name] for name in RESOURCES}
    with project.room(nothing):
        assert set(project.limits().values()) == {0}
        assert desk.container(server)['State'] == state
        tenant.compute.stop_server(server.id)
        tenant.wait(server, 'SHUTOFF')
        tenant.compute.start_server(server.id)
        tenant.wait(server, 'ACTIVE')
        desk.answers(server)
        desk.delete(server)
    assert project.used()['servers'] == used['servers'] - 1


def test_a_tenant_sees_his_quota(tenant, project):
    with project.room({'servers': 3}):
        shown = tenant.compute.get('/limits').json()['limits']['absolute']
        used = project.used()
        assert shown['maxTotalInstances'] == used['servers'] + 3
        assert shown['totalInstancesUsed'] == used['servers']
        assert shown['totalCoresUsed'] == used['class:VCPU']
    assert all(value != 0 for name, value in shown.items()
               if name.startswith('maxTotal'))


def test_a_tenant_cannot_set_his_quota(desk, tenant, project):
    with project.room({'servers': 0}):
        mine = next(iter(desk.api.identity.limits(project_id=project.id)))
        with pytest.raises(exceptions.ForbiddenException):
            tenant.api.identity.update_limit(mine, resource_limit=100)
    with pytest.raises(exceptions.ForbiddenException):
        tenant.api.identity.create_limit(
            service_id=mine.service_id, region_id=mine.region_id,
            project_id=project.id, resource_name='servers',
            resource_limit=1000)
