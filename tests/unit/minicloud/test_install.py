# SPDX-License-Identifier: Apache-2.0
"""What decides that something is to be installed anew."""

import pathlib
import stat

import pytest

from mini import install

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture
def tree(tmp_path):
    for part in install.PROJECT_PARTS:
        path = tmp_path / part
        if '.' in part:
            path.write_text(part)
        else:
            path.mkdir()
            (path / '__init__.py').write_text(part)
    return tmp_path


def test_every_part_of_the_project_exists():
    for part in install.PROJECT_PARTS:
        assert (ROOT / part).exists(), part


def test_the_hash_follows_content_and_names(tree):
    before = install.project_hash(tree)

    (tree / 'qos' / '__pycache__').mkdir()
    (tree / 'qos' / '__pycache__' / 'x.pyc').write_text('x')
    assert install.project_hash(tree) == before

    (tree / 'qos' / '__init__.py').write_text('changed')
    changed = install.project_hash(tree)
    assert changed != before

    (tree / 'qos' / '__init__.py').rename(tree / 'qos' / 'other.py')
    assert install.project_hash(tree) not in {before, changed}


def test_no_service_starts_while_packages_are_installed(tmp_path):
    policy = tmp_path / 'policy-rc.d'
    with install._no_autostart(policy):
        assert 'exit 101' in policy.read_text()
        assert stat.S_IMODE(policy.stat().st_mode) == 0o755
    assert not policy.exists()


def test_a_policy_that_is_there_stays_as_it_is(tmp_path):
    policy = tmp_path / 'policy-rc.d'
    policy.write_text('mine')
    with install._no_autostart(policy):
        assert policy.read_text() == 'mine'
    assert policy.read_text() == 'mine'


def test_requirements_are_pinned_and_constraints_agree():
    def pins(name):
        lines = (ROOT / 'devstack' / name).read_text().splitlines()
        rows = [line for line in lines if line and line[0] != '#']
        return {
            row.partition('==')[0].lower().replace('_', '-'): row
            for row in rows
        }

    constraints = pins('constraints.txt')
    for name, row in pins('requirements.txt').items():
        if name == 'setuptools':  # the one that the venv brings
            continue
        assert '==' in row, row
        if name in constraints:
            assert constraints[name].lower().replace('_', '-') == (
                row.lower().replace('_', '-')
            )
