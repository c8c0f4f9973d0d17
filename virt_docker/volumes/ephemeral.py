# SPDX-License-Identifier: Apache-2.0
"""Ephemeral disks: files of the host that come and go with a server.

To all that attaches volumes each is one more, whose storage is this host.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import string
import subprocess
from typing import IO
from typing import Any
from typing import cast

from nova import block_device
from nova import context as nova_context
from nova import objects
from nova.virt import driver
from oslo_log import log
from oslo_utils import units

from nova_vcloud import exception
from nova_vcloud.transfer import channels
from nova_vcloud.transfer import transport
from nova_vcloud.virt_docker.rootfs import received
from nova_vcloud.virt_docker.volumes import commands
from nova_vcloud.virt_docker.volumes import filesystems

LOG = log.getLogger(__name__)

#: Names of files, as Nova's libvirt driver has them.
FILE = 'disk.eph{}'
_FILES = 'disk.eph[0-9]*'
_NAME = re.compile(r'disk\.eph\d+')
#: Of one that another has replaced, until that is known to stay.
_OLD = '.old'
#: Of one that is not whole.
_NEW = '.new'
#: Directory in which one that another host has sent is unpacked.
_ARRIVING = 'arriving'
#: {filesystem: words before the label}; none of them asks.
_MAKE = {'xfs': ('-q', '-f', '-L'), 'ext4': ('-q', '-F', '-L'),
         'btrfs': ('-q', '-f', '-L')}


@dataclasses.dataclass(frozen=True)
class Disk:
    """An ephemeral disk that a server is to have.

    :ivar number: among those of the server, from 0
    :ivar device: its name, such as /dev/vdb
    :ivar size: bytes
    :ivar kind: of its filesystem; '' for the host's choice
    """

    number: int
    device: str
    size: int
    kind: str = ''

    @property
    def label(self) -> str:
        """Name of its filesystem, by which cloud-init knows it."""
        return f'ephemeral{self.number}'

    @property
    def file(self) -> str:
        """Name of its file."""
        return FILE.format(self.number)


def wanted(instance: objects.Instance, block_device_info: Any) -> list[Disk]:
    """Return the ephemeral disks that a server is to have.

    The name of one that no mapping tells of is noted in the instance, where
    Nova looks before it gives that name to a volume.

    :param block_device_info: Nova's
    """
    # In an order that does not depend on Nova's.
    found = sorted(
        driver.block_device_info_get_ephemerals(block_device_info),
        key=lambda each: (len(each['device_name']), each['device_name']))
    disks = [Disk(number, each['device_name'], each['size'] * units.Gi,
                  each['guest_format'] or '')
             for number, each in enumerate(found)]
    size = instance.flavor.ephemeral_gb
    if disks or not size:
        return disks
    # Nova makes no mapping when a flavor's first one comes by a resize.
    if not instance.default_ephemeral_device:
        instance.default_ephemeral_device = _free_name(block_device_info)
    return [Disk(0, instance.default_ephemeral_device, size * units.Gi)]


def _free_name(block_device_info: Any) -> str:
    swap = driver.block_device_info_get_swap(block_device_info)
    taken = {block_device.strip_dev(name) for name in (
        '/dev/vda', swap['device_name'],
        *(volume['mount_device'] for volume in
          driver.block_device_info_get_mapping(block_device_info)))}
    return next(f'/dev/vd{letter}' for letter in string.ascii_lowercase
                if f'vd{letter}' not in taken)


def grown(sizes: Collection[int], old_gb: int, new_gb: int) -> int:
    """Return the bytes that a server's only disk grows to; 0: none does.

    Of several disks, or one that was asked to be smaller than the flavor
    allowed, nobody can say which is to be larger.

    :param sizes: bytes, of the disks there are
    :param old_gb: GiB of all of them in the flavor that the server had
    :param new_gb: GiB in the flavor that it has
    """
    alone = tuple(sizes) == (old_gb * units.Gi,)
    return new_gb * units.Gi if alone and new_gb > old_gb else 0


def most(instance: objects.Instance) -> int:
    """Return the bytes that disks of a server that has moved may have.

    They grow only once they are here.
    """
    before = instance.old_flavor or instance.flavor
    return max(before.ephemeral_gb, instance.flavor.ephemeral_gb) * units.Gi


def note_growth(context: nova_context.RequestContext,
                instance: objects.Instance) -> None:
    """Have Nova know the size of a disk that has grown with its flavor."""
    if not instance.old_flavor:
        return
    mappings = objects.BlockDeviceMappingList.get_by_instance_uuid(
        context, instance.uuid)
    found = [each for each in mappings
             if block_device.new_format_is_ephemeral(each)]
    size = grown([(each.volume_size or 0) * units.Gi for each in found],
                 instance.old_flavor.ephemeral_gb,
                 instance.flavor.ephemeral_gb)
    if size:
        found[0].volume_size = size // units.Gi
        found[0].save()


class Store:
    """Files of ephemeral disks of this host's servers.

    :param folder: of a directory for each server
    :param default: filesystem of a disk of which Nova does not say
    :param allowed: filesystems that a disk may have
    :param whole: whether a file takes all its space from the beginning
    """

    def __init__(self, folder: str, default: str,
                 allowed: Iterable[str] = tuple(filesystems.OPTIONS),
                 whole: bool = False) -> None:
        self._folder = pathlib.Path(folder)
        self._default = default
        self._allowed = tuple(allowed)
        self._whole = whole

    def _path(self, uuid: str, name: str = '') -> pathlib.Path:
        return self._folder / uuid / name

    def _files(self, uuid: str) -> list[pathlib.Path]:
        return sorted(path for path in self._path(uuid).glob(_FILES)
                      if path.suffix not in (_OLD, _NEW))

    def names(self, uuid: str) -> list[str]:
        """Return the names of the files of a server's disks."""
        return [path.name for path in self._files(uuid)]

    def sizes(self, uuid: str) -> list[int]:
        """Return the bytes that a server's disks have."""
        return [path.stat().st_size for path in self._files(uuid)]

    def used(self, uuid: str) -> int:
        """Return the bytes that a server's disks take of the host."""
        return sum(path.stat().st_blocks * 512 for path in self._files(uuid))

    def volume(self, uuid: str, disk: Disk) -> dict[str, Any]:
        """Return a disk as one of Nova's block_device_mapping."""
        return {'mount_device': disk.device, 'connection_info': {
            'driver_volume_type': 'local', 'serial': disk.label,
            'data': {'device_path': str(self._path(uuid, disk.file))}}}

    # As a server begins and ends

    @contextlib.contextmanager
    def new(self, uuid: str, disks: Iterable[Disk]) -> Iterator[None]:
        """Have new disks for a server that is made; or none, and no server.

        :raises InvalidRequest: this host cannot make one; with the reason
        """
        self.remove(uuid)
        try:
            self.make(uuid, disks)
            yield
        except BaseException:
            self.remove(uuid)
            raise

    def make(self, uuid: str, disks: Iterable[Disk]) -> None:
        """Make the files of disks, with a filesystem on each.

        :raises InvalidRequest: this host cannot; with the reason
        :raises VolumeError: it has no room, say
        """
        for disk in disks:
            self._check(disk)
            path = self._path(uuid, disk.file)
            new = path.with_name(path.name + _NEW)
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            try:
                with new.open('wb') as f:
                    os.fchmod(f.fileno(), 0o600)
                    f.truncate(disk.size)
                self._format(new, disk)
                self._fill(new)
                new.replace(path)
            except OSError as e:
                raise exception.VolumeError(
                    f'no ephemeral disk can be made: {path}: {e.strerror}'
                ) from e
            finally:
                new.unlink(missing_ok=True)

    def _fill(self, path: pathlib.Path) -> None:
        """Have the space of a file, if that is wanted; its data stay.

        Not before there is a filesystem: mkfs gives space back.

        :raises VolumeError: there is none
        """
        if self._whole:
            try:
                with path.open('r+b') as f:
                    os.posix_fallocate(f.fileno(), 0, path.stat().st_size)
            except OSError as e:
                raise exception.VolumeError(
                    f'no space for an ephemeral disk: {e.strerror}') from e

    def _kind(self, disk: Disk) -> str:
        return disk.kind or self._default

    def _check(self, disk: Disk) -> None:
        kind = self._kind(disk)
        if kind not in self._allowed:
            raise exception.InvalidRequest(
                f'an ephemeral disk cannot have the filesystem {kind} on '
                f'this host: it knows {", ".join(self._allowed)}')
        if not shutil.which(f'mkfs.{kind}', path=filesystems.PROGRAMS):
            raise exception.InvalidRequest(
                'no ephemeral disk can be made on this host: there is no '
                f'mkfs.{kind}')

    def _format(self, path: pathlib.Path, disk: Disk) -> None:
        kind = self._kind(disk)
        try:
            commands.run(f'mkfs.{kind}', *_MAKE[kind], disk.label, str(path))
        except exception.VolumeError as e:
            raise exception.InvalidRequest(
                f'no ephemeral disk can be made on this host: {e}') from e

    def have(self, uuid: str, disks: Iterable[Disk],
             known: Collection[str]) -> None:
        """Have the disks of a server that starts.

        One that the server never had is made, such as that of a flavor of
        before this driver made any.

        :param known: devices that the server has had
        """
        for old in self._path(uuid).glob(_FILES + _OLD):
            # A rebuild was cut off: what it has made by then is there.
            path = old.with_suffix('')
            old.unlink() if path.exists() else old.replace(path)
        for disk in disks:
            if block_device.strip_dev(disk.device) not in known \
                    and not self._path(uuid, disk.file).exists():
                LOG.info('Server %s gets an ephemeral disk %s', uuid,
                         disk.device)
                self.make(uuid, [disk])

    def remove(self, uuid: str) -> None:
        """Remove the files of a server's disks; none is fine."""
        for path in self._path(uuid).glob(_FILES):
            path.unlink(missing_ok=True)
        received.remove(str(self._path(uuid, _ARRIVING)))
        with contextlib.suppress(OSError):  # not ours alone, or not there
            self._path(uuid).rmdir()

    # While another takes its place

    def put_aside(self, uuid: str) -> None:
        """Make room for new disks; :meth:`take_back` undoes it."""
        for path in self._files(uuid):
            path.replace(path.with_name(path.name + _OLD))

    def take_back(self, uuid: str) -> None:
        """Have the disks that were put aside; none is fine."""
        for old in self._path(uuid).glob(_FILES + _OLD):
            old.replace(old.with_suffix(''))

    def drop_old(self, uuid: str) -> None:
        """Give up the way back; none is fine."""
        for old in self._path(uuid).glob(_FILES + _OLD):
            old.unlink(missing_ok=True)

    # On the way to another host

    def send(self, uuid: str, delivery: transport.Delivery) -> None:
        """Send the disks of a server that has given them up; holes stay.

        :raises MoveFailed: with the reason
        """
        for path in self._files(uuid):
            words = ['tar', '--create', '--sparse', '--file', '-',
                     '--directory', str(path.parent), '--', path.name]
            with subprocess.Popen(words, stdout=subprocess.PIPE) as tar:
                size = delivery.put(packed(path.name), _chunks(tar))
            if tar.returncode:
                raise exception.MoveFailed(f'tar could not read {path}')
            LOG.info('%d bytes sent of %s', size, path)

    @contextlib.contextmanager
    def arrived(self, uuid: str, folder: str, names: Iterable[str],
                most: int) -> Iterator[None]:
        """Have the disks of a server that another host has sent; or none.

        What an earlier attempt left is replaced.

        :param folder: where they lie
        :param names: of the files that there were
        :param most: bytes that all of them may have
        :raises MoveFailed: with the reason
        """
        self.remove(uuid)
        try:
            for name in names:
                most -= self._unpack(uuid, name, most, os.path.join(
                    folder, packed(name)))
            yield
        except BaseException:
            self.remove(uuid)
            raise

    def _unpack(self, uuid: str, name: str, most: int, source: str) -> int:
        """Have the file of a disk; return its bytes."""
        if not _NAME.fullmatch(name):
            raise exception.MoveFailed(f'{name!r} is no ephemeral disk')
        new = self._path(uuid, _ARRIVING)
        new.mkdir(mode=0o755, parents=True)
        received.unpack_file(source, str(new), name, most)
        size = (new / name).stat().st_size
        self._fill(new / name)
        (new / name).replace(self._path(uuid, name))
        new.rmdir()
        return size

    def enlarge(self, uuid: str, old_gb: int, new_gb: int) -> str:
        """Let a server's only disk be as large as its new flavor says.

        :param old_gb: GiB of all disks in the flavor that the server had
        :param new_gb: GiB in the flavor that it has
        :returns: what Cinder would call it; '' for none that has grown
        """
        size = grown(self.sizes(uuid), old_gb, new_gb)
        if not size:
            return ''
        path, = self._files(uuid)
        os.truncate(path, size)
        self._fill(path)
        LOG.info('Server %s: %s has %d GiB now', uuid, path, new_gb)
        return f'ephemeral{path.name.removeprefix(FILE.format(""))}'


def packed(name: str) -> str:
    """Return the name under which a file of a disk is sent."""
    return f'{name}.tar'


def _chunks(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    out = cast('IO[bytes]', process.stdout)
    return iter(lambda: out.read(channels.CHUNK), b'')
