# SPDX-License-Identifier: Apache-2.0
"""Tests of this repository, run where cgroup v2 and systemd are real.

Each test inside is reported here as a subtest of its file, with its text.
"""

import pathlib
import sys
import xml.etree.ElementTree as ET

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
#: {file below tests/: which of its tests, () for all}
INSIDE = {
    'vm/inside/test_cgroup2.py': (),
    'vm/inside/test_start.py': (),
    'vm/inside/test_reload.py': (),
    'vm/inside/test_disks.py': (),
    'vm/inside/test_systemd.py': (),
    'vm/inside/test_receive.py': (),
    'functional/driver/test_freezer.py': (),
    'functional/qos/test_backends.py': ('TestCgroupHere', 'TestTc'),
    'functional/vif/test_network.py': ('test_vlan',),
    # What differs there: OOM kills, and containers that outlive the engine.
    'functional/vif/test_containers.py': (
        'test_out_of_memory', 'test_dockerd_killed_and_restarted'),
}
TIMEOUT = 2400  # seconds for all of them, emulated; twice on a busy host
TEST_TIMEOUT = 360  # seconds for one
SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin'
REPORT = '/tmp/report.xml'
PYTEST = (
    sys.executable, '-m', 'pytest', '-c', f'{ROOT}/pyproject.toml',
    f'--rootdir={ROOT}', '-p', 'no:cacheprovider', '-p', 'pytest_timeout',
    f'--timeout={TEST_TIMEOUT}', '--tb=short', '--durations=10',
    f'--junit-xml={REPORT}')
ENVIRONMENT = {
    'PATH': f'{sys.prefix}/bin:{SYSTEM_PATH}', 'LC_ALL': 'C.UTF-8',
    'PYTHONDONTWRITEBYTECODE': '1',
    # pytest would compile each module of each plugin anew: 9 s there.
    'PYTEST_DISABLE_PLUGIN_AUTOLOAD': '1',
    # What is skipped inside is a skip of the test here.
    'NOVA_VCLOUD_ALLOW_SKIPS': '1'}


class Inner:
    """How one test inside ended."""

    def __init__(self, case):
        # Of an inherited test, its 'file' would be the base class's.
        module, _, group = case.get('classname').partition('.Test')
        self.path = module.removeprefix('tests.').replace('.', '/') + '.py'
        self.name = f'Test{group}.{case.get("name")}' if group \
            else case.get('name')
        self.faults = [f'{fault.get("message")}\n{fault.text}'
                       for kind in ('error', 'failure')
                       for fault in case.findall(kind)]
        self.skips = [skip.get('message') for skip in case.findall('skipped')]


@pytest.fixture(scope='session')
def inner(machine, request):
    """All tests inside that the tests outside are to report."""
    paths = [item.callspec.params['path'] for item in request.session.items
             if item.originalname == 'test_inside']
    done = machine.run(
        [*PYTEST, *(f'{ROOT}/tests/{path}' + (f'::{name}' if name else '')
                    for path in paths for name in INSIDE[path] or [''])],
        TIMEOUT, env=ENVIRONMENT)
    print(done.output)
    # Anything else is no end of tests: an interrupt, a wrong name.
    assert done.status in {0, 1}, done.output + done.errors
    report = machine.run(['cat', REPORT], 60).output
    found = [Inner(case) for case in ET.fromstring(report).iter('testcase')]
    assert {case.path for case in found} == set(paths)
    return found


@pytest.mark.timeout(TIMEOUT + 600)
@pytest.mark.parametrize('path', INSIDE)
def test_inside(inner, subtests, path):
    cases = [case for case in inner if case.path == path]
    for case in cases:
        with subtests.test(case.name):
            if case.faults:
                pytest.fail('\n'.join(case.faults), pytrace=False)
            if case.skips:
                pytest.skip(case.skips[0])
    assert len(cases) >= max(1, len(INSIDE[path]))
