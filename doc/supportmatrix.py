#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write the support matrix from the tests that passed.

What Nova's drivers can is in ``matrix.toml``; what ours can is what a test
that is marked with ``pytest.mark.matrix(key, ...)`` has shown in the run whose
results are given.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import json
import pathlib
import sys
import tomllib

DOC = pathlib.Path(__file__).resolve().parent
PAGE = DOC / 'source/reference/support-matrix.rst'
README = DOC.parent / 'README.rst'
BEGIN, END = '.. support matrix: begin\n', '.. support matrix: end\n'
SIGNS = {'complete': 'yes', 'partial': 'partly', 'missing': '--',
         'unknown': '?'}

HEAD = '''\
..
   SPDX-License-Identifier: Apache-2.0
   Written by doc/supportmatrix.py, from tests that passed.

==============
Support matrix
==============

The capabilities of Nova's support matrix. Ours are those that tests on the
mini cloud or a real engine have shown, named below; beside them is what Nova
says of its libvirt driver with KVM (x86) and with LXC. A question mark is
Nova's own.

'''


@dataclasses.dataclass(frozen=True)
class Capability:
    """A row of Nova's matrix.

    :ivar kvm: 'complete', 'partial', 'missing' or 'unknown'
    """

    key: str
    title: str
    status: str
    kvm: str
    lxc: str


def capabilities() -> list[Capability]:
    """Return the rows in Nova's order."""
    rows = tomllib.loads((DOC / 'matrix.toml').read_text())['capability']
    return [Capability(**row) for row in rows]


def shown(results: Iterable[Mapping[str, object]]) -> dict[str, list[str]]:
    """Return {key: tests that show it}; none of a key of which one failed.

    :param results: of one test each: name, outcome, keys
    """
    found: dict[str, set[str]] = collections.defaultdict(set)
    failed: set[str] = set()
    for each in results:
        keys, name = each['keys'], str(each['name'])
        if each['outcome'] == 'passed':
            for key in keys:
                # Parameters are cases of one test.
                found[key].add(name.partition('[')[0])
        else:
            failed.update(keys)
    return {key: sorted(tests) for key, tests in found.items()
            if key not in failed}


def _own(row: Capability, proofs: Mapping[str, list[str]]) -> str:
    return 'complete' if proofs.get(row.key) else 'missing'


def page(rows: list[Capability], proofs: Mapping[str, list[str]]) -> str:
    """Return the page."""
    lines = [HEAD + '.. list-table::', '   :header-rows: 1',
             '   :widths: 58 14 14 14', '']
    lines += _cells('Capability', 'nova-vcloud', 'KVM', 'LXC')
    for row in rows:
        must = ' (mandatory)' if row.status == 'mandatory' else ''
        lines += _cells(row.title + must, *(
            SIGNS[state] for state in (_own(row, proofs), row.kvm, row.lxc)))
    lines += ['', 'What shows it', '=============', '']
    for row in rows:
        if row.key in proofs:
            lines.append(row.title)
            lines += [f'    | ``{test}``' for test in proofs[row.key]]
            lines.append('')
    return '\n'.join(lines)


def _cells(first: str, *others: str) -> list[str]:
    """Return the lines of a row."""
    return [f'   * - {first}', *(f'     - {cell}' for cell in others)]


def summary(rows: list[Capability], proofs: Mapping[str, list[str]]) -> str:
    """Return the table of the README."""
    states = {'nova-vcloud': [_own(row, proofs) for row in rows],
              'libvirt, KVM': [row.kvm for row in rows],
              'libvirt, LXC': [row.lxc for row in rows]}
    lines = ['================  ===  ======  ====  =======',
             f'{len(rows)} capabilities   yes  partly    no  unknown',
             '================  ===  ======  ====  =======']
    for name, found in states.items():
        count = collections.Counter(found)
        lines.append(f'{name:16}  {count["complete"]:3}  '
                     f'{count["partial"]:6}  {count["missing"]:4}  '
                     f'{count["unknown"]:7}')
    return '\n'.join([*lines, lines[0], ''])


def readme(text: str, table: str) -> str:
    """Return the README with a table between its marks."""
    before, rest = text.split(BEGIN)
    return f'{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}'


def main(argv: list[str]) -> int:
    """Write both, or tell whether they are as the results say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('results', type=pathlib.Path,
                        help='what pytest --matrix has written')
    parser.add_argument('--check', action='store_true')
    args = parser.parse_args(argv)
    rows = capabilities()
    proofs = shown(json.loads(args.results.read_text()))
    wanted = {PAGE: page(rows, proofs),
              README: readme(README.read_text(), summary(rows, proofs))}
    stale = [path for path, text in wanted.items()
             if not path.exists() or path.read_text() != text]
    for path in stale:
        if args.check:
            sys.stderr.write(
                f'{path.relative_to(DOC.parent)} is not what the tests show; '
                f'it is after: doc/supportmatrix.py {args.results}\n')
        else:
            path.write_text(wanted[path])
    return 1 if args.check and stale else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
