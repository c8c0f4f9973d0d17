# SPDX-License-Identifier: Apache-2.0
"""A thread that looks, whatever it sees."""

import threading

from nova_vcloud.qos import periodic


def test_it_goes_on_after_an_error():
    looks = []
    third = threading.Event()

    def look():
        looks.append(None)
        if len(looks) == 3:
            third.set()
        raise RuntimeError('planted')

    found = periodic.Watch(look, 0.01)
    found.start()
    assert third.wait(10)
    found.stop()


def test_it_ends_when_told_to():
    looked = threading.Event()
    before = set(threading.enumerate())
    found = periodic.Watch(looked.set, 3600)
    found.start()
    thread, = set(threading.enumerate()) - before
    found.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert not looked.is_set()


def test_zero_never_looks():
    before = threading.active_count()
    periodic.Watch(lambda: None, 0).start()
    assert threading.active_count() == before
