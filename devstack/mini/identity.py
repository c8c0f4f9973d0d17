# SPDX-License-Identifier: Apache-2.0
"""Keystone's contents: service accounts, endpoints, the demo tenant."""

import openstack
from openstack import connection

from mini import config
from mini import settings
from mini import stamps

REGION = 'RegionOne'
ENDPOINTS = (
    ('nova', 'compute', 'nova-api', '/v2.1'),
    ('glance', 'image', 'glance', ''),
    ('neutron', 'network', 'neutron-api', ''),
    ('placement', 'placement', 'placement', ''),
)


def connect(
    cloud: settings.Cloud, user: str = 'admin'
) -> connection.Connection:
    """Return a connection of ``admin`` or ``demo``, in their own project."""
    return openstack.connect(
        load_yaml_config=False,
        load_envvars=False,
        auth_url=cloud.url('keystone', '/v3'),
        auth_type='password',
        username=user,
        password=config.load_secrets(cloud)[user],
        project_name=user,
        user_domain_id='default',
        project_domain_id='default',
        region_name=REGION,
        compute_default_microversion='2.96',
    )


def _project(cloud: connection.Connection, name: str) -> str:
    """Return the id of a project, made if need be."""
    identity = cloud.identity
    found = identity.find_project(name, domain_id='default')
    found = found or identity.create_project(name=name, domain_id='default')
    return str(found.id)


def _user(
    cloud: connection.Connection,
    name: str,
    password: str,
    project: str,
    roles: tuple[str, ...],
) -> None:
    """Make a user with roles on a project."""
    identity = cloud.identity
    user = identity.find_user(name, domain_id='default')
    if user is None:
        user = identity.create_user(
            name=name,
            password=password,
            domain_id='default',
            default_project_id=project,
        )
    for role_name in roles:
        role = identity.find_role(role_name)
        role = role or identity.create_role(name=role_name)
        identity.assign_project_role_to_user(project, user, role)


def _system_reader(cloud: connection.Connection, name: str) -> None:
    """Let a user read of Keystone what belongs to no project."""
    identity = cloud.identity
    user = identity.find_user(
        name, domain_id='default', ignore_missing=False
    )
    role = identity.find_role('reader', ignore_missing=False)
    identity.assign_system_role_to_user(user, role, 'all')


def _wanted(cloud: settings.Cloud) -> tuple[tuple[str, str, str, str], ...]:
    if not cloud.with_cinder:
        return ENDPOINTS
    return (*ENDPOINTS, ('cinder', 'volumev3', 'cinder-api', '/v3'))


def _endpoints(cloud: settings.Cloud, api: connection.Connection) -> None:
    """Register the APIs, each once per interface."""
    identity = api.identity
    known = {service.type: service for service in identity.services()}
    have = {(e.service_id, e.interface) for e in identity.endpoints()}
    for name, kind, service, path in _wanted(cloud):
        entry = known.get(kind)
        entry = entry or identity.create_service(name=name, type=kind)
        for interface in ('public', 'internal', 'admin'):
            if (entry.id, interface) not in have:
                identity.create_endpoint(
                    service_id=entry.id,
                    interface=interface,
                    region_id=REGION,
                    url=cloud.url(service, path),
                )


def seed(cloud: settings.Cloud) -> str | None:
    """Make all accounts and endpoints that are missing."""
    secret = config.load_secrets(cloud)

    def work() -> None:
        api = connect(cloud)
        project = _project(api, 'service')
        for name in config.SERVICE_USERS:
            _user(api, name, secret[name], project, ('admin', 'service'))
        _user(api, 'demo', secret['demo'], _project(api, 'demo'), ('member',))
        # It checks quotas: reads every project's limits, and endpoints.
        _system_reader(api, 'nova')
        _endpoints(cloud, api)

    key = '3 with cinder' if cloud.with_cinder else '3'
    return stamps.once(cloud, 'identity', key, work)
