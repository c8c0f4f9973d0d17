# SPDX-License-Identifier: Apache-2.0
"""What Nova notes of a resize or move, and how it is told of a refusal."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova.compute import task_states
from oslo_log import log
from oslo_utils import units

from nova_vcloud import exception
from nova_vcloud.flavor import boot_keys

LOG = log.getLogger(__name__)


def stays(migration: objects.Migration) -> bool:
    """Tell whether source and destination are the same host."""
    return bool(migration.source_compute == migration.dest_compute)


def of(context: nova_context.RequestContext,
       instance: objects.Instance) -> objects.Migration | None:
    """Return the move a server is in, None when it is in none."""
    if instance.migration_context is None:
        return None
    return objects.Migration.get_by_id_and_instance(
        context, instance.migration_context.migration_id, instance.uuid)


def reverting_here(context: nova_context.RequestContext,
                   instance: objects.Instance) -> bool:
    """Tell whether Nova undoes a resize that never left this host.

    It asks the destination to destroy the server first, which here would be
    the server itself.
    """
    if instance.task_state != task_states.RESIZE_REVERTING:
        return False
    migration = of(context, instance)
    return migration is not None and stays(migration)


def check_disk(old: objects.Flavor, new: objects.Flavor,
               ephemeral: Iterable[int] = ()) -> None:
    """Refuse a smaller disk, as for virtual machines.

    :param ephemeral: bytes, of the disks that the server has
    :raises ResizeError: with both sizes
    """
    there = -(-sum(ephemeral) // units.Gi) or old.ephemeral_gb
    for before, after, what in (
            (old.root_gb, new.root_gb, 'root disk'),
            (there, new.ephemeral_gb, 'ephemeral disk')):
        if after < before:
            raise nova_exception.ResizeError(
                reason=f'Unable to resize disk down: the {what} would go '
                       f'from {before} GB to {after} GB')


def check_boot(old: objects.Flavor, new: objects.Flavor) -> None:
    """Refuse what a container is made with, for one that stays.

    :raises InvalidRequest: with what to do
    """
    if boot_keys.parse(old.extra_specs, {}) != boot_keys.parse(new.extra_specs,
                                                               {}):
        keys = ', '.join(f'vcloud:{name}'
                         for name in (*boot_keys.STARTS,
                                      *boot_keys.PRIVILEGES))
        raise exception.InvalidRequest(
            f'the flavors differ in one of {keys}: that can change only when '
            'the server goes to another host by the resize')


@contextlib.contextmanager
def rolled_back() -> Iterator[None]:
    """Tell Nova that a refusal left the server as it was.

    :raises InstanceFaultRollback: around the reason
    """
    try:
        yield
    except exception.ContainerNotFound:
        raise
    except exception.NovaVcloudException as e:
        raise nova_exception.InstanceFaultRollback(
            nova_exception.ResizeError(reason=str(e))) from e
    except nova_exception.NovaException as e:
        raise nova_exception.InstanceFaultRollback(e) from e
    except Exception as e:
        # What nobody has thought of left the server as it was, too.
        LOG.exception('A move or resize failed')
        raise nova_exception.InstanceFaultRollback(
            nova_exception.ResizeError(
                reason='the host could not do it; its operator finds the '
                       f'reason in the log ({type(e).__name__})')) from e
