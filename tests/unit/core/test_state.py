# SPDX-License-Identifier: Apache-2.0
"""Documents that outlive the process, and its neighbours."""

import multiprocessing
import os
import threading
import time

import pytest

from nova_vcloud import exception
from nova_vcloud import json_documents


@pytest.fixture
def documents(tmp_path):
    return json_documents.Documents(str(tmp_path / 'records'))


def test_a_document_comes_back_as_it_was(documents):
    documents.save('a', {'x': [1, 'ü'], 'y': None})
    assert documents.load('a') == {'x': [1, 'ü'], 'y': None}
    assert documents.names() == ['a']


def test_an_absent_document_is_none_and_may_be_deleted(documents):
    assert documents.load('a') is None
    assert documents.names() == []
    documents.delete('a')


def test_deleting_leaves_no_file(documents, tmp_path):
    with documents.locked('a'):
        documents.save('a', {})
    documents.delete('a')
    assert os.listdir(tmp_path / 'records') == []


def test_a_damaged_document_is_named(documents, tmp_path):
    documents.save('a', {})
    (tmp_path / 'records/a.json').write_text('{"x": ')
    with pytest.raises(exception.StateError, match=r'a\.json is damaged'):
        documents.load('a')


def test_what_cannot_be_written_leaves_the_old_one_alone(documents, tmp_path):
    documents.save('a', {'x': 1})
    with pytest.raises(TypeError):
        documents.save('a', {'x': object()})
    assert documents.load('a') == {'x': 1}
    assert os.listdir(tmp_path / 'records') == ['a.json']


def test_only_the_owner_may_read(documents, tmp_path):
    documents.save('a', {})
    assert (tmp_path / 'records').stat().st_mode & 0o777 == 0o700
    assert (tmp_path / 'records/a.json').stat().st_mode & 0o777 == 0o600


def _count(directory, times):
    documents = json_documents.Documents(directory)
    for _ in range(times):
        with documents.locked('a'):
            number = (documents.load('a') or {'n': 0})['n']
            documents.save('a', {'n': number + 1})


def test_processes_wait_for_each_other(documents, tmp_path):
    context = multiprocessing.get_context('fork')
    workers = [context.Process(target=_count,
                               args=(str(tmp_path / 'records'), 50))
               for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert documents.load('a') == {'n': 150}


def test_who_waited_while_the_lock_went_away_locks_the_new_one(documents):
    """A lock that is deleted under a waiter must not be two locks."""
    inside = []

    def wait():
        with documents.locked('a'):
            inside.append('waiter')
            time.sleep(0.2)
            inside.append('waiter leaves')

    with documents.locked('a'):
        waiter = threading.Thread(target=wait)
        waiter.start()
        time.sleep(0.1)
        documents.delete('a')
    while not inside:
        time.sleep(0.01)
    with documents.locked('a'):
        inside.append('third')
    waiter.join()
    assert inside == ['waiter', 'waiter leaves', 'third']
