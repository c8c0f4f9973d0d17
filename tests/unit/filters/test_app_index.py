# SPDX-License-Identifier: Apache-2.0
"""What is known of applications: from databases, and from choices."""

import threading
import time

import pytest

from nova_vcloud.filters import app_index
from nova_vcloud.filters import app_reader
from nova_vcloud.flavor import applications

WEB = applications.Key('p', 'web')


class Clock:
    """Time that a test sets."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def index(databases, clock):
    return app_index.Index(lambda: databases, lambda: 0.01, clock)


def seen(index, databases, *places):
    """Let the index see where servers are."""
    databases.places = lambda: [app_index.Place(*each) for each in places]
    index.look(databases)


def test_a_choice_counts_until_the_host_has_taken_it(index, databases):
    index.note_request('s', WEB)
    assert index.placed(WEB, None) == {}
    index.note_choice('s', 'a')
    assert index.placed(WEB, None) == {'a': 1}
    seen(index, databases, ('s', None))
    assert index.placed(WEB, None) == {'a': 1}
    # The build failed there and went on elsewhere.
    seen(index, databases, ('s', 'b'))
    assert index.placed(WEB, None) == {'b': 1}


def test_one_that_moves_counts_twice(index, databases, clock):
    index.note_request('s', WEB)
    seen(index, databases, ('s', 'a'))
    index.note_choice('s', 'b')
    assert index.placed(WEB, None) == {'a': 1, 'b': 1}
    seen(index, databases, ('s', 'b'))
    assert index.placed(WEB, None) == {'b': 1}
    index.note_choice('s', 'c')
    clock.now += app_index.CHOICE_TTL
    assert index.placed(WEB, None) == {'b': 1}


def test_a_choice_without_a_sign_is_forgotten(index, databases, clock):
    index.note_request('s', WEB)
    index.note_choice('s', 'a')
    clock.now += app_index.CHOICE_TTL
    assert index.placed(WEB, None) == {}
    seen(index, databases)
    assert index._choices == {}


def test_nothing_is_kept_of_what_is_deleted(index, databases):
    index.note_request('s', WEB)
    index.note_choice('s', 'a')
    seen(index, databases, ('s', 'a', True))
    assert index.placed(WEB, None) == {}
    assert not any((index._members, index._keys, index._hosts,
                    index._choices))


def test_servers_of_no_application_take_no_room(index, databases):
    index.note_choice('other', 'a')
    seen(index, databases, ('other', 'a'))
    assert not any((index._keys, index._hosts, index._choices))


def test_a_new_one_is_looked_up_wherever_it_is(index, databases):
    databases.requests = [('old', WEB)]
    databases.now = [app_index.Place('old', 'a')]
    index.look(databases)
    assert index.placed(WEB, None) == {'a': 1}
    assert index.placed(WEB, 'old') == {}


def test_an_application_may_change(index):
    index.note_request('s', WEB)
    index.note_choice('s', 'a')
    index.note_request('s', applications.Key('p', 'other'))
    assert index.placed(WEB, None) == {}
    assert index.placed(applications.Key('p', 'other'), None) == {'a': 1}


def test_a_thread_looks_and_outlives_errors(databases, caplog):
    looks = []

    def fail():
        looks.append(threading.current_thread().name)
        if len(looks) > 2:
            threading.Event().wait()  # for ever: enough was seen
        raise OSError('no database')

    databases.applications = fail
    index = app_index.Index(lambda: databases, lambda: 0.01)
    index.watch()
    index.watch()
    deadline = time.monotonic() + 60
    while len(looks) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert set(looks) == {'vcloud-applications'}
    assert caplog.text.count('no database') == 1


REQUEST = ('{"nova_object.data": {"project_id": "p", "scheduler_hints": '
           '{"app": ["%s"]}, "flavor": {"nova_object.data": '
           '{"extra_specs": {"vcloud:app": "f"}}}}}')


@pytest.mark.parametrize(('text', 'name'), [
    (REQUEST % 'web', 'web'), (REQUEST.replace('"app"', '"x"'), 'f'),
    (REQUEST % 'a b', None), ('{}', None), ('[]', None), ('"x"', None),
    ('', None), ('{"nova_object.data": {"scheduler_hints": null}}', None),
    ('{"nova_object.data": {"flavor": null}}', None),
    ('{"nova_object.data": 7}', None)])
def test_a_stored_request(text, name):
    key = app_reader.application(text)
    assert (key and key.name) == name
