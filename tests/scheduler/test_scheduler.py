# SPDX-License-Identifier: Apache-2.0
"""Runs the cases of our filters and weighers inside Nova, one test for each.

They need processes of their own (cases/conftest.py); to work on them, run
them directly, from the repository's root::

    python -m pytest --confcutdir=tests/scheduler/cases \
        -p no:logging -o python_files='*_cases.py' \
        tests/scheduler/cases
"""

import ast
from collections.abc import Iterator
from concurrent import futures
import pathlib
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest

CASES = pathlib.Path(__file__).with_name('cases')
ROOT = pathlib.Path(__file__).resolve().parents[2]
PROCESSES = 2  # each is busy all the time
TIMEOUT = 500  # seconds for all of them; they need a quarter of that


def cases() -> Iterator[str]:
    """Yield the name of each case, read from the source."""
    for path in sorted(CASES.glob('*_cases.py')):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) \
                    and node.name.startswith('test_'):
                yield f'{path.stem}::{node.name}'


def run(wanted: list[str], report: pathlib.Path) -> str:
    """Run cases in one process; return what it printed."""
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider',
         # Nova's tests log a hundred lines for each server.
         '-p', 'no:logging',
         f'--confcutdir={CASES}', '-o', 'python_files=*_cases.py',
         f'--junit-xml={report}', '--tb=short',
         *(str(CASES / name.replace('::', '.py::')) for name in wanted)],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, timeout=TIMEOUT,
        stderr=subprocess.STDOUT, check=False)
    return done.stdout


def verdicts(report: pathlib.Path) -> dict[str, list[str]]:
    """Return {case: what was wrong with it}."""
    found: dict[str, list[str]] = {}
    for case in ET.parse(report).iter('testcase'):
        name = '{}::{}'.format(case.get('classname', '').split('.')[-1],
                               case.get('name', '').split('[')[0])
        wrong = found.setdefault(name, [])
        wrong.extend(f'{case.get("name")}: {child.tag}\n{child.text}'
                     for child in case
                     if child.tag in ('failure', 'error', 'skipped'))
    return found


@pytest.fixture(scope='session')
def outcome(request: pytest.FixtureRequest,
            tmp_path_factory: pytest.TempPathFactory
            ) -> tuple[dict[str, list[str]], str]:
    """Run the chosen cases once; what came of each, and the output."""
    folder = tmp_path_factory.mktemp('scheduler')
    wanted = [item.callspec.params['case'] for item in request.session.items
              if item.path == pathlib.Path(__file__)]
    shares = [share for number in range(PROCESSES)
              if (share := wanted[number::PROCESSES])]
    reports = [folder / f'{number}.xml' for number in range(len(shares))]
    with futures.ThreadPoolExecutor(PROCESSES) as pool:
        output = '\n'.join(pool.map(run, shares, reports))
    found: dict[str, list[str]] = {}
    for report in reports:
        assert report.exists(), output
        found |= verdicts(report)
    return found, output


@pytest.mark.parametrize('case', cases())
def test_in_nova(case: str,
                 outcome: tuple[dict[str, list[str]], str]) -> None:
    found, output = outcome
    assert case in found, output
    assert not found[case], '\n'.join(found[case])
