# SPDX-License-Identifier: Apache-2.0
"""The rules of tests/conftest.py, seen in a run of pytest of their own."""

import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path):
    """A tree with our conftest and two tests; returns a way to run it."""
    for layer in ('unit', 'functional'):
        (tmp_path / 'tests' / layer).mkdir(parents=True)
    shutil.copy(ROOT / 'tests' / 'conftest.py', tmp_path / 'tests')
    shutil.copy(ROOT / 'pyproject.toml', tmp_path)
    (tmp_path / 'qos').mkdir()
    (tmp_path / 'qos' / '__init__.py').write_text('')
    (tmp_path / 'tests' / 'unit' / 'test_a.py').write_text(
        'import importlib.util, pytest\n'
        'def test_path(): assert importlib.util.find_spec("qos") is None\n'
        'def test_skip(): pytest.skip("no such kernel")\n')
    (tmp_path / 'tests' / 'functional' / 'test_b.py').write_text(
        'def test_layer(): pass\n')

    def run(*arguments):
        return subprocess.run(
            [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider',
             *arguments],
            cwd=tmp_path, text=True, capture_output=True, timeout=60,
            check=False, env={'PATH': '/usr/bin:/bin'})
    return run


def test_root_is_not_on_the_path_with_python_m(run):
    assert '1 passed' in run('-k', 'test_path').stdout


def test_layers_are_markers(run):
    assert '1 passed' in run('-m', 'functional').stdout


def test_a_skip_fails_with_its_reason(run):
    done = run('-k', 'test_skip')
    assert done.returncode == 1
    assert 'Skipped: no such kernel (--allow-skips)' in done.stdout


def test_a_skip_passes_where_it_is_allowed(run):
    done = run('-k', 'test_skip', '--allow-skips')
    assert (done.returncode, '1 skipped' in done.stdout) == (0, True)


def test_a_layer_stays_in_one_worker(run):
    done = run('-n', '2', '--dist', 'loadscope', '-v')
    found = {}
    for line in done.stdout.splitlines():
        if line.startswith('[gw'):
            words = line.split()
            found.setdefault(words[-1].split('/')[1], set()).add(words[0])
    assert len(found['unit']) == len(found['functional']) == 1
    assert found['unit'] != found['functional']
