# SPDX-License-Identifier: Apache-2.0
"""The page of security names tests that there are."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / 'doc/source/admin/security.rst'
NAMES = sorted(set(re.findall(r'``(?:tests/[a-z/]*/)?(test_\w+)``',
                              PAGE.read_text())))


@pytest.fixture(scope='module')
def known() -> set[str]:
    """Names of modules of tests, and of the tests in them."""
    paths = list((ROOT / 'tests').rglob('test_*.py'))
    return {path.stem for path in paths} | {
        name for path in paths for name in re.findall(
            r'^ *def (test_\w+)\(', path.read_text(), re.MULTILINE)}


def test_it_names_tests():
    assert len(NAMES) > 40


@pytest.mark.parametrize('name', NAMES)
def test_each_is_there(known, name):
    assert name in known


def test_each_file_of_attacks_is_on_the_page():
    files = {path.stem for path in ROOT.glob('tests/security/test_*.py')}
    assert files - set(NAMES) == set()
