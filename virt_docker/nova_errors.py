# SPDX-License-Identifier: Apache-2.0
"""From our errors to the ones that nova-compute knows."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib

from nova import exception as nova_exception
from nova import objects
from oslo_log import log

from nova_vcloud import exception

LOG = log.getLogger(__name__)


@contextlib.contextmanager
def mapped(instance: objects.Instance, host: str) -> Iterator[None]:
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
            exception.NoCpusLeft, exception.StateError,
            exception.MoveFailed, exception.VolumeError,
            exception.InvalidImageArchive, exception.UploadFailed,
            exception.DiskTooLarge) as e:
        raise nova_exception.InternalError(err=str(e)) from e
