# SPDX-License-Identifier: Apache-2.0
"""tests/run: every step runs, any failure is the exit code.

The script is real; the tools that it calls are stand-ins that write down
their calls and exit as the test wants.
"""

import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = ('ruff', 'codespell', 'doc8', 'bashate', 'shellcheck', 'mypy',
         'sphinx-build', 'reno', 'pytest', 'python')
STAND_IN = '''#!/bin/sh
echo "${0##*/} $*" >>"$CALLS"
case " $FAILING " in *" ${0##*/} "*) exit 3 ;; esac
'''


class Tree:
    """A copy of the script in a tree of stand-ins."""

    def __init__(self, folder):
        self.folder = folder
        self.calls_file = folder / 'calls'
        for place in ('tests', 'devstack', 'cache/venv/bin'):
            (folder / place).mkdir(parents=True)
        shutil.copy(ROOT / 'tests' / 'run', folder / 'tests')
        tools = [folder / 'cache/venv/bin' / name for name in TOOLS]
        for tool in (*tools, folder / 'devstack' / 'minicloud'):
            tool.write_text(STAND_IN)
            tool.chmod(0o755)
        subprocess.run(['git', 'init', '-q'], cwd=folder, check=True)

    def run(self, *arguments, failing=''):
        self.calls_file.write_text('')
        return subprocess.run(
            ['tests/run', *arguments], cwd=self.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60,
            check=False, env={
                'PATH': '/usr/local/bin:/usr/bin:/bin',
                'MINICLOUD_CACHE': str(self.folder / 'cache'),
                'CALLS': str(self.calls_file), 'FAILING': failing})

    def calls(self, tool):
        return [line for line in self.calls_file.read_text().splitlines()
                if line.split()[0] == tool]


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def test_all_is_every_check_and_one_pytest_of_all_layers(tree):
    done = tree.run()
    assert done.returncode == 0, done.stdout
    assert tree.calls('minicloud') == [
        'minicloud install --with-cinder --with-horizon']
    [pytest_call] = tree.calls('pytest')
    assert pytest_call.endswith(
        'tests/integration tests/unit tests/contract tests/functional '
        'tests/vm tests/security')
    for tool in TOOLS:
        assert tree.calls(tool), tool
    assert any('supportmatrix.py --check' in call
               for call in tree.calls('python'))
    assert 'FAILED' not in done.stdout


def test_a_choice_of_tests_says_nothing_of_the_support_matrix(tree):
    assert tree.run('all', '-k', 'some').returncode == 0
    assert not any('supportmatrix' in call for call in tree.calls('python'))


@pytest.mark.parametrize('tool', [
    'ruff', 'codespell', 'doc8', 'bashate', 'shellcheck', 'mypy',
    'sphinx-build', 'reno', 'pytest'])
def test_any_failing_check_fails_the_run_after_the_others(tree, tool):
    done = tree.run(failing=tool)
    assert done.returncode == 1
    assert 'FAILED: ' in done.stdout.splitlines()[-1]
    assert tree.calls('pytest'), 'the tests were not run'


@pytest.mark.parametrize('tool', ['minicloud', 'python'])
def test_nothing_is_tested_in_half_an_environment(tree, tool):
    done = tree.run(failing=tool)
    assert done.returncode == 1
    assert not tree.calls('pytest')
    assert not tree.calls('ruff')


def test_one_layer_takes_arguments_for_pytest(tree):
    assert tree.run('functional', '-k', 'restart').returncode == 0
    [call] = tree.calls('pytest')
    assert call.endswith('tests/functional -k restart')
    assert not tree.calls('ruff')


def test_lint_runs_no_tests(tree):
    assert tree.run('lint').returncode == 0
    assert tree.calls('mypy')
    assert not tree.calls('pytest')


def test_clean_removes_the_cloud_of_the_tests_and_installs_nothing(tree):
    assert tree.run('clean').returncode == 0
    assert tree.calls('minicloud') == ['minicloud clean']


def test_unknown_layer_is_refused_with_the_usage(tree):
    done = tree.run('unti')
    assert done.returncode == 2
    assert 'tests/run [all|lint|unit' in done.stdout
    assert not tree.calls('minicloud')


def test_shell_files_are_found_by_what_they_are(tree):
    for name, text in {
            'a-script': '#!/bin/sh\n', 'b.bash': '#!/usr/bin/env bash\n',
            'devstack/settings': 'X=1\n', 'c.py': '#!/usr/bin/env python3\n',
            'devstack/mini/templates/t.sh': '#!/bin/sh\n',
            'text': 'no script\n'}.items():
        (tree.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (tree.folder / name).write_text(text)
    tree.run('lint')
    [call] = tree.calls('bashate')
    files = set(call.split()[5:])
    assert {'a-script', 'b.bash', 'devstack/settings', 'tests/run'} <= files
    assert files.isdisjoint({'c.py', 'devstack/mini/templates/t.sh', 'text'})
