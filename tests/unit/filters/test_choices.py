# SPDX-License-Identifier: Apache-2.0
"""Which hosts are watched, whatever kinds of them a request has."""

from __future__ import annotations

from nova.scheduler import host_manager
import pytest
import zoo

from nova_vcloud.filters import choices


class Other(host_manager.HostState):
    """What another host manager makes."""


@pytest.mark.parametrize('looks', [1, 2])
@pytest.mark.parametrize('kinds', [
    (host_manager.HostState, Other, host_manager.HostState),
    (Other, Other, host_manager.HostState)])
def test_each_kind_of_host_is_watched_once(kinds, looks, monkeypatch):
    chosen = choices.Choices()
    monkeypatch.setattr(choices, 'RECENT', chosen)
    monkeypatch.setattr(host_manager.HostState, 'consume_from_request',
                        lambda _host, _spec: None)
    heard = []
    chosen.listen(lambda _server, host: heard.append(host))
    hosts = [zoo.host(f'h{number}') for number in range(len(kinds))]
    for host, kind in zip(hosts, kinds, strict=True):
        host.__class__ = kind
    choices.watch(hosts[:1])
    for _look in range(looks):
        choices.watch(hosts)
    for host, kind in zip(hosts, kinds, strict=True):
        assert isinstance(host, kind)
        host.consume_from_request(zoo.request())
    assert heard == ['h0', 'h1', 'h2']
