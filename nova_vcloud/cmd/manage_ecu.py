# SPDX-License-Identifier: Apache-2.0
"""Compute units: what the CPUs of this host are worth."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
import dataclasses
import json
import os
from typing import Any

from oslo_config import cfg

from nova_vcloud import ecu
from nova_vcloud import ecu_calibration
from nova_vcloud.conf import ecu as ecu_conf
from nova_vcloud.qos import limits

SECONDS = 16
#: Rounds or CPUs that differ by more say that the figure is not to be trusted.
RESTLESS = 0.05


def add_parser(actions: Any) -> None:
    """Add ``calibrate`` and ``show`` below the noun ``ecu``."""
    calibrate = actions.add_parser(
        'calibrate', help='measure all CPUs at once and store the result; '
        'nova-compute reads it when it starts')
    calibrate.add_argument('--seconds', type=_seconds, default=SECONDS,
                           help=f'time to measure for, {SECONDS} by default')
    calibrate.add_argument('--cpus', type=_cpus, metavar='LIST',
                           default=os.sched_getaffinity(0),
                           help='such as 4-63; all, if not given')
    calibrate.add_argument('--no-store', action='store_true')
    calibrate.add_argument('--json', action='store_true')
    calibrate.set_defaults(action=_calibrate)
    show = actions.add_parser('show', help='what nova-compute goes by')
    show.set_defaults(action=_show)


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register what the commands read."""
    ecu_conf.register_opts(conf)


def _seconds(text: str) -> float:
    found = float(text)
    if not 1 <= found <= 3600:
        raise argparse.ArgumentTypeError('1 to 3600 seconds')
    return found


def _cpus(text: str) -> frozenset[int]:
    try:
        return limits.parse_set(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a list such as 4-63') from None


def _calibrate(conf: cfg.ConfigOpts, args: Any) -> int:
    result = ecu_calibration.measure(args.cpus, args.seconds)
    if not args.no_store:
        ecu_calibration.store(conf.ecu.calibration_file, result)
    if args.json:
        print(json.dumps(dataclasses.asdict(result), indent=1))
        return 0
    for cpu, found in result.cpus.items():
        print(f'CPU {cpu:<8} {found:8.3f} ECU')
    for part, found in result.parts.items():
        print(f'by {part:<10}{found:8.3f} ECU')
    print(f'a core       {result.per_core:8.3f} ECU, of {result.model}')
    print(f'spread       {result.rounds_spread:8.2%} between rounds, '
          f'{result.cpus_spread:.2%} between CPUs')
    for line in _doubts(result):
        print(line)
    if args.no_store:
        print('not stored')
        return 0
    print(f'stored in {conf.ecu.calibration_file}; restart nova-compute to '
          'have it used')
    if conf.ecu.per_core is not None:
        print(f'[ecu] per_core is {conf.ecu.per_core:g} and wins')
    return 0


def _doubts(result: ecu_calibration.Result) -> Iterable[str]:
    if result.rounds_spread > RESTLESS:
        yield 'the host is busy; do it again when it is not'
    if result.cpus_spread > RESTLESS:
        yield ('CPUs differ: they are of several kinds, or some were '
               'disturbed and it is to be done again')


def _show(conf: cfg.ConfigOpts, _args: Any) -> int:
    path = conf.ecu.calibration_file
    found = ecu_calibration.load(path)
    by_hand = conf.ecu.per_core
    speed = ecu_calibration.per_core(by_hand, path)
    if speed is None:
        print('nobody knows what a core of this host gives: run '
              'nova-vcloud-manage ecu calibrate, or set [ecu] per_core')
        return 1
    source = '[ecu] per_core' if by_hand is not None else path
    cpus = len(os.sched_getaffinity(0))
    print(f'a core       {speed:8.3f} ECU ({source})')
    print(f'the host     {ecu.capacity(cpus, speed):8} ECU in {cpus} CPUs, '
          f'sold {conf.ecu.allocation_ratio:g} times, without '
          f'{conf.ecu.reserved}')
    if found:
        print(f'measured     {found.per_core:8.3f} ECU at {found.measured}, '
              f'{found.version}, of {found.model}')
        if found.model != ecu_calibration.cpu_model():
            print(f'this host is {ecu_calibration.cpu_model()}: what was '
                  'measured is of another')
    return 0
