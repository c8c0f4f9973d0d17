# SPDX-License-Identifier: Apache-2.0
"""Tests of this repository, run where cgroup v2 and systemd are real.

Each test inside is reported here as a subtest of its file, with its text.
"""

import os
import pathlib
import sys
import xml.etree.ElementTree as ET

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
#: {file or folder below tests/: seconds it may take, emulated}
INSIDE = {
    'vm/inside/test_cgroup2_host.py': 300,
}
TEST_TIMEOUT = 120  # seconds for one of them
REPORT = '/tmp/report.xml'
SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin'


class Inner:
    """How one test inside ended."""

    def __init__(self, case):
        self.name = f'{case.get("classname")}::{case.get("name")}'
        self.faults = [f'{fault.get("message")}\n{fault.text}'
                       for kind in ('error', 'failure')
                       for fault in case.findall(kind)]
        self.skips = [skip.get('message') for skip in case.findall('skipped')]


def run_inside(machine, path, timeout):
    """Run pytest inside; return how it ended and each of its tests."""
    machine.run(['rm', '-f', REPORT], 20)
    done = machine.run(
        [sys.executable, '-m', 'pytest', '-c', f'{ROOT}/pyproject.toml',
         f'--rootdir={ROOT}', '-p', 'no:cacheprovider', '--tb=short',
         f'--junit-xml={REPORT}', f'--timeout={TEST_TIMEOUT}',
         f'{ROOT}/tests/{path}'], timeout, env={
             'PATH': f'{sys.prefix}/bin:{SYSTEM_PATH}',
             'PYTHONDONTWRITEBYTECODE': '1', 'LC_ALL': 'C.UTF-8', **{
                 name: value for name, value in os.environ.items()
                 if name.startswith('NOVA_VCLOUD_')}})
    report = machine.run(['cat', REPORT], 60).output
    assert report, f'no report from inside:\n{done.output}{done.errors}'
    return done, [Inner(case) for case in
                  ET.fromstring(report).iter('testcase')]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize('path', INSIDE)
def test_inside(machine, subtests, path):
    done, cases = run_inside(machine, path, INSIDE[path])
    for case in cases:
        with subtests.test(case.name):
            if case.faults:
                pytest.fail('\n'.join(case.faults), pytrace=False)
            if case.skips:
                pytest.skip(case.skips[0])
    assert cases, done.output
    failed = any(case.faults for case in cases)
    assert done.status == (1 if failed else 0), done.output + done.errors
