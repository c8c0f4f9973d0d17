# SPDX-License-Identifier: Apache-2.0
"""Life of a server's container: each verb leaves it whole or as it was."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import contextlib
import dataclasses
from typing import Any

from nova import exception as nova_exception
from nova import objects
from oslo_log import log

from nova_vcloud import exception
from nova_vcloud.engine import Engine
from nova_vcloud.virt_docker import crash_points
from nova_vcloud.virt_docker import server_labels
from nova_vcloud.virt_docker.guest import boot_checks
from nova_vcloud.virt_docker.guest import console_log
from nova_vcloud.virt_docker.guest import container_nics
from nova_vcloud.virt_docker.guest import container_spec
from nova_vcloud.virt_docker.guest import etc_files
from nova_vcloud.virt_docker.guest import live_processes
from nova_vcloud.virt_docker.guest import start_faults
from nova_vcloud.virt_docker.guest import stopping
from nova_vcloud.virt_docker.image.images import ImageStore
from nova_vcloud.virt_docker.resources import Resources
from nova_vcloud.virt_docker.vif import addresses
from nova_vcloud.virt_docker.vif.network import Network

LOG = log.getLogger(__name__)

CONSOLE_LIMIT = 100 * 1024  # bytes; what Nova's libvirt driver returns


class Containers(container_nics.Nics):
    """The containers of this host's servers.

    :param host: nova-compute's host name; only containers labelled with it
        are ever listed or touched
    :param binds: says what of the host every container of a server sees, as
        the engine's Binds
    :param stops: how servers are stopped
    :param mapped: tells whether containers have user namespaces
    """

    def __init__(self, engine: Engine, network: Network, images: ImageStore,
                 resources: Resources, defaults: container_spec.Defaults,
                 host: str,
                 binds: Callable[[str], Iterable[str]] | None = None,
                 stops: stopping.Stops | None = None,
                 mapped: Callable[[], bool] = lambda: False) -> None:
        self._engine = engine
        self._network = network
        self._images = images
        self._resources = resources
        self._defaults = defaults
        self._host = host
        self._binds = binds or (lambda _uuid: ())
        self._stops = stops or stopping.Stops(engine)
        self._mapped = mapped
        self._own_starts: set[str] = set()
        self._etc = etc_files.EtcFiles()
        self._processes = live_processes.LiveProcesses(mapped)

    # What is there

    def list(self) -> dict[str, dict[str, Any]]:
        """Return {server uuid: container as listed by the engine}."""
        found = self._engine.containers(server_labels.of_host(self._host))
        return {c['Labels'][server_labels.UUID]: c for c in found
                if not container_spec.is_parked(c)}

    def applications(self) -> dict[str, str]:
        """Return {server uuid: label of its application}, of those with."""
        return {uuid: container['Labels'][server_labels.APPLICATION]
                for uuid, container in self.list().items()
                if container['Labels'].get(server_labels.APPLICATION)}

    def inspect(self, uuid: str) -> dict[str, Any]:
        """Return the engine's description of a server's container.

        One that is parked is the server when there is no other: what should
        have taken its place was cut off.

        :raises ContainerNotFound: the server has no container here
        """
        try:
            return self._inspect(container_spec.container_name(uuid))
        except exception.ContainerNotFound:
            return self._inspect(container_spec.parked_name(uuid))

    def _inspect(self, name: str) -> dict[str, Any]:
        container = self._engine.container(name)
        found = container['Config']['Labels'] or {}
        if found.get(server_labels.HOST) != self._host:
            raise exception.ContainerNotFound(
                f'Container {container["Name"]} is not of host {self._host}')
        return container

    def running(self, uuid: str) -> bool:
        """Tell whether the server's first process lives, frozen or not."""
        try:
            return bool(self.inspect(uuid)['State']['Running'])
        except exception.ContainerNotFound:
            return False

    # Life

    def spawn(self, context: Any, instance: objects.Instance,
              image_meta: objects.ImageMeta, network_info: Any,
              seed: bytes, power_on: bool = True,
              application: str = '') -> None:
        """Make and start the container; on failure nothing of it is left.

        :param seed: tar of what a new server finds in its files
        :param application: label of the one the server is of; '' for none
        """
        boot_checks.check_image(instance)
        # Nova's record names the first one, also where another is meant.
        image_id = (image_meta.id if 'id' in image_meta else None) \
            or instance.image_ref
        with self._images.building(image_id):
            tag = self._image(context, instance, image_id, image_meta)
            crash_points.reached('image')
            self._build(
                instance, tag, image_id, network_info, power_on, application,
                lambda name: boot_checks.fill(self._engine, name, seed))
            crash_points.reached('end')

    def adopt(self, instance: objects.Instance, tag: str, image_id: str,
              network_info: Any, power_on: bool, application: str,
              fill: Callable[[str], None]) -> None:
        """Make a server that comes from elsewhere, and start it.

        On failure nothing is left.

        :param tag: image on the engine
        :param image_id: what Glance knows it by, or what it was made of
        :param fill: puts the server's files into a container of that name,
            which has not run yet
        """
        self._build(instance, tag, image_id, network_info, power_on,
                    application, fill)
        with container_nics.lock(instance.uuid):
            self._renew(instance, addresses.plan(network_info))

    def _build(self, instance: objects.Instance, tag: str, image_id: str,
               network_info: Any, power_on: bool, application: str,
               fill: Callable[[str], None]) -> None:
        nics = addresses.plan(network_info)
        with container_nics.lock(instance.uuid), \
                contextlib.ExitStack() as undo:
            undo.callback(self._undo, self._network.destroy, instance.uuid)
            self._network.plug(instance.uuid, nics, up=power_on)
            crash_points.reached('namespace')
            made = self._make(undo, instance, tag, image_id, nics,
                              application)
            fill(container_spec.container_name(instance.uuid))
            crash_points.reached('inject')
            if power_on:
                self._begin(instance.uuid, made)
            crash_points.reached('start')
            undo.pop_all()

    def _image(self, context: Any, instance: objects.Instance,
               image_id: str, image_meta: objects.ImageMeta) -> str:
        """Have an image on the engine; return its tag.

        One that was there, and which someone has removed since, is loaded
        again.
        """
        def ensure() -> str:
            return self._images.ensure(
                context, image_id, image_meta,
                root_gb=instance.flavor.root_gb, instance=instance)
        tag = ensure()
        if self._engine.image_get(tag) is None:
            self._images.forget(image_id)
            tag = ensure()
        return tag

    def _make(self, undo: contextlib.ExitStack, instance: objects.Instance,
              tag: str, image_id: str, nics: tuple[addresses.Nic, ...],
              application: str,
              binds: Iterable[str] = (), own: bool = True) -> str:
        """Make the container in its namespace, with its limits.

        :param undo: is given the way back
        :param own: whether the image is the server's
        :returns: its id
        """
        with self._resources.allotted(instance, instance.flavor,
                                      nics) as wanted:
            body = container_spec.build(
                instance, tag, nics, wanted.limits, dataclasses.replace(
                    self._defaults, most_files=self._processes.most_files(
                        self._defaults.most_files)),
                self._host, application,
                [*binds, *self._binds(instance.uuid)], image_id,
                boot_checks.properties(instance, own))
            body['HostConfig'] |= self._resources.at_creation(wanted)
            boot_checks.check_devices(body, self._mapped())
            boot_checks.check_init(body)
            with start_faults.explained():
                container_id = self._engine.create(
                    container_spec.container_name(instance.uuid), body)
            undo.callback(self._undo, self._remove, instance.uuid)
            crash_points.reached('create')
            self._network.join(instance.uuid, container_id)
            crash_points.reached('join')
            self._keep(instance.uuid, wanted, container_id, nics)
        crash_points.reached('limits')
        return container_id

    def _begin(self, uuid: str, container_id: str) -> None:
        """Start a container that was just made."""
        self._own_start(uuid, container_id)
        self._resources.verify(uuid)

    def destroy(self, uuid: str,
                release: Callable[[str], None] | None = None) -> None:
        """Remove the containers and the network; absent parts are fine.

        Who waits for the server to end, a reboot or a move, waits no longer.

        :param release: ends what the container has of the one that is parked
        """
        with self._stops.urgent(uuid), container_nics.lock(uuid):
            self._remove(uuid)
            if release:
                release(uuid)
            self._drop(uuid, container_spec.parked_name(uuid))
            self._network.destroy(uuid)

    def _remove(self, uuid: str) -> None:
        self._own_starts.discard(uuid)
        self._etc.forget(uuid)
        self._resources.settle(uuid)
        self._drop(uuid, container_spec.container_name(uuid))
        # Not before: its CPUs are in use as long as it is there.
        self._resources.forget(uuid)

    def _drop(self, uuid: str, name: str) -> None:
        """Remove a container of a server; absent is fine."""
        with contextlib.suppress(exception.ContainerNotFound):
            container_id = self._inspect(name)['Id']
            with contextlib.suppress(exception.ContainerNotFound):
                self._engine.remove(container_id)
            self._network.forget(container_id)
            self._processes.forget(container_id)
            self._resources.forget_container(uuid, container_id)

    # One that waits while another is the server

    def park(self, uuid: str) -> None:
        """Put a stopped container aside; one that is parked already is fine.

        :raises ContainerNotFound: the server has no container here
        """
        try:
            container = self._inspect(container_spec.container_name(uuid))
        except exception.ContainerNotFound:
            self._inspect(container_spec.parked_name(uuid))
        else:
            self._engine.rename(container['Id'],
                                container_spec.parked_name(uuid))

    def parked(self, uuid: str) -> bool:
        """Tell whether a container of a server is put aside."""
        try:
            self._inspect(container_spec.parked_name(uuid))
        except exception.ContainerNotFound:
            return False
        return True

    def unpark(self, uuid: str) -> None:
        """Make the container that was put aside the server again.

        What took its place is removed. None is parked: fine.
        """
        try:
            parked = self._inspect(container_spec.parked_name(uuid))
        except exception.ContainerNotFound:
            return
        self._own_starts.discard(uuid)
        self._resources.settle(uuid)
        self._drop(uuid, container_spec.container_name(uuid))
        self._engine.rename(parked['Id'], container_spec.container_name(uuid))

    def drop_parked(self, uuid: str) -> None:
        """Remove the container that was put aside; none is fine."""
        with container_nics.lock(uuid):
            self._drop(uuid, container_spec.parked_name(uuid))

    def leave(self, uuid: str) -> None:
        """Give back what a server that moves has here, but its container."""
        with container_nics.lock(uuid):
            self.park(uuid)
            crash_points.reached('park')
            self._network.destroy(uuid)
            self._resources.forget(uuid)

    def restore(self, instance: objects.Instance, network_info: Any,
                power_on: bool) -> None:
        """Have a server here that did not move, or has come back."""
        nics, uuid = addresses.plan(network_info), instance.uuid
        with container_nics.lock(uuid):
            self.unpark(uuid)
            container = self.inspect(uuid)
            if power_on:
                self._start(instance, container, nics)
            else:
                self._network.plug(uuid, nics, up=False)
                self._join(instance, container)
                self._settle(instance, container, nics)

    def _own(self, uuid: str) -> dict[str, Any]:
        """Return a server's container, under the server's own name.

        :raises ServerLost: there is none any more
        """
        try:
            container = self.inspect(uuid)
        except exception.ContainerNotFound as e:
            raise exception.ServerLost(
                'the container of the server, and its root disk with it, '
                'have been removed from the host behind Nova; rebuild the '
                'server to have it anew from its image') from e
        if container['Name'] == f'/{container_spec.parked_name(uuid)}':
            self._engine.rename(container['Id'],
                                container_spec.container_name(uuid))
        return container

    def rebuild(self, context: Any, instance: objects.Instance,
                image_meta: objects.ImageMeta, network_info: Any,
                seed: bytes, timeout: int,
                renew: Callable[[contextlib.ExitStack], None] | None = None,
                application: Callable[[], str] = str) -> None:
        """Make the server anew from another image, where and as it is.

        On failure the old one goes on. A server whose container somebody has
        removed has none.

        :param timeout: seconds between the stop signal and SIGKILL
        :param renew: of :meth:`replace`
        :param application: tells the label of the one that a server
            without a container is of
        """
        boot_checks.check_image(instance, anew=True)
        try:
            self.inspect(instance.uuid)
        except exception.ContainerNotFound:
            LOG.warning('The container of the server is gone: it is made '
                        'anew, and what was on its root disk is lost',
                        instance=instance)
            self._build_lost(context, instance, image_meta, network_info,
                             seed, renew, application())
            return
        self.replace(context, instance, instance.image_ref, image_meta,
                     network_info, seed, timeout, renew=renew)
        crash_points.reached('replaced')
        self.drop_parked(instance.uuid)

    def _build_lost(self, context: Any, instance: objects.Instance,
                    image_meta: objects.ImageMeta, network_info: Any,
                    seed: bytes,
                    renew: Callable[[contextlib.ExitStack], None] | None,
                    application: str) -> None:
        """Make a server whose container is gone, and start it."""
        uuid, image_id = instance.uuid, instance.image_ref
        with self._images.building(image_id), contextlib.ExitStack() as undo:
            tag = self._image(context, instance, image_id, image_meta)
            with container_nics.lock(uuid):
                # Of the one that is gone.
                self._network.destroy(uuid)
                self._resources.forget(uuid)
                self._etc.forget(uuid)
                if renew:
                    renew(undo)
            self._build(instance, tag, image_id, network_info, True,
                        application, lambda name: boot_checks.fill(
                            self._engine, name, seed))
            undo.pop_all()

    def replace(self, context: Any, instance: objects.Instance,
                image_id: str, image_meta: objects.ImageMeta,
                network_info: Any, seed: bytes, timeout: int,
                binds: Callable[[dict[str, Any]], Iterable[str]] | None = None,
                renew: Callable[[contextlib.ExitStack], None] | None = None
                ) -> None:
        """Start another container in a server's place, and park the old one.

        :param timeout: seconds between the stop signal and SIGKILL
        :param binds: says what the new one sees of the old, as the engine's
            Binds
        :param renew: makes what else is new while none runs; is given where
            to leave the way back
        """
        with self._images.building(image_id):
            tag = self._image(context, instance, image_id, image_meta)
            nics, uuid = addresses.plan(network_info), instance.uuid
            with container_nics.lock(uuid), contextlib.ExitStack() as undo:
                old = self._own(uuid)
                label = old['Config']['Labels'].get(
                    server_labels.APPLICATION) or ''
                undo.callback(self._undo, lambda _uuid: self._go_on(
                    instance, nics, old['State']), uuid)
                self._stop(old, timeout)
                self.park(uuid)
                undo.callback(self._undo, self.unpark, uuid)
                crash_points.reached('parked')
                if renew:
                    renew(undo)
                self._network.plug(uuid, nics, up=True)
                made = self._make(undo, instance, tag, image_id, nics, label,
                                  binds(old) if binds else (),
                                  own=image_id == instance.image_ref)
                boot_checks.fill(self._engine,
                                 container_spec.container_name(uuid), seed)
                self._begin(uuid, made)
                undo.pop_all()

    def _go_on(self, instance: objects.Instance,
               nics: tuple[addresses.Nic, ...],
               state: Mapping[str, Any]) -> None:
        """Let a server be in the state that it was in."""
        container = self._own(instance.uuid)
        if state['Running']:
            self._start(instance, container, nics)
            if state['Paused']:
                self._engine.pause(container['Id'])
        else:
            self._network.set_carrier(instance.uuid, False)
            self._settle(instance, container, nics)

    def start(self, instance: objects.Instance, network_info: Any) -> None:
        """Start a stopped container in its namespace, re-made if need be."""
        nics = addresses.plan(network_info)
        with container_nics.lock(instance.uuid):
            self._start(instance, self._own(instance.uuid), nics)

    def _start(self, instance: objects.Instance, container: dict[str, Any],
               nics: tuple[addresses.Nic, ...]) -> None:
        uuid = instance.uuid
        self._network.plug(uuid, nics, up=True)
        self._join(instance, container)
        self._settle(instance, container, nics)
        if container['State']['Paused']:
            self._engine.unpause(container['Id'])
        try:
            self._own_start(uuid, container['Id'])
        except (exception.EngineError, exception.InvalidRequest):
            if not self.running(uuid):
                self._network.set_carrier(uuid, False)
            raise
        try:
            self._resources.verify(uuid)
        except exception.LimitNotEnforced:
            # Better no server than one without its limits.
            self._engine.stop(container['Id'], 0)
            raise
        self._renew(instance, nics)
        self._follow(instance, container)

    def resize(self, instance: objects.Instance, flavor: objects.Flavor,
               network_info: Any) -> None:
        """Change the limits of a server where it is, while it runs.

        :raises LimitNotEnforced: with the reason; all is as it was before
        """
        nics = addresses.plan(network_info)
        with container_nics.lock(instance.uuid):
            container = self.inspect(instance.uuid)
            with self._resources.allotted(instance, flavor, nics) as wanted:
                self._resources.check_live(instance.uuid, wanted)
                self._processes.follow(container, live_processes.wanted(
                    instance, flavor,
                    self._processes.most_files(self._defaults.most_files)))
                self._keep(instance.uuid, wanted, container['Id'], nics)

    def _own_start(self, uuid: str, container_id: str) -> None:
        self._own_starts.add(uuid)
        try:
            self._resources.make_room(container_id)
            with start_faults.explained():
                self._engine.start(container_id)
        except BaseException:
            self._own_starts.discard(uuid)
            self._resources.end_room(container_id)
            raise

    def claim_start(self, uuid: str) -> bool:
        """Tell, once, whether the last start was ours.

        Nova knows of what it asked for: telling it again would only cost it
        work, in the middle of a build.
        """
        try:
            self._own_starts.remove(uuid)
        except KeyError:
            return False
        return True

    def stop(self, uuid: str, timeout: int) -> None:
        """Stop the container and take its link down.

        :param timeout: seconds between the stop signal and SIGKILL
        """
        with container_nics.lock(uuid):
            self._stop(self.inspect(uuid), timeout)
            self._network.set_carrier(uuid, False)

    def _stop(self, container: dict[str, Any], timeout: int) -> None:
        if container['State']['Paused']:
            self._engine.unpause(container['Id'])
        uuid = container['Config']['Labels'][server_labels.UUID]
        self._stops.stop(uuid, container['Id'], timeout)
        # Should the event of that start have been lost, with the engine.
        self._own_starts.discard(uuid)

    def reboot(self, instance: objects.Instance, network_info: Any,
               timeout: int) -> None:
        """Stop and start; NICs, namespace and limits are checked between."""
        nics = addresses.plan(network_info)
        with container_nics.lock(instance.uuid):
            container = self._own(instance.uuid)
            self._stop(container, timeout)
            self._start(instance, self.inspect(instance.uuid), nics)

    def pause(self, uuid: str) -> None:
        """Freeze the server's processes; frozen already is fine."""
        with container_nics.lock(uuid):
            container = self.inspect(uuid)
            if not container['State']['Paused']:
                self._engine.pause(container['Id'])

    def unpause(self, uuid: str) -> None:
        """Thaw the server's processes; not frozen is fine."""
        with container_nics.lock(uuid):
            container = self.inspect(uuid)
            if container['State']['Paused']:
                self._engine.unpause(container['Id'])

    def resume(self, instance: objects.Instance, network_info: Any) -> None:
        """Thaw a frozen server, or start one whose host rebooted."""
        if self.running(instance.uuid):
            self.unpause(instance.uuid)
        else:
            self.start(instance, network_info)

    # Limits

    def follow(self, uuid: str) -> bool:
        """Set link and limits as the container's state wants them.

        :returns: whether the server runs
        """
        with container_nics.lock(uuid):
            running = self.running(uuid)
            self._network.set_carrier(uuid, running)
            if running:
                self._verify_known(uuid)
            return running

    def verify(self, uuid: str) -> None:
        """Repair the limits of a server that someone else changed."""
        with container_nics.lock(uuid):
            self._verify_known(uuid)

    def _verify_known(self, uuid: str) -> None:
        try:
            self._resources.verify(uuid)
        except exception.NoSuchRecord:
            LOG.info('Server %s has no limits here yet', uuid)
        except exception.LimitNotEnforced as e:
            LOG.error('Limits of server %s are not kept: %s', uuid, e)

    # Looking inside

    def console(self, uuid: str) -> bytes:
        """Return the end of the console log, at most CONSOLE_LIMIT bytes."""
        container = self.inspect(uuid)
        path = container.get('LogPath')
        said = console_log.tail(path, CONSOLE_LIMIT) if path else None
        return self._engine.logs(container['Id'], CONSOLE_LIMIT) \
            if said is None else said

    @staticmethod
    def _undo(action: Callable[[str], None], uuid: str) -> None:
        """Run one step back; its failure must not hide the first error."""
        try:
            action(uuid)
        except (exception.NovaVcloudException,
                nova_exception.NovaException, OSError):
            LOG.exception('Could not undo %s of server %s; deleting the '
                          'server will try again', action.__name__, uuid)
