# SPDX-License-Identifier: Apache-2.0
"""What one nova-compute asks of another's for a move, by Nova's own RPC.

Stock nova-compute serves what is in its manager's ``additional_endpoints``
beside its own calls; ours has a namespace of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova import rpc
from nova.compute import rpcapi
from nova.compute import task_states
from oslo_log import log
import oslo_messaging

from nova_vcloud import exception
from nova_vcloud.virt_docker.migration import cold_migration
from nova_vcloud.virt_docker.migration import resize

LOG = log.getLogger(__name__)

NAMESPACE = 'vcloud'
#: History: 1.1 adds check_transfer and holds_server.
VERSION = '1.1'
#: Of the calls that each release answers.
_FIRST = '1.0'


class Endpoint:
    """What the host that a server goes to answers.

    A refusal is returned, not raised: Nova logs an error of what is raised.

    :param host: of this nova-compute
    """

    target = oslo_messaging.Target(namespace=NAMESPACE, version=VERSION)

    def __init__(self, host: str, traffic: cold_migration.Moves) -> None:
        self._host = host
        self._moves = traffic

    def admit_transfer(self, context: nova_context.RequestContext,
                       instance_uuid: str, size: int, files: list[str]
                       ) -> dict[str, str]:
        """Return a token to send a server here, or the reason for none.

        :param size: bytes of all files, at most
        :param files: their names
        """
        try:
            migration = self._migration(instance_uuid)
            return {'token': self._moves.admit(
                instance_uuid, migration.uuid, _address(migration),
                int(size), list(files))}
        except (exception.MoveFailed, nova_exception.NotFound,
                ValueError) as e:
            LOG.warning('Server %s is not admitted: %s', instance_uuid, e)
            return {'refused': str(e)}

    def check_transfer(self, context: nova_context.RequestContext,
                       instance_uuid: str, size: int, entries: int
                       ) -> dict[str, str]:
        """Try what can be tried before a server stops elsewhere.

        :param size: bytes that it has written
        :param entries: files and directories of those
        :returns: the reason why it cannot come here; {} when it can
        """
        try:
            self._migration(instance_uuid)
            self._moves.check_can_receive(
                context, _as_it_would_be(instance_uuid), int(size),
                int(entries))
        except Exception as e:
            # Whatever it is, it would be the same once the server has gone.
            LOG.warning('Destination check for the migration of server %s '
                        'failed: %s', instance_uuid, e,
                        exc_info=not isinstance(
                            e, exception.NovaVcloudException))
            return {'refused': str(e) or repr(e)}
        return {}

    def holds_server(self, context: nova_context.RequestContext,
                     instance_uuid: str) -> bool:
        """Tell whether a server has a container here that is its own."""
        return self._moves.holds(instance_uuid)

    def abandon_transfer(self, context: nova_context.RequestContext,
                         instance_uuid: str, migration_uuid: str) -> None:
        """Remove what came of a server that stays where it was."""
        self._moves.abandoned(instance_uuid, migration_uuid)

    def _migration(self, uuid: str) -> objects.Migration:
        """Return the move to this host that a server is in, by Nova's records.

        :raises MoveFailed: there is none
        """
        context = nova_context.get_admin_context()
        instance = objects.Instance.get_by_uuid(
            context, uuid, expected_attrs=['migration_context'])
        migration = resize.of(context, instance)
        if (migration is None
                or migration.dest_compute != self._host
                or migration.source_compute != instance.host
                or migration.status != 'migrating'
                or instance.task_state != task_states.RESIZE_MIGRATING):
            raise exception.MoveFailed(
                f'by Nova\'s records server {uuid} is on {instance.host}, and '
                f'not on its way to {self._host}')
        return migration


def _as_it_would_be(uuid: str) -> objects.Instance:
    """Return a server with the flavor that its move would give it."""
    instance = objects.Instance.get_by_uuid(
        nova_context.get_admin_context(), uuid, expected_attrs=[
            'system_metadata', 'metadata', 'flavor', 'migration_context'])
    instance.flavor = instance.new_flavor or instance.flavor
    return instance


def _address(migration: objects.Migration) -> str:
    """Return ``my_ip`` of the host that a server leaves."""
    return str(objects.ComputeNode.get_by_host_and_nodename(
        nova_context.get_admin_context(), migration.source_compute,
        migration.source_node).host_ip)


def serve(manager: Any, host: str, traffic: cold_migration.Moves) -> None:
    """Have a nova-compute answer, from the time its RPC server starts.

    :param manager: Nova's ComputeManager; a command of Nova that makes a
        driver has none
    """
    if manager is not None:
        manager.additional_endpoints.append(Endpoint(host, traffic))


class Destination:
    """nova-compute of the host that a server goes to.

    :param client: makes a client of a target; Nova's own, unless given
    :param patience: tells the seconds for what it has to try, and those in
        which it must say that it is still at it
    """

    def __init__(self, client: Callable[[Any], Any] = rpc.get_client,
                 patience: Callable[[], tuple[int, int]]
                 = lambda: (1800, 60)) -> None:
        self._client = client
        self._patience = patience

    def admit(self, context: nova_context.RequestContext,
              instance: objects.Instance, size: int,
              files: list[str]) -> str:
        """Let a server be sent there; return the token for it.

        :raises MoveFailed: it does not want it, or cannot be asked
        """
        migration = _move_of(context, instance)
        try:
            answer = self._calls(migration.dest_compute).call(
                context, 'admit_transfer', instance_uuid=instance.uuid,
                size=size, files=files)
        except oslo_messaging.MessagingException as e:
            raise _failed(migration, e) from e
        if 'token' not in answer:
            raise exception.MoveFailed(
                f'host {migration.dest_compute}: {answer["refused"]}')
        return str(answer['token'])

    def check_can_receive(self, context: nova_context.RequestContext,
                          instance: objects.Instance, size: int, entries: int
                          ) -> None:
        """Have it try to make a server of what it was sent so far.

        :param size: bytes that the server has written
        :param entries: files and directories of those
        :raises MoveFailed: it could not, or cannot be asked
        """
        migration = _move_of(context, instance)
        timeout, heartbeat = self._patience()
        calls = self._calls(
            migration.dest_compute, VERSION, timeout=timeout,
            call_monitor_timeout=heartbeat)
        try:
            answer = calls.call(
                context, 'check_transfer', instance_uuid=instance.uuid,
                size=size, entries=entries)
        except oslo_messaging.MessagingException as e:
            if _is_unknown(e):
                LOG.info('Host %s does not support check_transfer: migrating '
                         'without the destination check',
                         migration.dest_compute, instance=instance)
                return
            raise _failed(migration, e) from e
        if 'refused' in answer:
            raise exception.MoveFailed(
                f'host {migration.dest_compute}: {answer["refused"]}')

    def holds(self, context: nova_context.RequestContext, host: str,
              uuid: str) -> bool:
        """Tell whether a host has a server whole, as far as it can be asked.
        """
        try:
            return bool(self._calls(host, VERSION).call(
                context, 'holds_server', instance_uuid=uuid))
        except oslo_messaging.MessagingException as e:
            LOG.info('Failed to ask host %s whether it has server %s: %s',
                     host, uuid, e)
            return False

    def abandon(self, context: nova_context.RequestContext,
                instance: objects.Instance) -> None:
        """Have it forget what it was sent; it may hear that later.

        :raises MoveFailed: it cannot be told
        """
        migration = _move_of(context, instance)
        try:
            self._calls(migration.dest_compute).cast(
                context, 'abandon_transfer', instance_uuid=instance.uuid,
                migration_uuid=migration.uuid)
        except oslo_messaging.MessagingException as e:
            raise _failed(migration, e) from e

    def _calls(self, host: str, version: str = _FIRST,
               **options: int) -> Any:
        # Not before the first: Nova has no transport when a driver is made
        # by one of its commands.
        target = oslo_messaging.Target(
            topic=rpcapi.RPC_TOPIC, namespace=NAMESPACE, version=version)
        return self._client(target).prepare(server=host, **options)


def _move_of(context: nova_context.RequestContext,
             instance: objects.Instance) -> objects.Migration:
    migration = resize.of(context, instance)
    if migration is None:
        raise exception.MoveFailed(
            f'by Nova\'s records server {instance.uuid} is in no move')
    return migration


def _is_unknown(error: Exception) -> bool:
    """Tell whether a host has said that it knows no such call."""
    unknown = (oslo_messaging.UnsupportedVersion,
               oslo_messaging.rpc.dispatcher.NoSuchMethod)
    return isinstance(error, unknown) or getattr(
        error, 'exc_type', '') in ('UnsupportedVersion', 'NoSuchMethod')


def _failed(migration: objects.Migration, error: Exception
            ) -> exception.MoveFailed:
    if _is_unknown(error):
        reason = ('its nova-compute runs a release of nova-vcloud that cannot '
                  'admit a server from this one; upgrade it')
    elif isinstance(error, oslo_messaging.MessagingTimeout):
        reason = 'its nova-compute does not answer'
    else:
        reason = str(error).splitlines()[0]
    return exception.MoveFailed(f'host {migration.dest_compute}: {reason}')
