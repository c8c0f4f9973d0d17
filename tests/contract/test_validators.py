# SPDX-License-Identifier: Apache-2.0
"""nova-api refuses bad extra specs of ours, by its own code."""

import pathlib

from nova import exception
from nova.api.validation.extra_specs import validators
import pytest

from nova_vcloud import extra_specs
from nova_vcloud import specs

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(('name', 'value'), [
    ('vcloud:pids', '16'), ('vcloud:pids', '4194304'),
    ('vcloud:cpu_burst', '0'), ('vcloud:cpu_placement', 'bind'),
    ('vcloud:numa_policy', 'require'), ('vcloud:memory_soft_mb', '4'),
    ('vcloud:memory_swap_mb', '0')])
def test_good_values(name, value):
    validators.validate(name, value)
    specs.parse(1, 64, {name: value})


@pytest.mark.parametrize(('name', 'value'), [
    ('vcloud:pids', '15'), ('vcloud:pids', '4194305'),
    ('vcloud:pids', 'many'), ('vcloud:pids', '-1'), ('vcloud:pids', ''),
    ('vcloud:cpu_burst', '1000001'), ('vcloud:cpu_placement', 'pin'),
    ('vcloud:cpu_placement', ''), ('vcloud:numa_policy', 'Prefer'),
    ('vcloud:memory_soft_mb', '3'), ('vcloud:memory_swap_mb', '1.5')])
def test_bad_values_are_refused_by_api_and_host_alike(name, value):
    with pytest.raises(exception.ValidationError):
        validators.validate(name, value)
    with pytest.raises(Exception, match=name):
        specs.parse(1, 64, {name: value})


@pytest.mark.parametrize('name', ['vcloud:pidz', 'vcloud:', 'vcloud:ecu'])
def test_an_unknown_key_of_ours_is_refused(name):
    with pytest.raises(exception.ValidationError, match=name):
        validators.validate(name, '1')


def test_other_namespaces_are_as_before():
    validators.validate('capabilities:hypervisor_type', 'docker')
    validators.validate('mine:anything', 'x')


def test_every_key_is_documented():
    text = ''.join((ROOT / f'doc/source/admin/{name}.rst').read_text()
                   for name in ('limits', 'scheduling'))
    assert [key for key in extra_specs.KEYS if key not in text] == []
