# SPDX-License-Identifier: Apache-2.0
"""Compute units: what the CPUs of this host are worth."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

from oslo_config import cfg

from nova_vcloud import calibration
from nova_vcloud import ecu
from nova_vcloud.conf import ecu as ecu_conf

SECONDS = 12


def add_parser(actions: Any) -> None:
    """Add ``calibrate`` and ``show`` below the noun ``ecu``."""
    calibrate = actions.add_parser(
        'calibrate', help='measure all CPUs at once and store the result; '
        'nova-compute reads it when it starts')
    calibrate.add_argument('--seconds', type=float, default=SECONDS,
                           help=f'time to measure for, {SECONDS} by default')
    calibrate.add_argument('--no-store', action='store_true')
    calibrate.add_argument('--json', action='store_true')
    calibrate.set_defaults(action=_calibrate)
    show = actions.add_parser('show', help='what nova-compute goes by')
    show.set_defaults(action=_show)


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register what the commands read."""
    ecu_conf.register_opts(conf)


def _calibrate(conf: cfg.ConfigOpts, args: Any) -> int:
    result = calibration.measure(os.sched_getaffinity(0), args.seconds)
    if not args.no_store:
        calibration.store(conf.ecu.calibration_file, result)
    if args.json:
        print(json.dumps(dataclasses.asdict(result), indent=1))
        return 0
    for cpu, found in result.cpus.items():
        print(f'CPU {cpu:<4} {found:8.3f} ECU')
    print(f'a core   {result.per_core:8.3f} ECU, of {result.model}')
    print(f'spread   {result.rounds_spread:8.2%} of a CPU\'s rounds, '
          f'{result.cpus_spread:.2%} between CPUs')
    if args.no_store:
        print('not stored')
    else:
        print(f'stored in {conf.ecu.calibration_file}; restart nova-compute '
              'to have it used')
        if conf.ecu.per_core is not None:
            print(f'[ecu] per_core is {conf.ecu.per_core:g} and wins')
    return 0


def _show(conf: cfg.ConfigOpts, _args: Any) -> int:
    found = calibration.load(conf.ecu.calibration_file)
    speed = calibration.per_core(conf.ecu.per_core,
                                 conf.ecu.calibration_file)
    if speed is None:
        print('nobody knows what a core of this host gives: run '
              'nova-vcloud-manage ecu calibrate, or set [ecu] per_core')
        return 1
    cpus = len(os.sched_getaffinity(0))
    source = '[ecu] per_core' if conf.ecu.per_core is not None \
        else conf.ecu.calibration_file
    print(f'a core      {speed:8.3f} ECU ({source})')
    if found:
        print(f'measured    {found.per_core:8.3f} ECU at {found.measured}')
    print(f'the host    {ecu.capacity(cpus, speed):8} ECU in {cpus} CPUs, '
          f'sold {conf.ecu.allocation_ratio:g} times')
    return 0
