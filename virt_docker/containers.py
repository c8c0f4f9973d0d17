# SPDX-License-Identifier: Apache-2.0
"""Life of a server's container: each verb leaves it whole or as it was."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import io
import tarfile
from typing import Any

from nova import exception as nova_exception
from nova import objects
from oslo_concurrency import lockutils
from oslo_log import log

from nova_vcloud import exception
from nova_vcloud.engine import Engine
from nova_vcloud.virt_docker import addresses
from nova_vcloud.virt_docker import spec
from nova_vcloud.virt_docker import steps
from nova_vcloud.virt_docker.images import ImageStore
from nova_vcloud.virt_docker.resources import Allotment
from nova_vcloud.virt_docker.resources import Resources
from nova_vcloud.virt_docker.vif.network import Network

LOG = log.getLogger(__name__)

CONSOLE_LIMIT = 100 * 1024  # bytes; what Nova's libvirt driver returns


def lock(uuid: str) -> contextlib.AbstractContextManager[Any]:
    """Serialise what this process does to one server."""
    return lockutils.lock(f'vcloud-server-{uuid}')


class Containers:
    """The containers of this host's servers.

    :param host: nova-compute's host name; only containers labelled with it
        are ever listed or touched
    """

    def __init__(self, engine: Engine, network: Network, images: ImageStore,
                 resources: Resources, defaults: spec.Defaults,
                 host: str) -> None:
        self._engine = engine
        self._network = network
        self._images = images
        self._resources = resources
        self._defaults = defaults
        self._host = host
        self._own_starts: set[str] = set()

    # What is there

    def list(self) -> dict[str, dict[str, Any]]:
        """Return {server uuid: container as listed by the engine}."""
        found = self._engine.containers(spec.own_labels(self._host))
        return {c['Labels'][spec.LABEL_UUID]: c for c in found}

    def applications(self) -> dict[str, str]:
        """Return {server uuid: label of its application}, of those with."""
        return {uuid: container['Labels'][spec.LABEL_APPLICATION]
                for uuid, container in self.list().items()
                if spec.LABEL_APPLICATION in container['Labels']}

    def inspect(self, uuid: str) -> dict[str, Any]:
        """Return the engine's description of a server's container.

        :raises ContainerNotFound: the server has no container here
        """
        container = self._engine.container(spec.container_name(uuid))
        found = container['Config']['Labels'] or {}
        if found.get(spec.LABEL_HOST) != self._host:
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
              files: dict[str, bytes], power_on: bool = True,
              application: str = '') -> None:
        """Make and start the container; on failure nothing of it is left.

        :param files: {absolute path in the guest: content}
        :param application: label of the one the server is of; '' for none
        """
        tag = self._images.ensure(context, instance.image_ref, image_meta,
                                  root_gb=instance.flavor.root_gb,
                                  instance=instance)
        steps.reached('image')
        nics = addresses.plan(network_info)
        with lock(instance.uuid), contextlib.ExitStack() as undo:
            undo.callback(self._undo, self._network.destroy, instance.uuid)
            self._network.plug(instance.uuid, nics, up=power_on)
            steps.reached('namespace')
            with self._resources.allotted(instance, instance.flavor,
                                          nics) as wanted:
                body = spec.build(instance, tag, nics, wanted.limits,
                                  self._defaults, self._host, application)
                container_id = self._create(context, instance, image_meta,
                                            body)
                undo.callback(self._undo, self._remove, instance.uuid)
                steps.reached('create')
                self._network.join(instance.uuid, container_id)
                steps.reached('join')
                self._keep(instance.uuid, wanted, container_id, nics)
            steps.reached('limits')
            if files:
                self._engine.put_archive(container_id, '/', _tar(files))
            steps.reached('inject')
            if power_on:
                self._own_start(instance.uuid, container_id)
                self._resources.verify(instance.uuid)
            steps.reached('start')
            undo.pop_all()
        steps.reached('end')

    def _keep(self, uuid: str, wanted: Allotment, container_id: str,
              nics: Iterable[addresses.Nic]) -> None:
        self._resources.keep(uuid, wanted, container_id,
                             self._defaults.cgroup(container_id), nics)

    def _create(self, context: Any, instance: objects.Instance,
                image_meta: objects.ImageMeta, body: dict[str, Any]) -> str:
        name = spec.container_name(instance.uuid)
        try:
            return self._engine.create(name, body)
        except exception.ImageNotFound:
            # Someone removed the image since we loaded it.
            self._images.forget(instance.image_ref)
            self._images.ensure(context, instance.image_ref, image_meta,
                                root_gb=instance.flavor.root_gb,
                                instance=instance)
            return self._engine.create(name, body)

    def destroy(self, uuid: str) -> None:
        """Remove the container and its network; absent parts are fine."""
        with lock(uuid):
            self._remove(uuid)
            self._network.destroy(uuid)

    def _remove(self, uuid: str) -> None:
        self._own_starts.discard(uuid)
        container_id = None
        with contextlib.suppress(exception.ContainerNotFound):
            container_id = self.inspect(uuid)['Id']
            with contextlib.suppress(exception.ContainerNotFound):
                self._engine.remove(container_id)
            self._network.forget(container_id)
        # Not before: its CPUs are in use as long as it is there.
        self._resources.forget(uuid, container_id)

    def start(self, instance: objects.Instance, network_info: Any) -> None:
        """Start a stopped container in its namespace, re-made if need be."""
        nics = addresses.plan(network_info)
        with lock(instance.uuid):
            self._start(instance, self.inspect(instance.uuid), nics)

    def _start(self, instance: objects.Instance, container: dict[str, Any],
               nics: tuple[addresses.Nic, ...]) -> None:
        uuid = instance.uuid
        self._network.plug(uuid, nics, up=True)
        self._network.join(uuid, container['Id'])
        self._settle(instance, container, nics)
        if container['State']['Paused']:
            self._engine.unpause(container['Id'])
        try:
            self._own_start(uuid, container['Id'])
        except exception.EngineError:
            if not self.running(uuid):
                self._network.set_carrier(uuid, False)
            raise
        try:
            self._resources.verify(uuid)
        except exception.LimitNotEnforced:
            # Better no server than one without its limits.
            self._engine.stop(container['Id'], 0)
            raise

    def _settle(self, instance: objects.Instance, container: dict[str, Any],
                nics: tuple[addresses.Nic, ...]) -> None:
        """Bring a server to the limits of its flavor."""
        with self._resources.allotted(instance, instance.flavor,
                                      nics) as wanted:
            self._keep(instance.uuid, wanted, container['Id'], nics)

    def resize(self, instance: objects.Instance, flavor: objects.Flavor,
               network_info: Any) -> None:
        """Change the limits of a server where it is, while it runs.

        :raises LimitNotEnforced: with the reason; all is as it was before
        """
        nics = addresses.plan(network_info)
        with lock(instance.uuid):
            container = self.inspect(instance.uuid)
            with self._resources.allotted(instance, flavor, nics) as wanted:
                self._resources.check_live(instance.uuid, wanted)
                self._keep(instance.uuid, wanted, container['Id'], nics)

    def _own_start(self, uuid: str, container_id: str) -> None:
        self._own_starts.add(uuid)
        try:
            self._engine.start(container_id)
        except BaseException:
            self._own_starts.discard(uuid)
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
        with lock(uuid):
            self._stop(self.inspect(uuid), timeout)
            self._network.set_carrier(uuid, False)

    def _stop(self, container: dict[str, Any], timeout: int) -> None:
        if container['State']['Paused']:
            self._engine.unpause(container['Id'])
        self._engine.stop(container['Id'], timeout)
        # Should the event of that start have been lost, with the engine.
        self._own_starts.discard(container['Config']['Labels']
                                 [spec.LABEL_UUID])

    def reboot(self, instance: objects.Instance, network_info: Any,
               timeout: int) -> None:
        """Stop and start; NICs, namespace and limits are checked between."""
        nics = addresses.plan(network_info)
        with lock(instance.uuid):
            container = self.inspect(instance.uuid)
            self._stop(container, timeout)
            self._start(instance, self.inspect(instance.uuid), nics)

    def pause(self, uuid: str) -> None:
        """Freeze the server's processes; frozen already is fine."""
        with lock(uuid):
            container = self.inspect(uuid)
            if not container['State']['Paused']:
                self._engine.pause(container['Id'])

    def unpause(self, uuid: str) -> None:
        """Thaw the server's processes; not frozen is fine."""
        with lock(uuid):
            container = self.inspect(uuid)
            if container['State']['Paused']:
                self._engine.unpause(container['Id'])

    def resume(self, instance: objects.Instance, network_info: Any) -> None:
        """Thaw a frozen server, or start one whose host rebooted."""
        if self.running(instance.uuid):
            self.unpause(instance.uuid)
        else:
            self.start(instance, network_info)

    # Network and limits

    def plug(self, instance: objects.Instance, network_info: Any) -> None:
        """Bring NICs and limits to what Neutron and the flavor say."""
        nics, uuid = addresses.plan(network_info), instance.uuid
        with lock(uuid):
            self._network.plug(uuid, nics, up=self.running(uuid))
            with contextlib.suppress(exception.ContainerNotFound):
                self._settle(instance, self.inspect(uuid), nics)

    def unplug(self, uuid: str, network_info: Any) -> None:
        """Remove NICs; absent ones are fine."""
        nics = addresses.plan(network_info)
        with lock(uuid):
            self._network.unplug(uuid, nics)

    def follow(self, uuid: str) -> bool:
        """Set link and limits as the container's state wants them.

        :returns: whether the server runs
        """
        with lock(uuid):
            running = self.running(uuid)
            self._network.set_carrier(uuid, running)
            if running:
                self._verify_known(uuid)
            return running

    def verify(self, uuid: str) -> None:
        """Repair the limits of a server that someone else changed."""
        with lock(uuid):
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
        return self._engine.logs(self.inspect(uuid)['Id'], CONSOLE_LIMIT)

    @staticmethod
    def _undo(action: Callable[[str], None], uuid: str) -> None:
        """Run one step back; its failure must not hide the first error."""
        try:
            action(uuid)
        except (exception.NovaVcloudException,
                nova_exception.NovaException, OSError):
            LOG.exception('Could not undo %s of server %s; deleting the '
                          'server will try again', action.__name__, uuid)


@contextlib.contextmanager
def nova_errors(instance: objects.Instance, host: str) -> Iterator[None]:
    """Turn engine errors into the ones nova-compute knows."""
    try:
        yield
    except exception.ContainerNotFound as e:
        raise nova_exception.InstanceNotFound(instance_id=instance.uuid) from e
    except exception.EngineUnavailable as e:
        LOG.error('The Docker engine does not answer: %s', e,
                  instance=instance)
        raise nova_exception.HypervisorUnavailable(host=host) from e
    except exception.InvalidRequest as e:
        raise nova_exception.BuildAbortException(
            instance_uuid=instance.uuid, reason=str(e)) from e
    except exception.TooManyServers as e:
        # Nova tries the next of the hosts that the scheduler named.
        raise nova_exception.ComputeResourcesUnavailable(
            reason=str(e)) from e
    except (exception.EngineError, exception.LimitNotEnforced,
            exception.NoCpusLeft, exception.StateError) as e:
        raise nova_exception.InternalError(err=str(e)) from e


def _tar(files: dict[str, bytes]) -> bytes:
    """Return a tar of ``files``, owned by root and private."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w') as tar:
        for path, content in files.items():
            for entry in _parents(path):
                tar.addfile(entry)
            member = tarfile.TarInfo(path.lstrip('/'))
            member.size, member.mode = len(content), 0o600
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _parents(path: str) -> Iterator[tarfile.TarInfo]:
    """Yield the private directory of ``path``; the ones above must exist."""
    directory = tarfile.TarInfo(path.strip('/').rpartition('/')[0])
    directory.type, directory.mode = tarfile.DIRTYPE, 0o700
    yield directory
