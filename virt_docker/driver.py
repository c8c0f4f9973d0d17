# SPDX-License-Identifier: Apache-2.0
"""Nova's verbs, each handed to the room that does the work."""

from __future__ import annotations

import functools
import os
from typing import Any

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
import nova.conf
from nova.image import glance
from nova.virt import driver
from nova.virt import event as virtevent
from nova.virt import hardware
from oslo_concurrency import processutils
from oslo_log import log
from oslo_utils import fileutils

from nova_vcloud import ecu
from nova_vcloud import exception
from nova_vcloud import privsep
from nova_vcloud.qos import periodic
from nova_vcloud.qos import policy
from nova_vcloud.virt_docker import crash_points
from nova_vcloud.virt_docker import driver_devices
from nova_vcloud.virt_docker import driver_images
from nova_vcloud.virt_docker import driver_moves
from nova_vcloud.virt_docker import driver_volumes
from nova_vcloud.virt_docker import factory
from nova_vcloud.virt_docker import resources
from nova_vcloud.virt_docker import server_labels
from nova_vcloud.virt_docker.guest import boot_checks
from nova_vcloud.virt_docker.guest import container_spec
from nova_vcloud.virt_docker.guest import containers
from nova_vcloud.virt_docker.guest import device_tags
from nova_vcloud.virt_docker.guest import diagnostics
from nova_vcloud.virt_docker.guest import events
from nova_vcloud.virt_docker.guest import file_injection
from nova_vcloud.virt_docker.guest import port_events
from nova_vcloud.virt_docker.guest import power_states
from nova_vcloud.virt_docker.guest import rebuild
from nova_vcloud.virt_docker.guest import rescue
from nova_vcloud.virt_docker.guest import snapshot
from nova_vcloud.virt_docker.guest import user_data
from nova_vcloud.virt_docker.host import app_admission
from nova_vcloud.virt_docker.host import claims
from nova_vcloud.virt_docker.host import host as docker_host
from nova_vcloud.virt_docker.host import load
from nova_vcloud.virt_docker.migration import evacuation
from nova_vcloud.virt_docker.migration import leftovers
from nova_vcloud.virt_docker.migration import recovery
from nova_vcloud.virt_docker.migration import resize
from nova_vcloud.virt_docker.migration import transfer_rpc
from nova_vcloud.virt_docker.volumes import connections

CONF = nova.conf.CONF
LOG = log.getLogger(__name__)


class DockerDriver(driver_moves.MoveVerbs, driver_devices.DeviceVerbs,
                   driver_images.ImageVerbs):
    """Servers that are Docker containers.

    Loaded by stock nova-compute with
    ``compute_driver = virt_docker.DockerDriver``.
    """

    capabilities = {  # noqa: RUF012 - Nova's own shape
        **driver.ComputeDriver.capabilities,
        # A docker archive is container_format=docker, disk_format=raw.
        'supports_image_type_raw': True,
        'supports_evacuate': True,
        'supports_attach_interface': True,
        'has_imagecache': True,
        'supports_extend_volume': True,
        'supports_device_tagging': True,
        'supports_tagged_attach_interface': True,
        'supports_tagged_attach_volume': True,
    }

    def __init__(self, virtapi: Any) -> None:
        super().__init__(virtapi)
        factory.register_opts(CONF)
        if os.geteuid() == 0:
            privsep.in_process()
            connections.in_process()
        # What Nova leaves half-way after a failure is ended by its own means.
        manager = getattr(virtapi, '_compute', None)
        self._engine = factory.engine(CONF)
        self._network = factory.network_of(CONF, lambda: self._host.ids)
        self._image_api = glance.API()
        self._defaults = factory.defaults(CONF)
        self._host = factory.host(CONF, self._engine)
        self._speed: float | None = None  # ECU of one core; read at start
        self._make_limits()
        self._make_servers(manager)
        self._make_disks()
        self._make_moves(manager)
        self._make_watchers()

    def _make_limits(self) -> None:
        self._cpus = factory.cpus(CONF)
        self._limits = factory.limits(CONF, self._engine)
        self._resources = resources.Resources(
            self._limits.keeper, self._cpus, self._profile,
            self._network.link, self._limits.cgroup.use, self._limits.disk,
            (self._limits.runtime, self._limits.tc))
        self._meter = load.Meter(self._cpus.all)

    def _make_servers(self, manager: Any) -> None:
        self._store = factory.image_store(CONF, self._engine, self._image_api)
        self._image_cache = factory.image_cache(
            CONF, self._engine, self._store, self._image_meta)
        self._containers = containers.Containers(
            self._engine, self._network, self._store, self._resources,
            self._defaults, CONF.host, self._shared_folders,
            factory.stops(CONF, self._engine),
            lambda: self._host.ids is not None)
        self._rebuilds = rebuild.Rebuilds(
            self._containers, self._image_api, claims.Claims(
                getattr(manager, 'reportclient', None)))
        self._admission = app_admission.Admission(
            self._containers.applications, self._hints,
            factory.app_limits(CONF))

    def _make_disks(self) -> None:
        self._volumes = self._make_volumes(CONF, self._network.namespace,
                                           lambda: self._host.ids)
        self._ephemerals = driver_volumes.ephemerals(CONF)
        self._rescue = rescue.Rescue(
            self._engine, self._containers,
            os.path.join(CONF.state_path, 'vcloud-rescue'))
        self._snapshots = snapshot.Snapshots(
            self._engine, self._containers, self._image_api,
            CONF.docker.snapshot_max_layers, CONF.host,
            snapshot.notes(CONF))

    def _make_moves(self, manager: Any) -> None:
        self._others = factory.other_hosts(CONF)
        self._moves = factory.moves_of(
            CONF, self._engine, self._containers, self._store,
            self._image_api, self._others, self._ephemerals)
        self._recovery = recovery.Recovery(manager, self._moves, CONF.host)
        if manager is not None:
            port_events.follow(manager, self._update_addresses)
        transfer_rpc.serve(manager, CONF.host, self._moves)

    def _make_watchers(self) -> None:
        self._consoles = factory.console_ports(CONF, self._engine)
        self._events = events.EventFeed(
            self._engine, server_labels.of_host(CONF.host),
            CONF.docker.stop_event_delay, self._containers.follow,
            self._containers.claim_start, self._emit,
            self._containers.verify)
        self._leftovers = leftovers.Leftovers(
            self._engine, CONF.host, self._remove_all,
            elsewhere=functools.partial(
                leftovers.elsewhere, holds=factory.destination(CONF).holds))
        self._watch = periodic.Watch(self._limits.keeper.sweep,
                                     CONF.qos.verify_interval)

    def _image_meta(self, context: Any, image_id: str) -> objects.ImageMeta:
        return objects.ImageMeta.from_image_ref(context, self._image_api,
                                                image_id)

    def _shared_folders(self, uuid: str) -> list[str]:
        return self._volumes.binds(uuid)

    def _profile(self) -> policy.Host:
        return policy.Host(
            cpus=len(self._cpus.all), per_core=self._per_core(),
            pids=CONF.docker.pids_limit, device=self._host.device,
            split_totals=CONF.qos.split_disk_totals,
            disk=bool(self._limits.disk.support().enforced))

    def _per_core(self) -> float | None:
        return self._speed

    # Host

    def init_host(self, host: str) -> None:
        """Check the host and begin to listen.

        :raises HostNotReady: with what the operator must change
        """
        self._host.wait_ready(CONF.docker.start_timeout)
        self._host.check_limits(
            self._limits.keeper.enforcer, factory.required_limits(CONF))
        self._limits.disk.sweep()
        self._speed = docker_host.speed(CONF.ecu.per_core,
                                        CONF.ecu.calibration_file)
        self._rescue.protect()
        self._volumes.check_host()
        self._snapshots.remove_leftovers()
        self._others.check()
        self._moves.make_spool()
        # Nova notes there who shares its images, before it asks to remove.
        fileutils.ensure_tree(CONF.instances_path)
        self._check_disk_place(CONF.instances_path, host)
        self._events.start()
        self._watch.start()
        self._leftovers.start()

    def cleanup_host(self, host: str) -> None:
        """End our threads; containers run on."""
        self._leftovers.stop()
        self._watch.stop()
        self._events.stop()
        self._others.close()

    def get_available_nodes(self, refresh: bool = False) -> list[str]:
        """Return the one node of this host."""
        return [self._host.name]

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        """Return the host's resources, by one engine call."""
        self._recovery.look()
        found = self._host.resources(len(self._cpus.all))
        return {**found, 'stats': self._stats(
            found['memory_mb_used'] / found['memory_mb'])}

    def _stats(self, memory: float) -> dict[str, str]:
        """Return what the scheduler's filters and weighers read.

        And the API: with stats that have no uptime it asks nobody for it.

        :param memory: share of memory in use, 0 to 1
        """
        known = self._resources.ecu(self._per_core())
        measured = self._meter.look(self._resources.servers(), memory)
        return {'uptime': self.get_host_uptime(), **known.to_stats(),
                **(measured.to_stats() if measured else {})}

    def _hints(self, context: nova_context.RequestContext,
               instance: objects.Instance) -> dict[str, object]:
        # As for Nova's own check of server groups.
        if CONF.workarounds.disable_group_policy_check_upcall:
            return {}
        return app_admission.hints_of(context, instance)

    def update_provider_tree(self, provider_tree: Any, nodename: str,
                             allocations: Any = None) -> None:
        """Set this host's Placement inventory, without an engine call."""
        provider = provider_tree.data(nodename)
        ratios = self._get_allocation_ratios(provider.inventory)
        reserved = {
            'VCPU': CONF.reserved_host_cpus,
            'PCPU': 0,
            'MEMORY_MB': CONF.reserved_host_memory_mb,
            'DISK_GB': self._get_reserved_host_disk_gb_from_config(),
        }
        provider_tree.update_inventory(
            nodename,
            {**docker_host.inventory(self._host.facts, self._cpus, ratios,
                                     reserved),
             **self._ecu_inventory()})
        provider_tree.update_traits(
            nodename, docker_host.with_cpu_traits(provider.traits))

    def _ecu_inventory(self) -> dict[str, Any]:
        per_core = self._per_core()
        if per_core is None:
            return {}
        return ecu.inventory(len(self._cpus.all), per_core,
                             CONF.ecu.allocation_ratio, CONF.ecu.reserved)

    def get_host_ip_addr(self) -> str:
        """Return the address by which other hosts reach this one."""
        return CONF.my_ip

    def get_host_uptime(self) -> str:
        """Return what ``uptime`` prints."""
        out, _err = processutils.execute('env', 'LANG=C', 'uptime')
        return out

    # What is there

    def list_instances(self) -> list[str]:
        """Return the names of the servers of this host."""
        return [c['Labels'][server_labels.NAME]
                for c in self._containers.list().values()]

    def list_instance_uuids(self) -> list[str]:
        """Return the UUIDs of the servers of this host."""
        return list(self._containers.list())

    def get_info(self, instance: objects.Instance,
                 use_cache: bool = True) -> hardware.InstanceInfo:
        """Return the server's power state, asked of the engine."""
        with self._nova_errors(instance):
            state = self._containers.inspect(instance.uuid)['State']
        return hardware.InstanceInfo(
            state=power_states.guest_state(state['Status'], instance))

    def get_console_output(self, context: nova_context.RequestContext,
                           instance: objects.Instance) -> bytes:
        """Return the end of the console log."""
        with self._nova_errors(instance):
            return self._containers.console(instance.uuid)

    def get_diagnostics(self, instance: objects.Instance) -> dict[str, Any]:
        """Return counters for API microversions before 2.48."""
        sample = self._sample(instance)
        with self._nova_errors(instance):
            disk = self._limits.disk.figures(sample[0]['Id'])
        return {**diagnostics.flat(*sample), **disk}

    def get_instance_diagnostics(
            self, instance: objects.Instance
    ) -> objects.diagnostics.Diagnostics:
        """Return counters for API microversion 2.48 and later."""
        return diagnostics.full(*self._sample(instance),
                                bool(instance.config_drive),
                                instance.flavor.vcpus)

    def _sample(self, instance: objects.Instance
                ) -> tuple[Any, Any, Any, Any]:
        with self._nova_errors(instance):
            container = self._containers.inspect(instance.uuid)
            stats = self._engine.stats(container['Id'])
            return (container, stats, self._network.counters(instance.uuid),
                    self._volumes.counters(instance.uuid))

    # Build and destroy

    def spawn(self, context: nova_context.RequestContext,
              instance: objects.Instance, image_meta: objects.ImageMeta,
              injected_files: Any, admin_password: Any, allocations: Any,
              network_info: Any = None, block_device_info: Any = None,
              power_on: bool = True, accel_info: Any = None) -> None:
        """Make the server; on failure nothing of it is left."""
        image_meta = evacuation.source(
            self._image_api, context, instance, image_meta,
            CONF.vcloud_migration.evacuate_from)
        with self._nova_errors(instance), \
                self._admission.admitted(context, instance) as application, \
                self._with_volumes(instance, block_device_info):
            network_info = network_info or []  # which waits for it
            device_tags.note(context, instance)
            self._containers.spawn(context, instance, image_meta,
                                   network_info, file_injection.archive(
                                       instance, network_info,
                                       injected_files, admin_password),
                                   power_on, application)
            self._welcome(instance, admin_password)

    def rebuild(self, context: nova_context.RequestContext,
                instance: objects.Instance, image_meta: objects.ImageMeta,
                injected_files: Any, admin_password: Any, allocations: Any,
                bdms: Any, detach_block_devices: Any,
                attach_block_devices: Any, network_info: Any = None,
                evacuate: bool = False, block_device_info: Any = None,
                preserve_ephemeral: bool = False, accel_uuids: Any = None,
                reimage_boot_volume: bool = False) -> None:
        """Make the server anew, with its name, NICs and limits.

        :raises NotImplementedError: it is evacuated; Nova then calls
            :meth:`spawn`
        :raises InstanceFaultRollback: with the reason; the server is as it
            was
        """
        if evacuate:
            raise NotImplementedError
        with self._rebuilds.rolled_back(context, instance, allocations), \
                self._nova_errors(instance):
            self._rebuilds.rebuild(context, instance, image_meta,
                                   network_info or [], file_injection.archive(
                                       instance, network_info,
                                       injected_files, admin_password),
                                   self._stop_timeout(instance),
                                   self._new_disks(
                                       instance, block_device_info,
                                       preserve_ephemeral),
                                   lambda: self._admission.label(
                                       context, instance))
            self._ephemerals.drop_old(instance.uuid)
            self._welcome(instance, admin_password)

    def _welcome(self, instance: objects.Instance,
                 admin_password: str | None) -> None:
        """Do what only a server that runs can be given."""
        user_data.begin(
            self._engine, container_spec.container_name(instance.uuid),
            instance, admin_password if CONF.docker.inject_password else None)

    def destroy(self, context: nova_context.RequestContext,
                instance: objects.Instance, network_info: Any,
                block_device_info: Any = None, destroy_disks: bool = True,
                destroy_secrets: bool = True) -> None:
        """Remove the container and its network.

        :raises InstancePowerOffFailure: the engine does not answer, so the
            container may still run: Nova must keep its addresses; or with
            another reason for which something of the server is left
        """
        if resize.reverting_here(context, instance):
            return
        try:
            self._consoles.close(instance.uuid)
            self._containers.destroy(instance.uuid, self._rescue.release)
            self._moves.forget(instance.uuid)
            self._volumes.release(instance.uuid)
            self._ephemerals.remove(instance.uuid)
            crash_points.reached('destroyed')
        except exception.EngineUnavailable as e:
            raise nova_exception.InstancePowerOffFailure(
                reason='the Docker engine of the host does not answer; '
                       'delete the server again when it does') from e
        except (exception.NovaVcloudException, OSError,
                processutils.ProcessExecutionError) as e:
            if instance.host not in (None, self._host.name):
                # One that was evacuated: Nova would not start this host.
                LOG.exception('Cannot remove the evacuated instance, which is '
                              'on %s now: remove its container %s by hand',
                              instance.host,
                              container_spec.container_name(instance.uuid),
                              instance=instance)
                return
            raise nova_exception.InstancePowerOffFailure(reason=str(e)) from e

    def cleanup(self, context: nova_context.RequestContext,
                instance: objects.Instance, network_info: Any,
                block_device_info: Any = None, destroy_disks: bool = True,
                migrate_data: Any = None, destroy_vifs: bool = True,
                destroy_secrets: bool = True) -> None:
        """Remove what a server that is gone from here left behind."""
        if destroy_vifs:
            self._network.destroy(instance.uuid)

    # Power

    def _stop_timeout(self, instance: objects.Instance) -> int:
        """Return seconds until SIGKILL, as Nova has it for a power-off."""
        return boot_checks.stop_timeout(instance, CONF.shutdown_timeout)

    def power_off(self, instance: objects.Instance, timeout: int = 0,
                  retry_interval: int = 0) -> None:
        """Stop the server.

        :param timeout: seconds until SIGKILL; 0 kills at once
        """
        with self._nova_errors(instance):
            self._containers.stop(instance.uuid, timeout)

    def power_on(self, context: nova_context.RequestContext,
                 instance: objects.Instance, network_info: Any,
                 block_device_info: Any = None, accel_info: Any = None,
                 share_info: Any = None) -> None:
        """Start the server."""
        with self._nova_errors(instance):
            if self._bring_in(context, instance, network_info,
                              block_device_info):
                return
            self._rescue.prepare(instance.uuid)
            self._have_volumes(instance, block_device_info)
            self._containers.start(instance, network_info)
            # Of one that was made stopped, or whose host died meanwhile.
            self._welcome(instance, None)

    def reboot(self, context: nova_context.RequestContext,
               instance: objects.Instance, network_info: Any,
               reboot_type: str, block_device_info: Any = None,
               bad_volumes_callback: Any = None, accel_info: Any = None,
               share_info: Any = None) -> None:
        """Restart the server; HARD kills and works on a stopped one too."""
        timeout = self._stop_timeout(instance) \
            if reboot_type == 'SOFT' else 0
        with self._nova_errors(instance):
            if self._bring_in(context, instance, network_info,
                              block_device_info):
                return
            self._rescue.prepare(instance.uuid)
            self._have_volumes(instance, block_device_info)
            self._containers.reboot(instance, network_info, timeout)

    def pause(self, instance: objects.Instance) -> None:
        """Freeze the server."""
        with self._nova_errors(instance):
            self._containers.pause(instance.uuid)

    def unpause(self, instance: objects.Instance) -> None:
        """Thaw the server."""
        with self._nova_errors(instance):
            self._containers.unpause(instance.uuid)

    def suspend(self, context: nova_context.RequestContext,
                instance: objects.Instance) -> None:
        """Freeze the server; its memory is kept while the host is up."""
        with self._nova_errors(instance):
            self._containers.pause(instance.uuid)

    def resume(self, context: nova_context.RequestContext,
               instance: objects.Instance, network_info: Any,
               block_device_info: Any = None, share_info: Any = None) -> None:
        """Thaw the server, or start it when its host was rebooted."""
        with self._nova_errors(instance):
            self._have_volumes(instance, block_device_info)
            self._containers.resume(instance, network_info)

    def resume_state_on_host_boot(
            self, context: nova_context.RequestContext,
            instance: objects.Instance, network_info: Any, share_info: Any,
            block_device_info: Any = None) -> None:
        """Start a server that ran before the host was rebooted."""
        if instance.task_state in recovery.GOES_ON:
            return  # and the server runs where that ends
        with self._nova_errors(instance):
            self._rescue.prepare(instance.uuid)
            self._have_volumes(instance, block_device_info)
            self._containers.resume(instance, network_info)

    # Images

    def rescue(self, context: nova_context.RequestContext,
               instance: objects.Instance, network_info: Any,
               image_meta: objects.ImageMeta, rescue_password: str,
               block_device_info: Any, share_info: Any) -> None:
        """Run the server from another image, its disk mounted beside."""
        with self._nova_errors(instance):
            self._rescue.begin(context, instance, image_meta, network_info,
                               file_injection.archive(
                                   instance, network_info,
                                   admin_password=rescue_password))

    def unrescue(self, context: nova_context.RequestContext,
                 instance: objects.Instance) -> None:
        """Run the server from its own disk again."""
        with self._nova_errors(instance):
            self._rescue.end(instance, instance.get_network_info(),
                             self._stop_timeout(instance))

    def snapshot(self, context: nova_context.RequestContext,
                 instance: objects.Instance, image_id: str,
                 update_task_state: Any) -> None:
        """Fill an image with the server's disk, while it runs."""
        with self._snapshots.told(context, instance, image_id), \
                self._nova_errors(instance):
            self._snapshots.take(context, instance, image_id,
                                 update_task_state)

    # Within

    def _emit(self, uuid: str, transition: int) -> None:
        self.emit_event(virtevent.LifecycleEvent(uuid, transition))
