# SPDX-License-Identifier: Apache-2.0
"""Scheduling: where a server would go, and why not elsewhere."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
import json
from typing import Any

from oslo_config import cfg


def add_parser(actions: Any) -> None:
    """Add ``explain`` below the noun ``scheduler``."""
    explain = actions.add_parser(
        'explain', help='what filters and weighers make of a server that '
        'might be; run it where nova-scheduler runs, with its configuration')
    explain.add_argument('--flavor', required=True, help='name or id')
    explain.add_argument('--hint', action='append', type=_pair, default=[],
                         metavar='NAME=VALUE', help='may be repeated')
    explain.add_argument('--project', default='', help='id')
    explain.add_argument('--availability-zone', metavar='ZONE')
    explain.add_argument('--host', help='look at this one only')
    explain.add_argument('--count', type=int, default=1,
                         help='servers of the request')
    explain.add_argument('--server', metavar='UUID', help='one that is '
                         'there, and would be resized to the flavor')
    explain.add_argument('--json', action='store_true')
    explain.set_defaults(action=_explain)


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register nothing: Nova's own options are read by Nova."""


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition('=')
    if not name or not sign:
        raise argparse.ArgumentTypeError(f'{text!r} is not NAME=VALUE')
    return name, value


def _explain(_conf: cfg.ConfigOpts, args: Any) -> int:
    # Nova is slow to import, and must be configured before.
    from nova_vcloud.filters import standalone  # noqa: PLC0415
    standalone.configure(args.config_file or ())
    from nova_vcloud.filters import explain  # noqa: PLC0415
    verdicts = explain.explain(explain.Wish(
        args.flavor, dict(args.hint), args.project, args.availability_zone,
        args.host, args.count, args.server))
    if args.json:
        print(json.dumps([
            dataclasses.asdict(v) | {'passed': v.passed, 'total': v.total}
            for v in verdicts], indent=1))
    else:
        print(_tables(verdicts))
    return 0 if any(v.passed for v in verdicts) else 2


def _tables(verdicts: Sequence[Any]) -> str:
    """Return hosts by filters, and those that pass by weighers."""
    every = list(dict.fromkeys(
        name for v in verdicts for name in v.filters))
    filters = [name for name in every
               if not all(v.filters.get(name, True) for v in verdicts)]
    pleased = [name for name in every if name not in filters]
    marks = {True: 'ok', False: 'NO', None: ''}
    rows = [['host', *filters, 'reason']] + [
        [v.host, *(marks[v.filters.get(name)] for name in filters), v.reason]
        for v in verdicts]
    passed = [v for v in verdicts if v.passed]
    text = f'{_table(rows)}\n\nno objection: {", ".join(pleased) or "none"}'
    if not passed:
        return f'{text}\nno host is left: No valid host was found'
    weighers = list(passed[0].scores)
    silent = [name for name in weighers
              if not any(v.scores[name] for v in passed)]
    spoken = [name for name in weighers if name not in silent]
    scores = [['host', *spoken, 'weight']] + [
        [v.host, *(f'{v.scores[name]:.3f}' for name in spoken),
         f'{v.total:.3f}'] for v in passed]
    return '\n\n'.join([
        text, _table(scores),
        f'0 for every host: {", ".join(silent) or "none"}'])


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join('  '.join(
        cell.ljust(width) for cell, width in zip(row, widths, strict=True)
    ).rstrip() for row in rows)
