# SPDX-License-Identifier: Apache-2.0
"""One too many of an application is refused by the host itself."""

import threading

from nova import exception as nova_exception
from nova import objects
import oslo_messaging
from oslo_utils.fixture import uuidsentinel as uuids
import pytest

from nova_vcloud import exception
from nova_vcloud.virt_docker.host import app_admission

objects.register_all()


def instance(uuid='new', **specs):
    return objects.Instance(
        uuid=getattr(uuids, uuid), project_id='p',
        flavor=objects.Flavor(extra_specs={
            f'vcloud:{key}': value for key, value in specs.items()}))


def admit(present=(), hints=None, defaults=(), **specs):
    found = app_admission.Admission(
        lambda: dict(present), lambda _context, _instance: hints or {},
        dict(defaults))
    with found.admitted(None, instance(**specs)) as label:
        return label


def test_a_server_of_no_application_is_nobodys_business():
    def fail():
        raise AssertionError('the engine was asked')
    found = app_admission.Admission(fail, lambda _c, _i: {}, {})
    with found.admitted(None, instance()) as label:
        assert label == ''


def test_the_label_tells_the_project_too():
    assert admit(app='web') == 'p/web'


@pytest.mark.parametrize(('wish', 'ok'), [
    ({'app_max_per_host': '1'}, False), ({'app_max_per_host': '2'}, True),
    ({'app_max_per_host': '10%'}, True), ({'app_max_per_rack': '1'}, True),
    ({'app_max_per_host': '1', 'app_policy': 'soft'}, True)])
def test_only_hard_numbers_of_a_host_are_judged(wish, ok):
    present = {'one': 'p/web', 'two': 'p/db', 'three': 'q/web'}
    hints = {key: [value] for key, value in wish.items()}
    if ok:
        assert admit(present, {'app': ['web'], **hints})
    else:
        with pytest.raises(exception.TooManyServers,
                           match='has 1 servers of application web, may '
                                 'have 1'):
            admit(present, {'app': ['web'], **hints})


def test_the_hosts_option_holds_where_nobody_says():
    with pytest.raises(exception.TooManyServers):
        admit({'one': 'p/web'}, defaults={'app_max_per_host': '1'},
              app='web')


def test_a_server_is_not_in_its_own_way():
    assert admit({uuids.new: 'p/web'}, app='web', app_max_per_host='1')


def test_of_many_at_once_one_gets_in():
    found = app_admission.Admission(dict, lambda _c, _i: {}, {})
    inside, done = [], threading.Event()
    results = []

    def build(number):
        try:
            with found.admitted(None, instance(
                    f's{number}', app='web', app_max_per_host='1')):
                inside.append(number)
                done.wait(5)
            results.append('in')
        except exception.TooManyServers:
            results.append('out')
            if len(results) == 19:
                done.set()

    threads = [threading.Thread(target=build, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inside) == 1
    assert sorted(results) == ['in'] + ['out'] * 19
    assert not found._building


@pytest.mark.parametrize('error', [
    nova_exception.RequestSpecNotFound(instance_uuid='new'),
    nova_exception.NovaException(), oslo_messaging.RemoteError('x', 'y')])
def test_no_hints_where_they_cannot_be_read(monkeypatch, error):
    def fail(_context, _uuid):
        raise error
    monkeypatch.setattr(objects.RequestSpec, 'get_by_instance_uuid', fail)
    assert app_admission.hints_of(None, instance()) == {}
