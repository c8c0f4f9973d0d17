# SPDX-License-Identifier: Apache-2.0
"""Nova in one process: API, conductor, scheduler and many hosts.

All of it is Nova's own code, with Placement beside it; only what is below
the hosts (fake_hosts), the network and the images are made up.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import dataclasses
import gc
import itertools
import logging
import os
import sys
import time
from typing import Any
import warnings

# The first import of Nova: it picks the way of threads. See conftest.py.
from nova.tests.functional import integrated_helpers  # isort: skip
import fake_hosts
import fixtures
import futurist
from nova.scheduler import host_manager
from nova.scheduler import utils as scheduler_utils
from nova.tests import fixtures as nova_fixtures
from nova.tests.functional.api import client
import sqlalchemy as sa
from sqlalchemy import pool

sys.modules[fake_hosts.MODULE] = fake_hosts
CONF = integrated_helpers.CONF
_CELLS = 'nova.tests.fixtures.CellDatabases'

TIMEOUT = 90.0  # seconds, of everything that is waited for
#: Seconds between two looks of our filters at where servers are.
REFRESH = 0.1
NOVA_FILTERS = ('ComputeFilter', 'ComputeCapabilitiesFilter',
                'ImagePropertiesFilter')
# Nova's API takes a hundred times as long to answer that.
_STATE = sa.text('SELECT vm_state, task_state FROM instances '
                 'WHERE uuid = :uuid AND deleted = 0')


class CloudError(Exception):
    """Nova did not come to an end."""


@dataclasses.dataclass(frozen=True)
class Server:
    """A server as a request for it left it.

    :ivar host: where it is; None when no host was found
    :ivar fault: Nova's words for why not; '' when all is well
    :ivar said: lines that our loggers wrote during the request, from INFO on
    """

    uuid: str
    host: str | None
    fault: str
    said: tuple[str, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether it is the scheduler that had no host for it."""
        return 'No valid host' in self.fault or 'NoValidHost' in self.fault

    def why(self, *words: object) -> str:
        """Return the line of the log with all these words; '' for none."""
        return next((line for line in self.said
                     if all(str(word) in line for word in words)), '')


class _Pool(pool.QueuePool):
    """Keeps connections to a database.

    Nova's tests make one for each query, and most of their time is SQLite
    reading the schema again.
    """

    def __init__(self, creator: Any, **arguments: Any) -> None:
        # 0 is as many as are wanted.
        super().__init__(creator, **arguments | {'pool_size': 0})


def _target_cell(databases: nova_fixtures.CellDatabases, context: Any,
                 cell: Any) -> Any:
    """Target a cell as Nova does.

    The fixture's own way sets the cell for all threads, and gives up when
    another one does so three times meanwhile: a request is lost. It is for
    code that knows no cells and wants another one than the first; here is
    only one with hosts.
    """
    return databases._real_target_cell(context, cell)


class _Lines(logging.Handler):
    """Keeps what our loggers write."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        record.message = record.getMessage()
        self.records.append(record)


class _Nova(integrated_helpers._IntegratedTestBase):
    """Nova's own test case, as a thing to have and not as a test."""

    __test__ = False
    ADMIN_API = True
    CAST_AS_CALL = False
    microversion = 'latest'

    def runTest(self) -> None:  # noqa: N802 - unittest's name
        """Not to be run; unittest wants a name of a test."""

    def _setup_services(self) -> None:
        paste = os.path.join(sys.prefix, 'etc/nova/api-paste.ini')
        self.flags(api_paste_config=paste, group='wsgi')
        self.flags(compute_driver=fake_hosts.NAME)
        # Hosts need not tell that they live: nothing is waited for so long.
        self.flags(report_interval=3600, service_down_time=7200)
        self.flags(instances=-1, cores=-1, ram=-1, group='quota')
        # What costs most of the time, and is Nova's own to test.
        self.flags(response_validation='ignore', group='api')
        self.flags(notification_format='unversioned', group='notifications')
        logging.getLogger().setLevel(logging.INFO)
        # Nova's tests make errors of warnings; of this one, which Nova gives
        # cause for whenever a server fails, too.
        warnings.filterwarnings('ignore', category=sa.exc.SADeprecationWarning)
        super()._setup_services()

    def _setup_compute_service(self) -> Any:
        return None

    def engines(self) -> Iterator[sa.Engine]:
        """Yield the database of each cell."""
        context = integrated_helpers.context
        for cell in self.cell_mappings.values():
            with context.target_cell(
                    context.get_admin_context(), cell) as targeted:
                yield targeted.db_connection.writer.get_engine()

    def _clear_attrs(self) -> None:
        """Do nothing: what Nova's cleanups need is taken away by it."""


class Cloud:
    """A cloud to use for many tests, with :meth:`clean` between them.

    Hosts are named host1, host2, ... and are nodes of their own.
    """

    def __init__(self, hosts: int = 3) -> None:
        self._nova = _Nova('runTest')
        self._lines = _Lines()
        self._numbers = itertools.count(1)
        self._host_numbers = itertools.count(1)
        self._undo: list[Callable[[], None]] = []
        self._down: set[str] = set()
        self._moved: set[str] = set()
        ours = logging.getLogger('nova_vcloud')
        ours.setLevel(logging.DEBUG)
        ours.addHandler(self._lines)
        for place, better in (
                ('sqlalchemy.pool.NullPool', _Pool),
                (f'{_CELLS}._wrap_target_cell', _target_cell)):
            self._nova.useFixture(fixtures.MonkeyPatch(place, better))
        self._nova.setUp()
        # Nova's tests have each idle thread look for work 100 times a second
        # so that they end sooner; hundreds of them are the whole load then.
        futurist._thread.ThreadWorker.MAX_IDLE_FOR = 1
        # Nova's modules are not looked through for garbage any more.
        gc.collect()
        gc.freeze()
        self._engines = list(self._nova.engines())
        self.hosts: list[str] = []
        self.add_hosts(hosts)
        self.admin = self.client(self._nova.admin_api.project_id, admin=True)

    # The cloud itself

    def stop(self) -> None:
        """Take everything down; raise the first error of that."""
        logging.getLogger('nova_vcloud').removeHandler(self._lines)
        fake_hosts.FIGURES.clear()
        gc.unfreeze()
        futurist._thread.ThreadWorker.MAX_IDLE_FOR = 0.01
        errors = []
        cleanups = self._nova._cleanups
        while cleanups:
            function, args, kwargs = cleanups.pop()
            try:
                function(*args, **kwargs)
            except Exception as e:  # noqa: BLE001 - the rest is to go as well
                errors.append(e)
        if errors:
            raise errors[0]

    def clean(self) -> None:
        """Make the cloud what it was at first, with the same hosts."""
        self.delete(*(server['id'] for server in self.admin.api.get_servers(
            detail=False, search_opts={'all_tenants': 1})))
        for aggregate in self.admin.api.api_get(
                '/os-aggregates').body['aggregates']:
            self._remove_aggregate(aggregate)
        for flavor in self.admin.api.get_flavors(detail=False):
            if flavor['name'].startswith('made-'):
                self.admin.api.delete_flavor(flavor['id'])
        # Hosts that were down, or part of a move, count servers that are gone
        # until they look again.
        stale = {*fake_hosts.FIGURES, *self._down, *self._moved}
        self._moved.clear()
        for host in list(self._down):
            self.rise(host)
        fake_hosts.FIGURES.clear()
        for name in self.hosts:
            self._nova.computes[name].manager.driver.forget_servers()
        self._audit(stale)
        while self._undo:
            self._undo.pop()()
        self._lines.records.clear()

    def add_hosts(self, count: int) -> list[str]:
        """Start hosts and return their names."""
        # Nova does not make a node anew that it has deleted.
        names = [f'host{next(self._host_numbers)}' for _ in range(count)]
        for name in names:
            self._nova._start_compute(name)
            self.hosts.append(name)
        return names

    @contextlib.contextmanager
    def more_hosts(self, count: int) -> Iterator[list[str]]:
        """Have more hosts for a while; yield the names of all."""
        before = set(self.hosts)
        try:
            self.add_hosts(count)
            yield list(self.hosts)
        finally:
            self.clean()
            for name in [n for n in self.hosts if n not in before]:
                self._remove_host(name)

    def _remove_host(self, name: str) -> None:
        self._nova.computes.pop(name).stop()
        self.hosts.remove(name)
        service = self._service(name)
        self.admin.api.api_delete(f'/os-services/{service["id"]}')
        self._nova.host_mappings.pop(name)

    def flags(self, group: str | None = None, **values: Any) -> None:
        """Set options until the next clean()."""
        for name, value in values.items():
            place = CONF[group] if group else CONF
            old = getattr(place, name)
            CONF.set_override(name, value, group)
            self._undo.append(
                lambda name=name, old=old: CONF.set_override(
                    name, old, group))

    def scheduling(self, filters: Iterable[str] = (),
                   weighers: Iterable[str] = (), *, nova: bool = True,
                   nova_weighers: bool = True) -> None:
        """Have the scheduler use these classes, as after a restart.

        :param filters: long names, beside Nova's own
        :param weighers: likewise
        :param nova: use Nova's default filters, too
        :param nova_weighers: use all of Nova's weighers, too
        """
        filters = list(filters)
        self.flags(
            'filter_scheduler',
            available_filters=['nova.scheduler.filters.all_filters', *filters],
            enabled_filters=[*(NOVA_FILTERS if nova else ()), *(
                name.rpartition('.')[2] for name in filters)],
            weight_classes=[
                *(['nova.scheduler.weights.all_weighers']
                  if nova_weighers else []), *weighers])
        scheduler_utils.reset_globals()
        self._nova.scheduler.manager.host_manager = host_manager.HostManager()

    # Hosts and what they are in

    def tell(self, host: str, **figures: Any) -> None:
        """Have a host tell figures (fake_hosts.Figures) of itself."""
        fake_hosts.FIGURES[host] = fake_hosts.Figures(**figures)
        self._audit([host])

    def _audit(self, hosts: Iterable[str]) -> None:
        """Do on hosts what Nova does there once a minute."""
        context = integrated_helpers.context
        for host in set(hosts) & set(self.hosts):
            cell = self._nova.host_mappings[host].cell_mapping
            with context.target_cell(
                    context.get_admin_context(), cell) as targeted:
                self._nova.computes[host].manager.update_available_resource(
                    targeted)

    def aggregate(self, name: str, hosts: Iterable[str],
                  zone: str | None = None, **metadata: str) -> int:
        """Make an aggregate, and wait until the scheduler knows it.

        :param zone: availability zone that it is
        :returns: its number
        """
        hosts = list(hosts)
        api = self.admin.api
        number = api.post_aggregate({'aggregate': {
            'name': name, 'availability_zone': zone}})['id']
        if metadata:
            api.post_aggregate_action(
                number, {'set_metadata': {'metadata': metadata}})
        for host in hosts:
            api.add_host_to_aggregate(number, host)
        known = self._nova.scheduler.manager.host_manager.aggs_by_id
        _wait(lambda: number in known
              and set(known[number].hosts) == set(hosts)
              and metadata.items() <= known[number].metadata.items(),
              f'the scheduler to know aggregate {name}')
        return number

    def _remove_aggregate(self, aggregate: dict[str, Any]) -> None:
        for host in aggregate['hosts']:
            self.admin.api.remove_host_from_aggregate(aggregate['id'], host)
        self.admin.api.delete_aggregate(aggregate['id'])

    def _service(self, host: str) -> dict[str, Any]:
        [found] = self.admin.api.get_services(
            host=host, binary='nova-compute')
        return found

    def fall(self, host: str) -> None:
        """Say that a host is dead, as an operator or his watchdog does."""
        self._force_down(host, down=True)
        self._down.add(host)

    def rise(self, host: str) -> None:
        """Say that a host is well again."""
        self._force_down(host, down=False)
        self._down.discard(host)

    def _force_down(self, host: str, *, down: bool) -> None:
        self.admin.api.put_service(
            self._service(host)['id'], {'forced_down': down})

    # What users do

    def client(self, project: str, *, admin: bool = False) -> Client:
        """Return what a user of a project can do."""
        roles = ['reader', 'member', *(['admin'] if admin else [])]
        api = client.TestOpenStackClient(
            # That name makes an administrator, in Nova's stand-in of Keystone.
            'admin' if admin else f'user-of-{project}',
            self._nova.api_fixture.base_url, project_id=project,
            roles=roles)
        api.microversion = 'latest'
        return Client(self, api)

    def flavor(self, vcpus: int = 1, memory_mb: int = 128,
               **extra: str) -> str:
        """Make a flavor and return its id.

        :param extra: extra specs; ``__`` in a name is a colon
        """
        number = next(self._numbers)
        found = self.admin.api.post_flavor({'flavor': {
            'id': f'made-{number}', 'name': f'made-{number}',
            'ram': memory_mb, 'vcpus': vcpus, 'disk': 1}})
        if extra:
            self.admin.api.post_extra_spec(found['id'], {'extra_specs': {
                name.replace('__', ':'): value
                for name, value in extra.items()}})
        return str(found['id'])

    def boot(self, flavor: str | None = None, **wishes: Any) -> Server:
        """Boot a server as an administrator; see Client.boot."""
        return self.admin.boot(flavor, **wishes)

    def delete(self, *uuids: str) -> None:
        """Delete servers and wait until nothing of them is left."""
        for uuid in uuids:
            with contextlib.suppress(client.OpenStackApiNotFoundException):
                self.admin.api.delete_server(uuid)
        for uuid in uuids:
            _wait(lambda uuid=uuid: not self._row(uuid),
                  f'server {uuid} to go')
            _wait(lambda uuid=uuid: not self._nova.placement.get(
                f'/allocations/{uuid}').body['allocations'],
                f'what server {uuid} has claimed to be free')

    def _row(self, uuid: str) -> tuple[str, str | None] | None:
        """Return (state, task) of a server; None when it is in no cell."""
        for engine in self._engines:
            with engine.connect() as connection:
                found = connection.execute(_STATE, {'uuid': uuid}).first()
            if found:
                return tuple(found)
        return None

    def rest(self, uuid: str) -> None:
        """Wait until nothing happens to a server."""
        def look() -> bool:
            state, task = self._row(uuid) or ('building', None)
            return state != 'building' and not task
        _wait(look, f'server {uuid} to be at rest')

    def settled(self, uuid: str, said_since: int | None = None) -> Server:
        """Wait for a server to be at rest, and return it."""
        def look() -> dict[str, Any] | None:
            found = self.admin.api.get_server(uuid)
            # The state goes before the words for it.
            silent = found['status'] == 'ERROR' and 'fault' not in found
            return None if silent else found
        self.rest(uuid)
        found = _wait(look, f'the fault of server {uuid}')
        return Server(
            uuid, found['OS-EXT-SRV-ATTR:host'],
            found.get('fault', {}).get('message', ''),
            self.said(said_since) if said_since is not None else ())

    def note_move(self) -> None:
        """Have all hosts look again at the next clean()."""
        self._moved.update(self.hosts)

    def of_reservation(self, reservation: str) -> list[str]:
        """Return the UUIDs of the servers of one request."""
        return [server['id'] for server in self.admin.api.get_servers(
            detail=False, search_opts={
                'reservation_id': reservation, 'all_tenants': 1})]

    # What our code says

    def mark(self) -> int:
        """Return where the log is now, for said()."""
        return len(self._lines.records)

    def said(self, since: int = 0, level: int = logging.INFO
             ) -> tuple[str, ...]:
        """Return lines of our loggers."""
        return tuple(record.message for record in self._lines.records[since:]
                     if record.levelno >= level)


class Client:
    """What one user can do."""

    def __init__(self, cloud: Cloud,
                 api: client.TestOpenStackClient) -> None:
        self._cloud = cloud
        self.api = api

    def boot(self, flavor: str | None = None, **wishes: Any) -> Server:
        """Boot a server and wait for the end of that.

        :param wishes: see :meth:`request`
        """
        mark = self._cloud.mark()
        return self._cloud.settled(self.request(flavor, **wishes), mark)

    def boot_many(self, count: int, flavor: str | None = None,
                  **wishes: Any) -> list[Server]:
        """Boot servers in one request."""
        mark = self._cloud.mark()
        reservation = self._post(
            flavor, {'min_count': count, 'max_count': count,
                     'return_reservation_id': True}, **wishes)
        uuids = self._cloud.of_reservation(reservation['reservation_id'])
        for uuid in uuids:
            self._cloud.settled(uuid)
        return [self._cloud.settled(uuid, mark) for uuid in uuids]

    def request(self, flavor: str | None = None, **wishes: Any) -> str:
        """Ask for a server and return its UUID at once.

        :param wishes: zone (zone, or zone:host), host, hints
        """
        return str(self._post(flavor, {}, **wishes)['id'])

    def _post(self, flavor: str | None, more: dict[str, Any],
              zone: str | None = None, host: str | None = None,
              **hints: Any) -> dict[str, Any]:
        body: dict[str, Any] = {
            'name': 'made', 'networks': 'none',
            'imageRef': nova_fixtures.GlanceFixture.image1['id'],
            'flavorRef': flavor or self._cloud.flavor(), **more}
        if zone:
            body['availability_zone'] = zone
        if host:
            body['host'] = host
        found = self.api.post_server(
            {'server': body, 'os:scheduler_hints': hints})
        return dict(found)

    def resize(self, server: Server, flavor: str) -> Server:
        """Resize a server, confirmed; where it was when that cannot be."""
        mark = self._cloud.mark()
        moved = self._moved(server, {'resize': {'flavorRef': flavor}}, mark)
        if self._status(server) == 'VERIFY_RESIZE':
            self.api.post_server_action(server.uuid, {'confirmResize': None})
            _wait(lambda: self._status(server) == 'ACTIVE',
                  f'server {server.uuid} to be confirmed')
        return moved

    def live_migrate(self, server: Server,
                     host: str | None = None) -> Server:
        """Migrate a running server; where it was when that cannot be."""
        return self._moved(server, {'os-migrateLive': {
            'host': host, 'block_migration': 'auto'}}, self._cloud.mark())

    def evacuate(self, server: Server) -> Server:
        """Have another host run the server of a dead one."""
        return self._moved(
            server, {'evacuate': {}}, self._cloud.mark())

    def _status(self, server: Server) -> str:
        return str(self.api.get_server(server.uuid)['status'])

    def _moved(self, server: Server, action: dict[str, Any],
               mark: int) -> Server:
        """Ask for a move and wait until it ended, well or not."""
        self._cloud.note_move()
        self.api.post_server_action(server.uuid, action)
        # Nova has noted the action before it answered.
        request = self.api.get_instance_actions(server.uuid)[0]['request_id']
        # The cheap look first. It is not the last: of an evacuation, Nova
        # says that it is done before it says where.
        self._cloud.rest(server.uuid)
        _wait(lambda: self._ended(server.uuid, request),
              f'{next(iter(action))} of server {server.uuid} to end')
        found = self._cloud.settled(server.uuid, mark)
        return dataclasses.replace(found, fault=self._fault(
            server.uuid, request))

    def _ended(self, uuid: str, request: str) -> bool:
        action = self._action(uuid, request)
        events = action['events']
        last = {'compute_finish_resize', 'compute_live_migration',
                'compute_rebuild_instance'}
        failed = any(event['result'] == 'Error' for event in events)
        done = any(event['event'] in last and event['result'] == 'Success'
                   for event in events)
        return failed or done

    def _fault(self, uuid: str, request: str) -> str:
        return '\n'.join(
            event.get('traceback') or event.get('details') or ''
            for event in self._action(uuid, request)['events']
            if event['result'] == 'Error')

    def _action(self, uuid: str, request: str) -> dict[str, Any]:
        return dict(self.api.get_instance_action_details(uuid, request))


def _wait(look: Callable[[], Any], what: str) -> Any:
    """Return what ``look`` returns once it is something.

    :raises CloudError: it never was
    """
    deadline = time.monotonic() + TIMEOUT
    while not (found := look()):
        if time.monotonic() > deadline:
            raise CloudError(f'waited {TIMEOUT:g} s for {what}')
        time.sleep(0.03)
    return found
