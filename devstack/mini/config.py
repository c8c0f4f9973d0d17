# SPDX-License-Identifier: Apache-2.0
"""Render the configuration of every service from the templates."""

import dataclasses
import json
import os
import pathlib
import secrets
import shutil
import string

from mini import settings

TEMPLATES = pathlib.Path(__file__).resolve().parent / 'templates'
SECRET_NAMES = (
    'admin',
    'demo',
    'database',
    'erlang',
    'rabbitmq',
    'cinder',
    'glance',
    'horizon',
    'neutron',
    'nova',
    'placement',
)
SERVICE_USERS = ('cinder', 'glance', 'neutron', 'nova', 'placement')
CONTROLLER = 'controller'
# As an NFS server would export it; see volumes.py.
SHARE = '127.0.0.1:/volumes'
COMPUTE_DRIVER = 'virt_docker.DockerDriver'
# Of daemon.json, where servers are to have user namespaces.
USERNS = ',\n  "userns-remap": "default"'
SCHEDULER_FILTERS = (
    'ComputeFilter',
    'ComputeCapabilitiesFilter',
    'ImagePropertiesFilter',
    'ServerGroupAntiAffinityFilter',
    'ServerGroupAffinityFilter',
    'SameHostFilter',
    'DifferentHostFilter',
    'ZoneFilter',
    'EcuFilter',
    'AppAntiAffinityFilter',
)


@dataclasses.dataclass(frozen=True)
class Rendered:
    """One file of configuration; the mode is 0600 unless stated."""

    path: pathlib.Path
    text: str
    mode: int = 0o600


def render(template: str, context: dict[str, str]) -> str:
    """Return a template with its values filled in.

    :raises KeyError: on a name that the context lacks.
    """
    text = (TEMPLATES / template).read_text()
    return string.Template(text).substitute(context)


def load_secrets(cloud: settings.Cloud) -> dict[str, str]:
    """Return the cloud's passwords; make those that are not there yet."""
    path = cloud.etc / 'secrets.json'
    known: dict[str, str] = {}
    if path.is_file():
        known = json.loads(path.read_text())
    missing = [name for name in SECRET_NAMES if name not in known]
    if missing:
        known.update({name: secrets.token_hex(16) for name in missing})
        write_one(Rendered(path, json.dumps(known, indent=1)))
    return known


def base_context(
    cloud: settings.Cloud, secret: dict[str, str]
) -> dict[str, str]:
    """Return the values that do not belong to one compute host."""
    context = {f'secret_{name}': value for name, value in secret.items()}
    for service in settings.PORT_OFFSETS:
        word = service.replace('-', '_')
        context[f'port_{word}'] = str(cloud.port(service))
        context[f'url_{word}'] = cloud.url(service)
    for folder in ('home', 'etc', 'log', 'run', 'data', 'venv'):
        context[folder] = str(getattr(cloud, folder))
    context.update(
        name=cloud.name,
        controller=CONTROLLER,
        # What a tenant can use without Cinder is not to change.
        volumes_shown_as='filesystem' if cloud.with_cinder else 'device',
        with_cinder=str(cloud.with_cinder).lower(),
        horizon_static=str(horizon_static(cloud)),
        physnet=settings.PHYSNET,
        # Ports of the hosts with the fake driver have to bind as well.
        bridge_mappings=','.join(
            f'{name}:{settings.PHYSNET}:{settings.BRIDGE}'
            for name in (*(host.name for host in cloud.hosts), 'fake-*')
        ),
        db=f'mysql+pymysql://openstack:{secret["database"]}'
        f'@127.0.0.1:{cloud.port("mariadb")}',
        transport_url=f'rabbit://openstack:{secret["rabbitmq"]}'
        f'@127.0.0.1:{cloud.port("rabbitmq")}/',
        scheduler_filters=','.join(SCHEDULER_FILTERS),
    )
    for user in SERVICE_USERS:
        login = {**context, 'username': user, 'password': secret[user]}
        for kind in ('auth', 'authtoken'):
            text = render(f'{kind}.ini', login)
            context[f'{kind}_{user}'] = text.rstrip()
    for part in ('nova-default', 'nova-sections'):
        text = render(f'{part}.conf', context)
        context[part.replace('-', '_')] = text.rstrip()
    return context


def horizon_static(cloud: settings.Cloud) -> pathlib.Path:
    """Return where Horizon's scripts and styles are."""
    return cloud.horizon_venv / 'static'


def host_context(
    cloud: settings.Cloud, context: dict[str, str], host: settings.Host
) -> dict[str, str]:
    """Return the context of one compute host."""
    conf = cloud.etc / 'nova' / f'{host.name}.conf'
    helper = f'{cloud.venv}/bin/privsep-helper --config-file {conf}'
    return {
        **context,
        'host': host.name,
        'host_address': host.address,
        'host_cgroup': host.cgroup,
        'host_ecu_per_core': str(host.ecu_per_core),
        'host_data_root': str(host.data_root),
        'host_exec_root': str(host.exec_root),
        'host_folder': str(host.folder),
        'host_links': str(host.links),
        'host_netns': host.netns,
        'host_nfs': str(host.nfs),
        'host_run': str(host.run),
        'host_server_prefix': host.server_prefix,
        'host_socket': str(host.socket),
        'host_transport': host.sends_by,
        'host_userns': USERNS if host.user_namespaces else '',
        'compute_driver': COMPUTE_DRIVER,
        'privsep_helper': helper,
    }


def _service_files(
    cloud: settings.Cloud, context: dict[str, str]
) -> list[Rendered]:
    places = {
        'keystone.conf': 'keystone/keystone.conf',
        'placement.conf': 'placement/placement.conf',
        'glance-api.conf': 'glance/glance-api.conf',
        'neutron.conf': 'neutron/neutron.conf',
        'neutron-policy.yaml': 'neutron/policy.yaml',
        'ml2_conf.ini': 'neutron/ml2_conf.ini',
        'nova.conf': 'nova/nova.conf',
        'rabbitmq.conf': 'rabbitmq/rabbitmq.conf',
        'docker-registry.yml': 'docker-registry.yml',
        'supervisord.conf': 'supervisord.conf',
        'clouds.yaml': 'clouds.yaml',
    }
    if cloud.with_cinder:
        places['cinder.conf'] = 'cinder/cinder.conf'
    if cloud.with_horizon:
        for name in ('horizon_settings.py', 'horizon_wsgi.py'):
            places[name] = f'horizon/{name}'
    found = [
        Rendered(cloud.etc / place, render(template, context))
        for template, place in places.items()
    ]
    found.append(
        Rendered(cloud.etc / 'rabbitmq' / 'enabled_plugins', '[].\n')
    )
    if cloud.with_cinder:
        shares = cloud.etc / 'cinder' / 'nfs_shares'
        found.append(Rendered(shares, f'{SHARE}\n'))
    return found


def _host_files(
    cloud: settings.Cloud, context: dict[str, str], host: settings.Host
) -> list[Rendered]:
    mine = host_context(cloud, context, host)
    docker = cloud.etc / 'docker'
    return [
        Rendered(
            cloud.etc / 'nova' / f'{host.name}.conf',
            render('nova-compute.conf', mine),
        ),
        Rendered(docker / f'{host.name}.json', render('daemon.json', mine)),
        Rendered(
            cloud.etc / 'ssh' / f'{host.name}.conf', render('sshd.conf', mine)
        ),
        Rendered(
            docker / f'{host.name}.sh', render('dockerd.sh', mine), 0o700
        ),
    ]


def _openrc(
    cloud: settings.Cloud, context: dict[str, str], user: str
) -> Rendered:
    path = openrc_path(cloud, user)
    login = {
        'openrc_path': str(path),
        'username': user,
        'project': user,
        'password': context[f'secret_{user}'],
    }
    return Rendered(path, render('openrc', {**context, **login}))


def openrc_path(cloud: settings.Cloud, user: str) -> pathlib.Path:
    """Return the file that sets the environment of ``openstack``."""
    name = 'openrc' if user == 'admin' else f'openrc-{user}'
    return cloud.home / name


def files(cloud: settings.Cloud, secret: dict[str, str]) -> list[Rendered]:
    """Return all configuration files of the cloud."""
    context = base_context(cloud, secret)
    found = _service_files(cloud, context)
    for host in cloud.hosts:
        found += _host_files(cloud, context, host)
    found += [_openrc(cloud, context, user) for user in ('admin', 'demo')]
    return found


def write_one(file: Rendered) -> bool:
    """Write a file whole or not at all; tell whether it changed."""
    if file.path.is_file() and file.path.read_text() == file.text:
        return False
    file.path.parent.mkdir(parents=True, exist_ok=True)
    new = file.path.with_name(file.path.name + '.new')
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, 'w') as stream:
        stream.write(file.text)
    new.chmod(file.mode)
    new.rename(file.path)
    return True


def _copy_paste_files(cloud: settings.Cloud) -> None:
    """Copy the WSGI pipelines, and the like, that packages come with."""
    names = [
        ('nova', 'api-paste.ini'),
        ('glance', 'glance-api-paste.ini'),
        ('neutron', 'api-paste.ini'),
    ]
    if cloud.with_cinder:
        names += [
            ('cinder', 'api-paste.ini'),
            ('cinder', 'resource_filters.json'),
            ('cinder', 'rootwrap.conf'),
        ]
    for service, name in names:
        folder = cloud.etc / service
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(
            cloud.venv / 'etc' / service / name, folder / name
        )


def write(cloud: settings.Cloud) -> int:
    """Write the configuration; return how many files changed."""
    for folder in (cloud.home, cloud.log, cloud.run, cloud.data):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    cloud.etc.mkdir(mode=0o700, exist_ok=True)
    for folder in (
        cloud.run / 'locks',
        cloud.data / 'glance',
        cloud.data / 'neutron',
        cloud.data / 'rabbitmq',
        cloud.etc / 'supervisor',
    ):
        folder.mkdir(parents=True, exist_ok=True)
    for host in cloud.hosts:
        for folder in (host.folder / 'nova', host.run, host.links):
            folder.mkdir(parents=True, exist_ok=True)
    _copy_paste_files(cloud)
    secret = load_secrets(cloud)
    return sum(write_one(file) for file in files(cloud, secret))
