# SPDX-License-Identifier: Apache-2.0
"""`minicloud up`: the order in which a cloud comes to life."""

from collections.abc import Callable
import functools
import os

from openstack import connection

from mini import certificates
from mini import config
from mini import database
from mini import engines
from mini import errors
from mini import horizon
from mini import identity
from mini import install
from mini import network
from mini import ports
from mini import processes
from mini import quotas
from mini import readiness
from mini import schemas
from mini import seed
from mini import services
from mini import settings
from mini import sshd
from mini import steps
from mini import supervision
from mini import volumes

Work = Callable[[], str | None]


def preflight(cloud: settings.Cloud, control: supervision.Supervision) -> str:
    """Check what the cloud needs and end what an earlier run left.

    :raises MinicloudError: naming what is missing.
    """
    if os.geteuid() != 0:
        raise errors.MinicloudError(
            'the mini cloud makes namespaces and containers: it needs root',
            advice='run it as root',
        )
    install.require_programs()
    orphans = list(processes.members(cloud.home))
    if control.is_running():
        # Half-run work of an `up` that was killed; services are supervised.
        orphans = [p for p in orphans if p.service == 'step']
    orphans = [p for p in orphans if not p.is_shim]
    processes.end(orphans)
    engines.forget_dead(cloud)
    own = {p.pid for p in processes.members(cloud.home)}
    wanted = {name: cloud.port(name) for name in settings.PORT_OFFSETS}
    ports.require_free(wanted, own)
    return f'ended {len(orphans)} leftover processes' if orphans else ''


class Ascent:
    """The steps of `up`, for one cloud."""

    def __init__(
        self, cloud: settings.Cloud, control: supervision.Supervision
    ) -> None:
        self._cloud = cloud
        self._control = control
        self._secret = config.load_secrets(cloud)
        catalog = services.catalog(cloud, self._secret)
        self._services = {service.name: service for service in catalog}
        self._project = install.project_hash(settings.SOURCE)

    def declare(self) -> str | None:
        """Start supervisord and tell it the catalog."""
        remark = self._control.ensure()
        self._control.declare(self._services.values())
        return remark

    def service(self, *names: str) -> Work:
        """Return the work of starting services until they are ready."""

        def work() -> str | None:
            remarks = {
                self._control.start(self._services[name], self._project)
                for name in names
            }
            for name in names:
                readiness.await_service(self._cloud, self._control, name)
            return ' '.join(sorted(remarks - {''})) or None

        return work

    def mariadb(self) -> str | None:
        """Make MariaDB's data folder and start MariaDB."""
        database.initialize(self._cloud)
        return self.service('mariadb')()

    def neutron_api(self) -> str | None:
        """Start Neutron's API and let it load its policies."""
        remark = self.service('neutron-api')()
        seed.warm_network_api(self._cloud)
        return remark

    def engine(self, host: settings.Host) -> Work:
        """Return the work of starting the dockerd of a host."""
        return self.service(f'dockerd-{host.name}')

    def hosts_ready(self) -> str:
        """Wait until Nova counts every compute host, and map them."""
        names = [host.name for host in self._cloud.hosts]
        binaries = {f'nova-compute {n}': f'nova-compute-{n}' for n in names}
        self._await_reports(binaries)
        api = identity.connect(self._cloud)
        if not seed.hosts_mapped(api, names):
            schemas.discover_hosts(self._cloud)
        readiness.await_true(
            'compute hosts in their cell',
            lambda: seed.hosts_mapped(api, names),
            lambda: None,
        )
        return ', '.join(names)

    def controllers_ready(self) -> None:
        """Wait until conductor and scheduler report to Nova."""
        names = ('nova-conductor', 'nova-scheduler')
        self._await_reports({f'{n} {config.CONTROLLER}': n for n in names})

    def _await_reports(self, binaries: dict[str, str]) -> None:
        """Wait until services have told Nova that they are up.

        :param binaries: our name of each service, by 'binary host'.
        :raises MinicloudError: with the log of a service that does not.
        """
        api = identity.connect(self._cloud)
        for told, name in binaries.items():
            test = functools.partial(self._has_reported, api, told, name)
            readiness.await_with_log(self._cloud, self._control, name, test)

    def _has_reported(
        self, api: connection.Connection, told: str, name: str
    ) -> bool:
        """Tell whether a service has reported since it was started."""
        return seed.reports(api, told, self._control.started_at(name))

    def plan(self) -> list[steps.Step]:
        """Return all steps, each after those it needs."""
        return [
            *self._base_steps(),
            *self._database_steps(),
            *self._control_steps(),
            *self._host_steps(),
            *self._seed_steps(),
            *(self._cinder_steps() if self._cloud.with_cinder else ()),
            *(self._horizon_steps() if self._cloud.with_horizon else ()),
        ]

    def _base_steps(self) -> list[steps.Step]:
        cloud = self._cloud
        return [
            steps.Step('network namespaces', lambda: network.up(cloud)),
            steps.Step('operator key', lambda: seed.operator_key(cloud)),
            steps.Step('ssh keys', lambda: sshd.prepare(cloud)),
            steps.Step('certificates', lambda: certificates.prepare(cloud)),
            steps.Step('supervisord', self.declare),
            steps.Step('mariadb', self.mariadb, ('supervisord',)),
            steps.Step('rabbitmq', self.service('rabbitmq'), ('supervisord',)),
            steps.Step(
                'memcached, docker-registry',
                self.service('memcached', 'docker-registry'),
                ('supervisord',),
            ),
            steps.Step(
                'keystone keys', lambda: schemas.keystone_keys(cloud)
            ),
            *(
                steps.Step(
                    f'image {name}',
                    functools.partial(seed.build_image, cloud, name),
                )
                for name in seed.IMAGES
            ),
        ]

    def _database_steps(self) -> list[steps.Step]:
        cloud, secret = self._cloud, self._secret
        works: dict[str, Work] = {
            'nova': lambda: schemas.nova(cloud),
            'neutron': lambda: schemas.neutron(cloud),
            'placement': lambda: schemas.placement(cloud),
            'glance': lambda: schemas.glance(cloud),
        }
        return [
            steps.Step(
                'database user',
                lambda: database.create_user(cloud, secret),
                ('mariadb',),
            ),
            steps.Step(
                'database keystone',
                lambda: schemas.keystone(cloud, secret),
                ('database user', 'keystone keys'),
            ),
            *(
                steps.Step(f'database {name}', work, ('database user',))
                for name, work in works.items()
            ),
        ]

    def _control_steps(self) -> list[steps.Step]:
        cloud, start = self._cloud, self.service
        accounts, mq = 'accounts and endpoints', 'rabbitmq'
        cache = 'memcached, docker-registry'
        return [
            steps.Step(
                'keystone', start('keystone'), ('database keystone', cache)
            ),
            steps.Step(accounts, lambda: identity.seed(cloud), ('keystone',)),
            steps.Step(
                'placement', start('placement'), ('database placement',)
            ),
            steps.Step('glance', start('glance'), ('database glance',)),
            steps.Step(
                'neutron-api',
                self.neutron_api,
                ('database neutron', mq, accounts),
            ),
            steps.Step(
                'nova-api', start('nova-api'), ('database nova', mq, accounts)
            ),
            steps.Step(
                'nova-conductor, nova-scheduler',
                start('nova-conductor', 'nova-scheduler'),
                ('database nova', mq, accounts),
            ),
            steps.Step(
                'nova-serialproxy',
                start('nova-serialproxy'),
                ('hosts ready',),
            ),
            steps.Step(
                'neutron-rpc-server',
                start('neutron-rpc-server'),
                ('hosts ready',),
            ),
        ]

    def _cinder_steps(self) -> list[steps.Step]:
        cloud, start = self._cloud, self.service
        after = ('database cinder', 'rabbitmq', 'accounts and endpoints')
        return [
            steps.Step('share', lambda: volumes.mount_share(cloud)),
            steps.Step(
                'database cinder',
                lambda: schemas.cinder(cloud),
                ('database user',),
            ),
            steps.Step('cinder-api', start('cinder-api'), after),
            steps.Step(
                'cinder-scheduler, cinder-volume',
                start(*volumes.DAEMONS),
                (*after, 'share'),
            ),
            steps.Step(
                'cinder ready',
                lambda: volumes.ready(cloud, self._control),
                ('cinder-api', 'cinder-scheduler, cinder-volume'),
            ),
        ]

    def _horizon_steps(self) -> list[steps.Step]:
        # Last, when the cores have little else to do.
        after = ('hosts ready', 'controllers ready')
        return [
            steps.Step(
                'files of horizon',
                lambda: horizon.static_files(self._cloud),
                after,
            ),
            steps.Step(
                'horizon', self.service('horizon'), ('files of horizon',)
            ),
        ]

    def _host_steps(self) -> list[steps.Step]:
        found = []
        control = ['nova-conductor, nova-scheduler', 'placement']
        if self._cloud.with_cinder:
            # Servers that start again want their volumes.
            control.append('share')
        for host in self._cloud.hosts:
            engine = f'dockerd-{host.name}'
            after = ('network namespaces', 'supervisord')
            found.append(steps.Step(engine, self.engine(host), after))
            ways = {
                f'sshd-{host.name}': 'ssh keys',
                f'receive-{host.name}': 'certificates',
            }
            for way, keys in ways.items():
                needed = ('supervisord', keys)
                found.append(steps.Step(way, self.service(way), needed))
            found.append(
                steps.Step(
                    f'nova-compute-{host.name}',
                    self.service(f'nova-compute-{host.name}'),
                    (engine, *ways, *control),
                )
            )
        computes = (f'nova-compute-{host.name}' for host in self._cloud.hosts)
        found.append(
            steps.Step(
                'hosts ready', self.hosts_ready, ('nova-api', *computes)
            )
        )
        found.append(
            steps.Step(
                'controllers ready',
                self.controllers_ready,
                ('nova-api', 'nova-conductor, nova-scheduler'),
            )
        )
        return found

    def _seed_steps(self) -> list[steps.Step]:
        cloud = self._cloud
        accounts = 'accounts and endpoints'
        works: dict[str, tuple[Work, tuple[str, ...]]] = {
            'quotas': (lambda: quotas.seed(cloud), (accounts,)),
            'flavors': (lambda: seed.flavors(cloud), ('nova-api',)),
            'key pairs': (
                lambda: seed.keypairs(cloud),
                ('nova-api', 'operator key', 'quotas'),
            ),
            'network lan': (lambda: seed.network(cloud), ('neutron-api',)),
            'security rules': (
                lambda: seed.security_rules(cloud),
                ('neutron-api',),
            ),
        }
        found = [
            steps.Step(name, work, after)
            for name, (work, after) in works.items()
        ]
        for name in seed.IMAGES:
            found.append(
                steps.Step(
                    f'image {name} in Glance',
                    functools.partial(seed.upload_image, cloud, name),
                    (f'image {name}', 'glance', accounts),
                )
            )
        return found


def up(cloud: settings.Cloud, say: steps.Say) -> None:
    """Bring the cloud up, or whatever of it is missing.

    :raises MinicloudError: on the first step that fails.
    """
    settings.save(cloud)
    control = supervision.Supervision(cloud)
    remark = preflight(cloud, control)
    if remark:
        say(remark)
    changed = config.write(cloud)
    say(f'configuration in {cloud.etc}: {changed} files changed')
    ascent = Ascent(cloud, control)
    log = cloud.log / 'minicloud.log'
    seconds = steps.Runner(ascent.plan(), say, log).run()
    say(f'ready after {seconds:.0f} s')
