# SPDX-License-Identifier: Apache-2.0
"""The support matrix says what tests have shown, and nothing else."""

import importlib
import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def matrix(tmp_path, monkeypatch):
    """Return the generator, writing to a folder of its own."""
    monkeypatch.syspath_prepend(ROOT / 'doc')
    module = importlib.import_module('supportmatrix')
    readme = tmp_path / 'README.rst'
    readme.write_text(f'above\n{module.BEGIN}old\n{module.END}below\n')
    monkeypatch.setattr(module, 'README', readme)
    monkeypatch.setattr(module, 'PAGE', tmp_path / 'page.rst')
    monkeypatch.setattr(module, 'DOC', tmp_path / 'doc')
    (tmp_path / 'doc').mkdir()
    (tmp_path / 'doc/matrix.toml').write_text(
        (ROOT / 'doc/matrix.toml').read_text())
    return module


def result(name, *keys, outcome='passed'):
    return {'name': name, 'keys': list(keys), 'outcome': outcome}


@pytest.fixture
def run(tmp_path, matrix):
    def run(*results, check=False):
        path = tmp_path / 'results.json'
        path.write_text(json.dumps(results))
        return matrix.main([str(path), *(['--check'] if check else [])])
    return run


def test_what_passed_is_shown_by_name(matrix, run):
    assert run(result('tests/a.py::test_it[1]', 'operation.rescue'),
               result('tests/a.py::test_it[2]', 'operation.rescue')) == 0
    page = matrix.PAGE.read_text()
    assert ('   * - Rescue instance\n     - yes\n     - yes\n     - --\n'
            in page)
    assert page.endswith('Rescue instance\n    | ``tests/a.py::test_it``\n')
    assert page.count('``') == 2
    readme = matrix.README.read_text()
    assert readme.startswith('above\n')
    assert readme.endswith('below\n')
    assert 'nova-vcloud         1       0    58        0\n' in readme


@pytest.mark.parametrize('outcome', ['failed', 'skipped', 'not run'])
def test_a_capability_is_not_shown_by_a_part_of_its_tests(matrix, run,
                                                          outcome):
    run(result('one', 'operation.rescue'),
        result('two', 'operation.rescue', outcome=outcome))
    assert '``one``' not in matrix.PAGE.read_text()


def test_a_page_of_other_results_is_told(matrix, run, capsys):
    run(result('one', 'operation.rescue'))
    before = matrix.PAGE.read_text()
    assert run(result('one', 'operation.rescue'), check=True) == 0
    assert run(result('one', 'operation.resize'), check=True) == 1
    assert 'is not what the tests show' in capsys.readouterr().err
    assert matrix.PAGE.read_text() == before
