# SPDX-License-Identifier: Apache-2.0
"""nova-api refuses bad extra specs of ours, by its own code."""

import pathlib

from nova import exception
from nova.api.validation.extra_specs import validators
import pytest

from nova_vcloud.exception import InvalidRequest
from nova_vcloud.flavor import boot_keys
from nova_vcloud.flavor import flavor_keys
from nova_vcloud.flavor import flavor_limits

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(('name', 'value'), [
    ('vcloud:pids', '16'), ('vcloud:pids', '4194304'),
    ('vcloud:cpu_burst', '0'), ('vcloud:cpu_placement', 'bind'),
    ('vcloud:numa_policy', 'require'), ('vcloud:memory_soft_mb', '4'),
    ('vcloud:memory_swap_mb', '0')])
def test_good_values(name, value):
    validators.validate(name, value)
    flavor_limits.parse(1, 64, {name: value})


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
        flavor_limits.parse(1, 64, {name: value})


@pytest.mark.parametrize(('name', 'value', 'good'), [
    ('command', 'sleep 10', True), ('command', '', False),
    ('command', """sh -c 'a "b' "c 'd" e\\ f""", True),
    ('command', "sh -c 'open", False), ('command', 'open\\', False),
    ('entrypoint', '/bin/x "y z"', True), ('entrypoint', ' ', False),
    ('environment', "A=1 B='2 3' C=", True), ('environment', 'A', False),
    ('environment', '1=2', False), ('environment', 'A=1 B', False),
    ('init', 'tini', True), ('init', 'systemd', True),
    ('init', 'runit', False),
    ('stop_signal', 'SIGRTMIN+3', True), ('stop_signal', 'TERM', False),
    ('stop_signal', 'SIGSTOP', False),
    ('capabilities', 'NET_ADMIN,SYS_PTRACE', True),
    ('capabilities', 'net_admin', False), ('capabilities', 'A B', False),
    ('devices', '/dev/kvm,/dev/snd/seq', True),
    ('devices', '/etc/passwd', False), ('devices', '/dev/../x', False),
    ('devices', '/dev/', False), ('devices', '/dev/a:b', True),
    ('no_new_privileges', 'true', True), ('no_new_privileges', '1', False)])
def test_api_and_host_agree_on_how_a_server_is_started(name, value, good):
    if good:
        validators.validate(f'vcloud:{name}', value)
        boot_keys.parse({f'vcloud:{name}': value}, {})
        return
    with pytest.raises(exception.ValidationError):
        validators.validate(f'vcloud:{name}', value)
    with pytest.raises(InvalidRequest, match=f'vcloud:{name}='):
        boot_keys.parse({f'vcloud:{name}': value}, {})


@pytest.mark.parametrize('name', ['vcloud:pidz', 'vcloud:', 'vcloud:ecu'])
def test_an_unknown_key_of_ours_is_refused(name):
    with pytest.raises(exception.ValidationError, match=name):
        validators.validate(name, '1')


def test_other_namespaces_are_as_before():
    validators.validate('capabilities:hypervisor_type', 'docker')
    validators.validate('mine:anything', 'x')


def test_every_key_is_documented():
    text = ''.join((ROOT / f'doc/source/admin/{name}.rst').read_text()
                   for name in ('guests', 'limits', 'scheduling'))
    assert [key for key in flavor_keys.KEYS if key not in text] == []
