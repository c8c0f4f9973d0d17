# SPDX-License-Identifier: Apache-2.0
"""How this compute host is set up."""

from __future__ import annotations

import os
from typing import Any

from oslo_config import cfg

from nova_vcloud import host_checks
from nova_vcloud import neighbour_limit
from nova_vcloud import privsep
from nova_vcloud.conf import docker as docker_conf
from nova_vcloud.conf import net
from nova_vcloud.engine import Engine


def add_parser(actions: Any) -> None:
    """Add ``check`` below the noun ``host``."""
    check = actions.add_parser(
        'check', help='check sysctls, seccomp, AppArmor, SELinux and user '
        'namespaces of this host against what keeps servers apart; exit 1 '
        'on a warning')
    check.set_defaults(action=_check)


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register what the command reads; others register it as well."""
    docker_conf.register_opts(conf)
    net.register_opts(conf)


def _check(conf: cfg.ConfigOpts, _args: Any) -> int:
    engine = Engine(conf.docker.url, conf.docker.timeout)
    if os.geteuid() == 0:
        privsep.in_process()
    found = [*host_checks.read(engine.info(),
                               engine.containers([host_checks.SERVER_LABEL])),
             neighbour_limit.check(conf.vcloud_net.neighbour_limit)]
    for each in found:
        print('WARN' if each.problem else 'ok  ', each)
    return int(any(each.problem for each in found))
