# SPDX-License-Identifier: Apache-2.0
"""Limits of servers, on their own host."""

from __future__ import annotations

from collections.abc import Iterable
import getpass
import json
import os
import re
import time
from typing import Any

from oslo_config import cfg

from nova_vcloud import privsep
from nova_vcloud.conf import docker as docker_conf
from nova_vcloud.conf import qos as qos_conf
from nova_vcloud.engine import Engine
from nova_vcloud.qos import hosts
from nova_vcloud.qos import limits
from nova_vcloud.qos import precision
from nova_vcloud.qos import records
from nova_vcloud.qos.disk import loop_file
from nova_vcloud.qos.keeper import Keeper
from nova_vcloud.qos.keeper import Status

_SECONDS = {'s': 1, 'm': 60, 'h': 3600, 'd': 86400}
_ROW = '{:<52} {:>14} {:>14} {:>14}  {}'


def add_parser(actions: Any) -> None:
    """Add ``show``, ``set`` and ``reset`` below the noun ``qos``."""
    show = actions.add_parser(
        'show', help='limits of a server, of all servers, and of the host')
    show.add_argument('server', nargs='?', help='UUID')
    show.add_argument('--json', action='store_true')
    show.set_defaults(action=_show)
    change = actions.add_parser(
        'set', help='put limits in place of those of the flavor, for a while')
    change.add_argument('server', help='UUID')
    change.add_argument(
        'limits', nargs='+', metavar='LIMIT=VALUE',
        help='such as cpu.quota=50000 memory.max=268435456 pids.max=100 '
             'io.254:0.write_bps=unlimited; names are those that show prints')
    change.add_argument('--for', dest='seconds', required=True, type=_span,
                        metavar='TIME', help='90s, 15m, 2h or 1d')
    change.set_defaults(action=_set)
    reset = actions.add_parser(
        'reset', help='bring a server back to the limits of its flavor')
    reset.add_argument('server', help='UUID')
    reset.set_defaults(action=_reset)


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register what the commands read."""
    docker_conf.register_opts(conf)
    qos_conf.register_opts(conf)


def _span(text: str) -> int:
    """Return seconds of ``15m``.

    :raises ValueError: which argparse turns into a usage error
    """
    match = re.fullmatch(r'([1-9]\d*)([smhd])', text)
    if not match:
        raise ValueError(text)
    return int(match[1]) * _SECONDS[match[2]]


def _keeper(conf: cfg.ConfigOpts) -> Keeper:
    if os.geteuid() == 0:
        privsep.in_process()
    return hosts.docker_host(
        Engine(conf.docker.url, conf.docker.timeout),
        conf.docker.runtime_links_path, conf.qos.state_path,
        loop_file.Files() if conf.docker.root_disks == 'file' else None,
        docker_conf.raw_sockets(conf)).keeper


def _show(conf: cfg.ConfigOpts, args: Any) -> int:
    keeper = _keeper(conf)
    uuids = [args.server] if args.server else keeper.records.uuids()
    found = [keeper.status(uuid) for uuid in uuids]
    if args.json:
        print(json.dumps([_doc(status) for status in found], indent=1))
        return 0
    for status in found:
        print('\n'.join(_table(status)), end='\n\n')
    if not args.server:
        print('\n'.join(_host(keeper)))
    return 0


def _set(conf: cfg.ConfigOpts, args: Any) -> int:
    wanted = {}
    for text in args.limits:
        name, _, value = text.partition('=')
        key = limits.Key.parse(name)
        wanted[key] = limits.parse_value(key, value)
    author = os.environ.get('SUDO_USER') or getpass.getuser()
    status = _keeper(conf).override(args.server, limits.Limits(wanted),
                                    args.seconds, author)
    print('\n'.join(_table(status)))
    return 0


def _reset(conf: cfg.ConfigOpts, args: Any) -> int:
    print('\n'.join(_table(_keeper(conf).reset(args.server))))
    return 0


def _doc(status: Status) -> dict[str, Any]:
    override = status.record.to_doc()['override']
    return {'server': status.record.guest.uuid,
            'flavor': status.record.base.to_doc(),
            'override': override, 'desired': status.desired.to_doc(),
            'effective': status.effective.to_doc(),
            'precision': {str(key): exact
                          for key, value in sorted(status.desired.items())
                          if (exact := precision.told(key, value))},
            'drift': [str(drift) for drift in status.drift],
            'events': dict(status.events)}


def _table(status: Status) -> Iterable[str]:
    """Yield a server's limits, one a line."""
    override = status.record.override
    yield f'server {status.record.guest.uuid}'
    if override and override.expires > time.time():
        yield (f'override by {override.author} since '
               f'{records.local(override.since)}, until '
               f'{records.local(override.expires)}')
    yield _ROW.format('limit', 'flavor', 'override', 'in force', '')
    drifted = {drift.key for drift in status.drift}
    for key, wanted in sorted(status.record.base.items()):
        extra = limits.KEEP if status.desired.get(key) == wanted \
            else status.desired[key]
        yield _ROW.format(
            str(key), limits.to_text(wanted),
            '' if extra is limits.KEEP else limits.to_text(extra),
            limits.to_text(status.effective[key])
            if key in status.effective else '(stopped)',
            'DRIFT' if key in drifted else _unit(
                key, status.desired.get(key, wanted))).rstrip()
    for event, count in status.events.items():
        if count:
            yield f'{event} {count} times since it started'
    for drift in status.drift:
        yield f'drift: {drift}'


def _unit(key: limits.Key, value: limits.Value) -> str:
    """Return the unit of a limit, and how exactly the kernel holds it."""
    unit = limits.FIELDS[key.kind].unit.replace('set', '')
    exact = precision.told(key, value)
    return f'{unit} (held: {exact})' if exact else unit


def _host(keeper: Keeper) -> Iterable[str]:
    """Yield what this host can hold, and what not."""
    yield 'this host:'
    for kind in sorted(keeper.enforcer.enforced()):
        remark = keeper.enforcer.remarks().get(kind, '')
        yield f'  {kind:<20} enforced  {remark}'.rstrip()
    for kind, reason in keeper.enforcer.missing().items():
        yield f'  {kind:<20} MISSING   {reason}'
