# SPDX-License-Identifier: Apache-2.0
"""What a fresh cloud offers: flavors, images, a network, a key."""

from collections.abc import Mapping
import dataclasses
import datetime as dt
import hashlib
import pathlib
from typing import Any

from openstack import connection

from mini import commands
from mini import errors
from mini import identity
from mini import settings

MBYTE = 1_000_000


@dataclasses.dataclass(frozen=True)
class Flavor:
    """What a flavor gives; ``specs`` are its extra specs."""

    vcpus: int
    ram: int  # MiB
    disk: int  # GiB
    specs: Mapping[str, str] = dataclasses.field(default_factory=dict)


def limited(ecu: int, mbytes: int, iops: int, mbits: int,
            pids: int) -> dict[str, str]:
    """Return the extra specs of a flavor with every kind of limit.

    :param mbytes: MB/s to and from the disk, each
    :param iops: requests to and from the disk in a second, each
    :param mbits: Mbit/s to and from the network, each
    """
    disk = {
        f'quota:disk_{way}_{unit}_sec': str(value)
        for way in ('read', 'write')
        for unit, value in (('bytes', mbytes * MBYTE), ('iops', iops))
    }
    vif = {
        f'quota:vif_{way}_average': str(mbits * 1000 // 8)  # in kB/s
        for way in ('inbound', 'outbound')
    }
    return {
        'resources:CUSTOM_ECU': str(ecu),
        'vcloud:pids': str(pids),
        **disk,
        **vif,
    }


FLAVORS = {
    'c1.tiny': Flavor(1, 64, 1),
    'c1.small': Flavor(1, 256, 2, limited(1, 50, 1000, 100, 512)),
    'c1.medium': Flavor(2, 1024, 4, limited(4, 100, 2000, 500, 1024)),
    'c1.large': Flavor(2, 2048, 8, limited(5, 200, 4000, 1000, 2048)),
}
IMAGES = ('tiny', 'debian-12')
NETWORK = 'lan'
KEYPAIR = 'operator'
# Addresses below are for who asks for one, these for who does not.
POOL_V4 = ('10.77.0.128', '10.77.0.254')
POOL_V6 = ('fd00:77::1:0', 'fd00:77::1:ffff')
CHUNK_BYTES = 1 << 20


def flavors(cloud: settings.Cloud) -> str | None:
    """Make the missing flavors; give every one its extra specs."""
    compute = identity.connect(cloud).compute
    have = {flavor.name: flavor for flavor in compute.flavors()}
    changed = False
    for name, wanted in FLAVORS.items():
        flavor = have.get(name)
        if flavor is None:
            flavor = compute.create_flavor(
                name=name,
                vcpus=wanted.vcpus,
                ram=wanted.ram,
                disk=wanted.disk,
            )
            changed = True
        specs = compute.fetch_flavor_extra_specs(flavor).extra_specs
        if specs != wanted.specs:
            for key in specs.keys() - wanted.specs.keys():
                compute.delete_flavor_extra_specs_property(flavor, key)
            compute.create_flavor_extra_specs(flavor, dict(wanted.specs))
            changed = True
    return None if changed else 'there already'


def operator_key(cloud: settings.Cloud) -> str | None:
    """Make the operator's ssh key pair."""
    if cloud.key.is_file() and cloud.key.with_suffix('.pub').is_file():
        return 'there already'
    cloud.key.unlink(missing_ok=True)
    command = ['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', KEYPAIR]
    commands.run(cloud, 'ssh-keygen', [*command, '-f', str(cloud.key)])
    return None


def keypairs(cloud: settings.Cloud) -> str | None:
    """Give the operator's public key to both users."""
    public = cloud.key.with_suffix('.pub').read_text().strip()
    remark: str | None = 'there already'
    for user in ('admin', 'demo'):
        compute = identity.connect(cloud, user).compute
        found = compute.find_keypair(KEYPAIR)
        if found is not None and found.public_key.strip() != public:
            compute.delete_keypair(found)
            found = None
        if found is None:
            compute.create_keypair(name=KEYPAIR, public_key=public)
            remark = None
    return remark


def warm_network_api(cloud: settings.Cloud) -> None:
    """Ask Neutron one thing, alone.

    Its first two requests must not come at once: the second one finds half
    of the policies loaded, and is forbidden what it may do. (Of an empty
    list no policy is asked; there always is a default security group.)
    """
    list(identity.connect(cloud).network.security_groups())


def network(cloud: settings.Cloud) -> str | None:
    """Make the flat network ``lan`` with its two subnets."""
    api = identity.connect(cloud).network
    found = api.find_network(NETWORK)
    remark = 'there already' if found else None
    found = found or api.create_network(
        name=NETWORK,
        is_shared=True,
        is_router_external=True,
        provider_network_type='flat',
        provider_physical_network=settings.PHYSNET,
    )
    for version, cidr, gateway, pool, name in (
        (4, settings.LAN_V4, settings.LAN_GATEWAY_V4, POOL_V4, 'lan-v4'),
        (6, settings.LAN_V6, settings.LAN_GATEWAY_V6, POOL_V6, 'lan-v6'),
    ):
        if api.find_subnet(name) is None:
            api.create_subnet(
                name=name,
                network_id=found.id,
                ip_version=version,
                cidr=cidr,
                gateway_ip=gateway,
                is_dhcp_enabled=False,
                allocation_pools=[{'start': pool[0], 'end': pool[1]}],
                dns_nameservers=[gateway],
            )
    return remark


def security_rules(cloud: settings.Cloud) -> str | None:
    """Let ping and ssh in, in both users' default security group."""
    remark: str | None = 'there already'
    for user in ('admin', 'demo'):
        api = identity.connect(cloud, user)
        project = api.current_project_id
        groups = api.network.security_groups(
            name='default', project_id=project
        )
        group = next(iter(groups))
        have = {
            (rule.ether_type, rule.protocol)
            for rule in api.network.security_group_rules(
                security_group_id=group.id, direction='ingress'
            )
        }
        for ether, protocol, port in (
            ('IPv4', 'icmp', None),
            ('IPv6', 'ipv6-icmp', None),
            ('IPv4', 'tcp', 22),
            ('IPv6', 'tcp', 22),
        ):
            if (ether, protocol) not in have:
                remark = None
                api.network.create_security_group_rule(
                    security_group_id=group.id,
                    direction='ingress',
                    ether_type=ether,
                    protocol=protocol,
                    port_range_min=port,
                    port_range_max=port,
                )
    return remark


def build_image(cloud: settings.Cloud, name: str) -> str | None:
    """Build an image; its builder keeps one made from the same recipe."""
    cloud.images.mkdir(parents=True, exist_ok=True)
    archive = cloud.images / f'{name}.tar'
    before = archive.stat().st_mtime_ns if archive.is_file() else 0
    builder = settings.SOURCE / 'devstack' / 'images' / 'build'
    command = [str(builder), name, str(cloud.images)]
    commands.run(cloud, f'image-{name}', command, seconds=1800)
    if not archive.is_file():
        raise errors.MinicloudError(
            f'no {archive} was built', cloud.log / f'image-{name}.log'
        )
    return 'in the cache' if archive.stat().st_mtime_ns == before else None


def _sha512(path: pathlib.Path) -> str:
    """Return the hash by which Glance knows a file's content."""
    digest = hashlib.sha512()
    with path.open('rb') as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _retire(api: connection.Connection, image: Any) -> None:
    """Hide an image: servers made from it can still be rebuilt."""
    if image.status == 'active':
        old = f'{image.name}-{image.id[:8]}'
        api.image.update_image(image, name=old, is_hidden=True)
    else:
        api.image.delete_image(image)


def upload_image(
    cloud: settings.Cloud, name: str, archive: pathlib.Path | None = None
) -> str | None:
    """Put a built image into Glance unless its content is there.

    :param archive: the file, if it is not named as the image.
    """
    archive = archive or cloud.images / f'{name}.tar'
    api = identity.connect(cloud)
    wanted = _sha512(archive)
    for image in api.image.images(name=name):
        if image.status == 'active' and image.hash_value == wanted:
            return 'there already'
        _retire(api, image)
    image = api.image.create_image(
        name,
        filename=str(archive),
        container_format='docker',
        disk_format='raw',
        visibility='public',
        hypervisor_type='docker',
        wait=True,
    )
    return f'{archive.stat().st_size >> 20} MiB'


def reports(api: connection.Connection, name: str, since: float) -> bool:
    """Tell whether a service of Nova has said that it is up.

    :param name: 'binary host' of the service.
    :param since: Unix time; what was said before counts for nothing: Nova
        calls a service up for a minute after its death.
    """
    for service in api.compute.services():
        if f'{service.binary} {service.host}' == name:
            said = service.updated_at
            return service.state == 'up' and _unix_time(said) >= since
    return False


def _unix_time(text: str | None) -> float:
    """Return a time of Nova's, such as 2026-01-31T09:10:11.000000, UTC."""
    if text is None:
        return 0.0
    moment = dt.datetime.fromisoformat(text)
    return moment.replace(tzinfo=dt.UTC).timestamp()


def hosts_mapped(api: connection.Connection, hosts: list[str]) -> bool:
    """Tell whether the hosts belong to a cell and offer resources."""
    known = {entry.name for entry in api.compute.hypervisors()}
    return set(hosts) <= known
