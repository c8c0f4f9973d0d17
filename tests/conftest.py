# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: layers by folder, no skip unseen."""

import os
import pathlib
import sys
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

#: Folder under tests/ -> what its tests may rely on.
LAYERS = {
    'unit': 'pure or with temporary files; no root, no service',
    'contract': 'against installed Nova, Neutron, os-vif; no service',
    'functional': 'root: real dockerd, network namespaces, cgroups',
    'integration': 'root: the mini cloud, brought up by the test',
    'scheduler': 'Nova\'s own services in one process, with made-up hosts',
    'vm': 'root: an emulated machine with systemd and cgroup v2',
}

# `python -m pytest` puts the repository's root first on sys.path; there the
# mapped folders (qos, filters, virt_docker) would have a second name.
sys.path[:] = [
    entry for entry in sys.path if pathlib.Path(entry or '.').resolve() != ROOT
]
# The same for `python -c` and `python -m` that a test starts.
os.environ['PYTHONSAFEPATH'] = '1'

# Tests shared by modules; pytest says what an assert of theirs compared.
sys.path.append(str(ROOT / 'tests/fixtures'))
pytest.register_assert_rewrite('backend_contract')


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--forbid-skips', action='store_true',
        default=bool(os.environ.get('NOVA_VCLOUD_FORBID_SKIPS')),
        help='a skipped test fails, with the reason of its skip')


def pytest_configure(config: pytest.Config) -> None:
    for layer, meaning in LAYERS.items():
        config.addinivalue_line('markers', f'{layer}: {meaning}')
    config.addinivalue_line(
        'markers', 'slow: takes more than 30 s; deselect by -m "not slow"')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its folder's layer; skip root's for others."""
    not_root = pytest.mark.skip(reason='needs root')
    for item in items:
        try:
            layer = item.path.relative_to(ROOT / 'tests').parts[0]
        except ValueError:
            continue
        if layer not in LAYERS:
            continue
        item.add_marker(layer)
        if layer in ('functional', 'integration', 'vm') and os.geteuid() != 0:
            item.add_marker(not_root)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
        item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Turn a skip into a failure where skips are forbidden (CI)."""
    report = yield
    if (report.skipped and not hasattr(report, 'wasxfail')
            and item.config.getoption('--forbid-skips')):
        report.outcome = 'failed'
        report.longrepr = f'skip is forbidden here: {report.longrepr[2]}'
    return report
