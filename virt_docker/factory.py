# SPDX-License-Identifier: Apache-2.0
"""Makes the parts of the driver from nova.conf."""

from __future__ import annotations

from collections.abc import Callable
import os
from typing import Any

from nova import objects
from nova.console import serial
from nova.image import glance
from oslo_config import cfg

from nova_vcloud import userns
from nova_vcloud.conf import docker as docker_conf
from nova_vcloud.conf import ecu as ecu_conf
from nova_vcloud.conf import migration as migration_conf
from nova_vcloud.conf import net as net_conf
from nova_vcloud.conf import qos as qos_conf
from nova_vcloud.conf import registry as registry_conf
from nova_vcloud.conf import scheduler as scheduler_conf
from nova_vcloud.conf import volumes as volumes_conf
from nova_vcloud.engine import Engine
from nova_vcloud.qos import hosts
from nova_vcloud.qos.disk import loop_file
from nova_vcloud.transfer import channels
from nova_vcloud.transfer import transport
from nova_vcloud.virt_docker import resources
from nova_vcloud.virt_docker.guest import container_spec
from nova_vcloud.virt_docker.guest import containers
from nova_vcloud.virt_docker.guest import live_processes
from nova_vcloud.virt_docker.guest import serial_console
from nova_vcloud.virt_docker.guest import stopping
from nova_vcloud.virt_docker.host import host as docker_host
from nova_vcloud.virt_docker.image import imagecache
from nova_vcloud.virt_docker.image import imageroom
from nova_vcloud.virt_docker.image import images
from nova_vcloud.virt_docker.image import registry_ref
from nova_vcloud.virt_docker.migration import cold_migration
from nova_vcloud.virt_docker.migration import transfer_rpc
from nova_vcloud.virt_docker.vif import network
from nova_vcloud.virt_docker.volumes import ephemeral


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register all groups of options that the driver reads."""
    for group in (docker_conf, net_conf, qos_conf, ecu_conf, scheduler_conf,
                  migration_conf, registry_conf, volumes_conf):
        group.register_opts(conf)


def defaults(conf: cfg.ConfigOpts) -> container_spec.Defaults:
    """Return what containers have unless flavor or image say otherwise."""
    own = conf.docker
    return container_spec.Defaults(
        own.runtime, own.cgroup_parent, own.log_max_size_kib,
        own.log_max_files, own.no_new_privileges, tuple(own.capabilities),
        tuple(own.allowed_capabilities), tuple(own.allowed_devices),
        live_processes.most_files())


def required_limits(conf: cfg.ConfigOpts) -> dict[str, str]:
    """Return {kind of limit: option by which this host has to have it}."""
    if conf.docker.root_disks == 'file':
        return {'disk.max': '[docker] root_disks = file'}
    if conf.docker.require_disk_limit:
        return {'disk.max': '[docker] require_disk_limit'}
    return {}


def engine(conf: cfg.ConfigOpts) -> Engine:
    """Return the Docker engine of this host."""
    own = conf.docker
    return Engine(own.url, own.timeout, own.load_timeout)


def network_of(conf: cfg.ConfigOpts,
               ids: Callable[[], userns.IdMap | None]) -> network.Network:
    """Return the networks of servers.

    :param ids: tells of the ids in servers' user namespaces
    """
    own = conf.vcloud_net
    return network.Network(
        conf.docker.runtime_links_path, own.fabric_namespace,
        own.namespace_prefix, own.uplinks, ids, own.neighbour_limit)


def host(conf: cfg.ConfigOpts, docker: Engine) -> docker_host.Host:
    """Return this host, as its engine tells of it."""
    own = conf.docker
    return docker_host.Host(
        docker, conf.host, own.runtime, own.runtime_links_path,
        own.cgroup_parent, own.require_user_namespaces,
        conf.vcloud_net.neighbour_limit)


def cpus(conf: cfg.ConfigOpts) -> resources.Cpus:
    """Return the CPUs that servers may have."""
    return docker_host.cpus(conf.compute.cpu_shared_set,
                            conf.compute.cpu_dedicated_set,
                            conf.qos.numa_policy)


def limits(conf: cfg.ConfigOpts, docker: Engine) -> hosts.Assembly:
    """Return what holds servers to their limits."""
    own = conf.docker
    return hosts.docker_host(
        docker, own.runtime_links_path, conf.qos.state_path,
        loop_file.Files(conf.preallocate_images == 'space')
        if own.root_disks == 'file' else None, docker_conf.raw_sockets(conf))


def image_store(conf: cfg.ConfigOpts, docker: Engine,
                image_api: glance.API) -> images.ImageStore:
    """Return the images of the engine."""
    own = conf.docker
    return images.ImageStore(
        docker, image_api.download,
        os.path.join(conf.state_path, 'vcloud-locks'),
        registry_ref.References(image_api, registry_conf.settings(conf)),
        imageroom.Bounds(own.image_cache_max_project_gb,
                         own.image_cache_min_free_percent))


def image_cache(conf: cfg.ConfigOpts, docker: Engine,
                store: images.ImageStore,
                image_meta: Callable[[Any, str], objects.ImageMeta]
                ) -> imagecache.ImageCache:
    """Return what removes images that no server uses.

    :param image_meta: describes an image, given a context and its id
    """
    own = conf.image_cache
    return imagecache.ImageCache(
        docker, store, image_meta,
        own.remove_unused_original_minimum_age_seconds
        if own.remove_unused_base_images else None)


def stops(conf: cfg.ConfigOpts, docker: Engine) -> stopping.Stops:
    """Return what stops containers, in the time that a server has for it."""
    return stopping.Stops(docker, conf.shutdown_timeout,
                          conf.docker.max_shutdown_timeout, stopping.deleting)


def app_limits(conf: cfg.ConfigOpts) -> dict[str, str]:
    """Return the scheduler's options on which a host has the last word."""
    return {name: getattr(conf.vcloud_scheduler, name)
            for name in ('app_max_per_host', 'app_policy')}


def other_hosts(conf: cfg.ConfigOpts) -> transport.Hosts:
    """Return the connections to hosts that servers move to."""
    own = conf.vcloud_migration
    return transport.Hosts(channels.transport_of(own), own.persist,
                           own.transfer_timeout)


def destination(conf: cfg.ConfigOpts) -> transfer_rpc.Destination:
    """Return what asks nova-compute of other hosts."""
    # Not before it is used: a command of Nova knows no such options.
    return transfer_rpc.Destination(patience=lambda: (
        conf.long_rpc_timeout, conf.rpc_response_timeout))


def moves_of(conf: cfg.ConfigOpts, docker: Engine,
             servers: containers.Containers, store: images.ImageStore,
             image_api: glance.API, others: transport.Hosts,
             ephemerals: ephemeral.Store) -> cold_migration.Moves:
    """Return what moves servers between hosts."""
    own = conf.vcloud_migration
    return cold_migration.Moves(
        docker, servers, store, own.method, own.spool_path, others.remote,
        destination(conf),
        lambda context, image: images.known(image_api, context, image),
        conf.docker.log_max_files, conf.docker.log_max_size_kib << 10,
        own.engine_wait, ephemerals)


def console_ports(conf: cfg.ConfigOpts,
                  docker: Engine) -> serial_console.Consoles:
    """Return the serial consoles of servers, as ports of this host."""
    return serial_console.Consoles(
        docker, conf.serial_console.proxyclient_address, serial.acquire_port,
        serial.release_port, conf.docker.serial_proxy_hosts,
        conf.consoleauth.token_ttl)
