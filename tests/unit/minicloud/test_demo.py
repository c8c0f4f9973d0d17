# SPDX-License-Identifier: Apache-2.0
"""What the demo plans to boot."""

import types

from mini import demo


def server(**changes):
    facts = {
        'status': 'ACTIVE',
        'compute_host': 'compute1',
        'addresses': {'lan': [{'addr': '10.77.0.11'}]},
        **changes,
    }
    return types.SimpleNamespace(**facts)


def test_each_host_gets_one_server_of_each_image():
    plan = demo.plan(['compute1', 'compute2', 'compute3'])

    assert sorted((w.image, w.host) for w in plan) == [
        ('debian-12', 'compute1'),
        ('debian-12', 'compute3'),
        ('tiny', 'compute1'),
        ('tiny', 'compute3'),
    ]
    assert len({w.address for w in plan}) == 4


def test_one_host_is_enough():
    assert {w.host for w in demo.plan(['compute1'])} == {'compute1'}


def test_a_server_is_used_again_only_if_all_is_as_wanted():
    wanted = demo.plan(['compute1', 'compute2'])[0]

    assert demo.is_as_wanted(server(), wanted)
    assert not demo.is_as_wanted(server(status='ERROR'), wanted)
    assert not demo.is_as_wanted(server(compute_host='compute2'), wanted)
    assert not demo.is_as_wanted(server(addresses={}), wanted)
    assert not demo.is_as_wanted(server(addresses=None), wanted)
