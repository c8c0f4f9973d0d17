# SPDX-License-Identifier: Apache-2.0
"""The catalog of services: what runs, how, and in which order it stops."""

import dataclasses
import hashlib
import os
import pathlib
import shlex

from mini import certificates
from mini import config
from mini import processes
from mini import settings
from mini import sshd

SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

# Services end in this order, each group at once: what talks to others goes
# before what it talks to.
COMPUTE, CONTROL, ENGINE, BASE = range(4)


@dataclasses.dataclass(frozen=True)
class Service:
    """One supervised process."""

    name: str
    command: tuple[str, ...]
    group: int
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    configs: tuple[pathlib.Path, ...] = ()
    runs_our_code: bool = False
    stop_seconds: int = 15


def environment(cloud: settings.Cloud, service: str) -> dict[str, str]:
    """Return what every process of the cloud has in its environment."""
    return {
        'HOME': '/root',
        'LC_ALL': 'C.UTF-8',
        'PATH': f'{cloud.venv}/bin:{SYSTEM_PATH}',
        # setproctitle would write over the environment, and so the mark.
        'SPT_NOENV': '1',
        processes.MEMBER: str(cloud.home),
        processes.SERVICE: service,
    }


def _uwsgi(
    cloud: settings.Cloud,
    name: str,
    module: str,
    env: dict[str, str],
    configs: list[str],
    runs_our_code: bool = False,
    arguments: str = '',
) -> Service:
    """Return an API served by one uWSGI process of four threads.

    It has no master process: supervisord is to see when it ends.
    """
    command = (
        f'{cloud.venv}/bin/uwsgi',
        '--http-socket',
        f'127.0.0.1:{cloud.port(name)}',
        '--module',
        f'{module}:application',
        '--virtualenv',
        str(cloud.venv),
        *'--die-on-term --threads 4 --enable-threads --need-app'.split(),
        *'--thunder-lock --buffer-size 65535 --http-chunked-input'.split(),
        *'--disable-logging --log-5xx'.split(),
        '--add-header',
        'Connection: close',
        *(('--pyargv', arguments) if arguments else ()),
    )
    paths = tuple(cloud.etc / path for path in configs)
    return Service(
        name,
        command,
        CONTROL,
        env,
        paths,
        runs_our_code=runs_our_code,
        stop_seconds=5,
    )


def _base(cloud: settings.Cloud, secret: dict[str, str]) -> list[Service]:
    mysql = cloud.data / 'mysql'
    context = config.base_context(cloud, secret)
    rabbit_env = dict(
        line.split('=', 1)
        for line in config.render('rabbitmq.env', context).splitlines()
    )
    mariadb_options = (
        '--no-defaults --user=mysql --bind-address=127.0.0.1 '
        '--max-connections=500 --innodb-flush-log-at-trx-commit=2 '
        '--innodb-buffer-pool-size=128M --performance-schema=OFF '
        '--skip-name-resolve --skip-log-bin --character-set-server=utf8mb3'
    )
    return [
        Service(
            'mariadb',
            (
                'mariadbd',
                *mariadb_options.split(),
                f'--datadir={mysql}',
                f'--socket={cloud.run}/mysql/mysql.sock',
                f'--pid-file={cloud.run}/mysql/mysql.pid',
                f'--port={cloud.port("mariadb")}',
            ),
            BASE,
            stop_seconds=30,
        ),
        # It starts Erlang's port mapper, epmd, itself.
        Service(
            'rabbitmq',
            ('/usr/lib/rabbitmq/bin/rabbitmq-server',),
            BASE,
            rabbit_env,
            (cloud.etc / 'rabbitmq' / 'rabbitmq.conf',),
            stop_seconds=30,
        ),
        Service(
            'memcached',
            (
                *'memcached -u nobody -l 127.0.0.1 -m 64 -p'.split(),
                str(cloud.port('memcached')),
            ),
            BASE,
        ),
        Service(
            'docker-registry',
            ('docker-registry', 'serve', f'{cloud.etc}/docker-registry.yml'),
            BASE,
            configs=(cloud.etc / 'docker-registry.yml',),
        ),
    ]


def _apis(cloud: settings.Cloud) -> list[Service]:
    etc = cloud.etc
    return [
        _uwsgi(
            cloud,
            'keystone',
            'keystone.wsgi.api',
            {'OS_KEYSTONE_CONFIG_DIR': f'{etc}/keystone'},
            ['keystone/keystone.conf'],
        ),
        _uwsgi(
            cloud,
            'placement',
            'placement.wsgi.api',
            {'OS_PLACEMENT_CONFIG_DIR': f'{etc}/placement'},
            ['placement/placement.conf'],
        ),
        _uwsgi(
            cloud,
            'glance',
            'glance.wsgi.api',
            {'OS_GLANCE_CONFIG_DIR': f'{etc}/glance'},
            ['glance/glance-api.conf'],
        ),
        _uwsgi(
            cloud,
            'neutron-api',
            'neutron.wsgi.api',
            {
                'OS_NEUTRON_CONFIG_DIR': f'{etc}/neutron',
                'OS_NEUTRON_CONFIG_FILES': 'neutron.conf;ml2_conf.ini',
            },
            [
                'neutron/neutron.conf',
                'neutron/ml2_conf.ini',
                'neutron/policy.yaml',
            ],
            runs_our_code=True,
        ),
        _uwsgi(
            cloud,
            'nova-api',
            'nova.wsgi.osapi_compute',
            {'OS_NOVA_CONFIG_DIR': f'{etc}/nova'},
            ['nova/nova.conf'],
            runs_our_code=True,
        ),
    ]


def _cinder(cloud: settings.Cloud) -> list[Service]:
    """Return Cinder's services."""
    path = 'cinder/cinder.conf'
    found = [
        _uwsgi(
            cloud,
            'cinder-api',
            'cinder.wsgi.api',
            {},
            [path],
            arguments=f'--config-file {cloud.etc / path}',
        )
    ]
    for name in ('cinder-scheduler', 'cinder-volume'):
        service = _daemon(cloud, name, CONTROL, [path])
        found.append(dataclasses.replace(service, runs_our_code=False))
    return found


def horizon_environment(cloud: settings.Cloud) -> dict[str, str]:
    """Return what Horizon's programs need beside what all have."""
    return {
        'PATH': f'{cloud.horizon_venv}/bin:{SYSTEM_PATH}',
        'PYTHONPATH': f'{cloud.etc}/horizon',
        'DJANGO_SETTINGS_MODULE': 'horizon_settings',
    }


def _horizon(cloud: settings.Cloud) -> Service:
    command = (
        f'{cloud.horizon_venv}/bin/gunicorn',
        *('--bind', f'127.0.0.1:{cloud.port("horizon")}'),
        *'--workers 1 --threads 4 --timeout 120 --no-control-socket'.split(),
        'horizon_wsgi:application',
    )
    names = ('horizon_settings.py', 'horizon_wsgi.py')
    return Service(
        'horizon',
        command,
        CONTROL,
        horizon_environment(cloud),
        tuple(cloud.etc / 'horizon' / name for name in names),
    )


def _daemon(
    cloud: settings.Cloud, name: str, group: int, configs: list[str]
) -> Service:
    """Return an OpenStack service that is no API."""
    paths = tuple(cloud.etc / path for path in configs)
    program = name if group == CONTROL else 'nova-compute'
    arguments = [word for path in paths for word in ('--config-file', path)]
    return Service(
        name,
        (f'{cloud.venv}/bin/{program}', *map(str, arguments)),
        group,
        configs=paths,
        runs_our_code=True,
        stop_seconds=45,
    )


def compute(cloud: settings.Cloud, host: str) -> Service:
    """Return the nova-compute of the host with this name."""
    service = _daemon(
        cloud, f'nova-compute-{host}', COMPUTE, [f'nova/{host}.conf']
    )
    # Tests write there the step of spawn at which to die.
    crash = {'NOVA_VCLOUD_CRASH_FILE': str(cloud.home / host / 'crash-at')}
    return dataclasses.replace(service, env=crash)


def engine(cloud: settings.Cloud, host: settings.Host) -> Service:
    """Return the dockerd of one compute host."""
    folder = cloud.etc / 'docker'
    script = folder / f'{host.name}.sh'
    return Service(
        f'dockerd-{host.name}',
        (str(script),),
        ENGINE,
        configs=(script, folder / f'{host.name}.json'),
        stop_seconds=30,
    )


def ssh_server(cloud: settings.Cloud, host: settings.Host) -> Service:
    """Return the ssh server of one compute host."""
    path = sshd.configuration(cloud, host)
    return Service(
        f'sshd-{host.name}',
        ('/usr/sbin/sshd', '-D', '-e', '-f', str(path)),
        ENGINE,
        configs=(path,),
    )


def receiver(cloud: settings.Cloud, host: settings.Host) -> Service:
    """Return what takes servers by TLS on one compute host."""
    folder = certificates.folder(cloud)
    return Service(
        f'receive-{host.name}',
        (
            f'{cloud.venv}/bin/nova-vcloud-receive',
            *('--spool', f'{host.folder}/nova/vcloud-moves'),
            *('--listen', f'{host.address}:{cloud.port("receive")}'),
            *('--cert', f'{folder}/{host.address}.pem'),
            *('--key', f'{folder}/{host.address}.key'),
            *('--ca', f'{folder}/ca.pem'),
        ),
        ENGINE,
        runs_our_code=True,
    )


def catalog(cloud: settings.Cloud, secret: dict[str, str]) -> list[Service]:
    """Return all services of the cloud."""
    neutron = ['neutron/neutron.conf', 'neutron/ml2_conf.ini']
    found = _base(cloud, secret) + _apis(cloud)
    found.append(_daemon(cloud, 'neutron-rpc-server', CONTROL, neutron))
    for name in ('nova-conductor', 'nova-scheduler', 'nova-serialproxy'):
        found.append(_daemon(cloud, name, CONTROL, ['nova/nova.conf']))
    if cloud.with_cinder:
        found += _cinder(cloud)
    if cloud.with_horizon:
        found.append(_horizon(cloud))
    for host in cloud.hosts:
        found.append(engine(cloud, host))
        found.append(ssh_server(cloud, host))
        found.append(receiver(cloud, host))
        found.append(compute(cloud, host.name))
    return found


def _quoted(env: dict[str, str]) -> str:
    """Return an environment in supervisord's own notation."""
    return ','.join(f'{key}="{value}"' for key, value in env.items())


def program(cloud: settings.Cloud, service: Service) -> config.Rendered:
    """Return supervisord's file about a service."""
    env = {**environment(cloud, service.name), **service.env}
    # Shims of containers outlive their engine, so its group is not killed.
    kill_group = 'false' if service.group == ENGINE else 'true'
    context = {
        'program': service.name,
        'command': shlex.join(service.command).replace('%', '%%'),
        'environment': _quoted(env).replace('%', '%%'),
        'home': str(cloud.home),
        'log': str(cloud.log),
        'stop_seconds': str(service.stop_seconds),
        'kill_group': kill_group,
    }
    path = cloud.etc / 'supervisor' / f'{service.name}.conf'
    return config.Rendered(path, config.render('program.conf', context))


def fingerprint(
    cloud: settings.Cloud, service: Service, project: str
) -> str:
    """Return a hash of all that makes a restart necessary when it changes.

    :param project: hash of the installed project.
    """
    digest = hashlib.sha256(program(cloud, service).text.encode())
    for path in service.configs:
        digest.update(path.read_bytes())
    if service.runs_our_code:
        digest.update(project.encode())
    return digest.hexdigest()


def log_path(cloud: settings.Cloud, service: str) -> pathlib.Path:
    """Return the log of a service."""
    return cloud.log / f'{os.path.basename(service)}.log'
