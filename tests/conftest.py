# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: layers by folder, no skip unseen."""

import json
import os
import pathlib
import sys
import tomllib
from typing import Any

import hypothesis
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
    'security': 'root: attacks of tenants, images and hosts, on real parts',
}

# `python -m pytest` puts the repository's root first on sys.path; there the
# mapped folders (qos, filters, virt_docker) would have a second name.
sys.path[:] = [
    entry for entry in sys.path if pathlib.Path(entry or '.').resolve() != ROOT
]
# The same for `python -c` and `python -m` that a test starts.
os.environ['PYTHONSAFEPATH'] = '1'

# Tests shared by modules; pytest says what an assert of theirs compared.
sys.path += [str(ROOT / 'tests/fixtures'), str(ROOT / 'devstack')]
pytest.register_assert_rewrite('backend_contract')

# How long an example takes is the machine's doing.
hypothesis.settings.register_profile('nova-vcloud', deadline=None)
hypothesis.settings.load_profile('nova-vcloud')


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--allow-skips', action='store_true',
        default=bool(os.environ.get('NOVA_VCLOUD_ALLOW_SKIPS')),
        help='a skipped test does not fail')
    parser.addoption(
        '--matrix', type=pathlib.Path, metavar='FILE',
        help='write which tests of the support matrix passed (JSON)')


def pytest_configure(config: pytest.Config) -> None:
    for layer, meaning in LAYERS.items():
        config.addinivalue_line('markers', f'{layer}: {meaning}')
    config.addinivalue_line(
        'markers', 'slow: takes more than 30 s; deselect by -m "not slow"')
    config.addinivalue_line(
        'markers', 'matrix(key, ...): shows these capabilities of Nova\'s '
        'support matrix (doc/matrix.toml)')
    if config.getoption('matrix'):
        config.pluginmanager.register(
            Matrix(config.getoption('matrix')), 'matrix')


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a layer's tests in one worker, with what they bring up."""
    from xdist.scheduler import LoadScopeScheduling

    class ByLayer(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            layer = nodeid.removeprefix('tests/').partition('/')[0]
            return {'contract': 'unit'}.get(layer, layer)

    return ByLayer(config, log)


class Matrix:
    """Writes what tests have shown of the support matrix."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._known = {row['key'] for row in tomllib.loads(
            (ROOT / 'doc/matrix.toml').read_text())['capability']}
        self._found: dict[str, dict[str, Any]] = {}

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Have reports tell what their test shows, also those of workers."""
        keys = [key for mark in item.iter_markers('matrix')
                for key in mark.args]
        if set(keys) - self._known:
            raise pytest.UsageError(
                f'{item.nodeid}: {set(keys) - self._known}: not in '
                'doc/matrix.toml')
        if keys:
            item.user_properties.append(
                ('matrix', {'name': item.nodeid, 'keys': keys}))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a test ended; it passes when all its phases do."""
        for shows in (value for name, value in report.user_properties
                      if name == 'matrix'):
            found = self._found.setdefault(
                report.nodeid, {**shows, 'outcome': 'not run'})
            if report.when == 'call' or not report.passed:
                found['outcome'] = report.outcome

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write it, unless this is a worker of another process."""
        if hasattr(session.config, 'workerinput'):
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(list(self._found.values()),
                                         indent=1))


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test with its folder's layer; skip root's for others."""
    try:
        layer = item.path.relative_to(ROOT / 'tests').parts[0]
    except ValueError:
        return
    if layer not in LAYERS:
        return
    item.add_marker(layer)
    if LAYERS[layer].startswith('root: ') and os.geteuid() != 0:
        item.add_marker(pytest.mark.skip(reason='needs root'))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
        item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Turn a skip into a failure: what it would show is not shown."""
    report = yield
    if (report.skipped and not hasattr(report, 'wasxfail')
            and not item.config.getoption('--allow-skips')):
        report.outcome = 'failed'
        report.longrepr = f'{report.longrepr[2]} (--allow-skips)'
    return report
