# SPDX-License-Identifier: Apache-2.0
"""An extra compute host with Nova's fake driver, to compare ours with.

The fake driver cannot be restarted under the same host name (it makes a new
node identity at each start), so every start gets a fresh name.
"""

import dataclasses
import secrets
import shutil

from mini import config
from mini import errors
from mini import identity
from mini import install
from mini import readiness
from mini import schemas
from mini import seed
from mini import services
from mini import settings
from mini import steps
from mini import supervision

PREFIX = 'fake-'
DRIVER = 'fake.FakeDriver'
IMAGE = 'fake'


def _write_config(cloud: settings.Cloud, name: str) -> None:
    """Write the configuration of the fake host."""
    context = config.base_context(cloud, config.load_secrets(cloud))
    host = dataclasses.replace(
        cloud.host(1), name=name, folder=cloud.data / name
    )
    (host.folder / 'nova').mkdir(parents=True)
    mine = config.host_context(cloud, context, host)
    mine['compute_driver'] = DRIVER
    text = config.render('nova-compute.conf', mine)
    config.write_one(
        config.Rendered(cloud.etc / 'nova' / f'{name}.conf', text)
    )


def _image(cloud: settings.Cloud) -> None:
    """Make an image that only the fake driver takes."""
    api = identity.connect(cloud).image
    if api.find_image(IMAGE) is None:
        api.create_image(
            IMAGE,
            data=b'fake',
            container_format='bare',
            disk_format='raw',
            visibility='public',
            hypervisor_type='fake',
            wait=True,
        )


def names(cloud: settings.Cloud) -> list[str]:
    """Return the fake hosts that Nova knows, up or not."""
    compute = identity.connect(cloud).compute
    return [
        service.host
        for service in compute.services(binary='nova-compute')
        if service.host.startswith(PREFIX)
    ]


def up(cloud: settings.Cloud, say: steps.Say) -> None:
    """Start a fake host and print its name.

    :raises MinicloudError: if one is there already.
    """
    present = names(cloud)
    if present:
        raise errors.MinicloudError(
            f'there is a fake host: {", ".join(present)}',
            advice='run `minicloud fake-host down` first',
        )
    name = f'{PREFIX}{secrets.token_hex(4)}'
    _write_config(cloud, name)
    _image(cloud)
    api = identity.connect(cloud)
    service = services.compute(cloud, name)
    control = supervision.Supervision(cloud)
    config.write_one(services.program(cloud, service))
    control.reread()
    control.start(service, install.project_hash(settings.SOURCE))
    readiness.await_with_log(
        cloud,
        control,
        service.name,
        lambda: seed.reports(
            api, f'nova-compute {name}', control.started_at(service.name)
        ),
    )
    schemas.discover_hosts(cloud)
    readiness.await_with_log(
        cloud, control, service.name, lambda: seed.hosts_mapped(api, [name])
    )
    say(name)


def _remove(cloud: settings.Cloud, name: str) -> None:
    """Remove all that is known of one fake host."""
    api = identity.connect(cloud)
    control = supervision.Supervision(cloud)
    service = services.compute(cloud, name)
    servers = list(api.compute.servers(all_projects=True, compute_host=name))
    if servers:
        raise errors.MinicloudError(
            f'{len(servers)} servers are on {name}',
            advice='delete them first: openstack server delete '
            + ' '.join(server.id for server in servers),
        )
    control.stop([service.name])
    services.program(cloud, service).path.unlink(missing_ok=True)
    control.reread()
    for entry in api.compute.services(binary='nova-compute', host=name):
        api.compute.delete_service(entry)
    for provider in api.placement.resource_providers(name=name):
        api.placement.delete_resource_provider(provider)
    (cloud.etc / 'nova' / f'{name}.conf').unlink(missing_ok=True)
    shutil.rmtree(cloud.data / name, ignore_errors=True)


def down(cloud: settings.Cloud, say: steps.Say) -> None:
    """Stop every fake host and remove its records.

    :raises MinicloudError: while it has servers.
    """
    for name in names(cloud):
        _remove(cloud, name)
        say(f'{name} removed')
