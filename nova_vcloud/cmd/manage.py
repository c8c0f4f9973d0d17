# SPDX-License-Identifier: Apache-2.0
"""``nova-vcloud-manage``: what an operator does on one compute host."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import importlib
import sys
from typing import Any
import warnings

from oslo_config import cfg
from oslo_log import log

from nova_vcloud import exception

#: {noun: the module of its verbs}
NOUNS = {'ecu': 'nova_vcloud.cmd.manage_ecu',
         'host': 'nova_vcloud.cmd.manage_host',
         'image': 'nova_vcloud.cmd.manage_image',
         'qos': 'nova_vcloud.cmd.manage_qos',
         'scheduler': 'nova_vcloud.cmd.manage_scheduler'}


def _nouns() -> dict[str, Any]:
    """Load the modules; what their libraries warn of is not for operators."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return {noun: importlib.import_module(name)
                for noun, name in NOUNS.items()}


def _parser(modules: dict[str, Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='nova-vcloud-manage', description=__doc__)
    parser.add_argument(
        '--config-file', action='append', metavar='PATH',
        help='configuration of nova-compute; may be repeated')
    nouns = parser.add_subparsers(required=True, metavar='NOUN')
    for noun, module in modules.items():
        below = nouns.add_parser(noun, help=module.__doc__)
        module.add_parser(below.add_subparsers(required=True, metavar='VERB'))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    modules = _nouns()
    args = _parser(modules).parse_args(arguments)
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    for module in modules.values():
        module.register_opts(conf)
    try:
        conf([], project='nova', default_config_files=args.config_file)
        log.set_defaults(default_log_levels=['nova_vcloud=WARN'])
        return int(args.action(conf, args))
    except (exception.NovaVcloudException, cfg.Error, OSError) as e:
        print(f'nova-vcloud-manage: {e}', file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())
