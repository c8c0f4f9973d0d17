# SPDX-License-Identifier: Apache-2.0
"""Builds that fail fill no disk, and one project's images not another's."""

from concurrent import futures
import contextlib
import json
import signal
import subprocess
import sys
import tarfile
import threading
import uuid

import image_hosts  # found by tests/conftest.py
from nova import exception as nova_exception
from nova import objects
from oslo_concurrency import lockutils
import pytest
from registry import configuration
from registry import layer

from nova_vcloud import exception
from nova_vcloud.image import unpacked_size
from nova_vcloud.virt_docker import server_labels
from nova_vcloud.virt_docker.image import image_reservations
from nova_vcloud.virt_docker.image import imagerecords
from nova_vcloud.virt_docker.image import imageroom
from nova_vcloud.virt_docker.image import images

MIB = 1 << 20
MINUTE, HOUR = 60, 3600


class BuildError(Exception):
    """What a server's build may fail of."""


@pytest.fixture
def host(dockerd, tmp_path):
    with image_hosts.private(dockerd, tmp_path) as found:
        yield found


def content(size=MIB, **config):
    """Return an image that no other test has, of so many bytes."""
    one = layer(x=uuid.uuid4().bytes * (size // 16))
    return image_hosts.saved(one, config=configuration(one, **config))


def build(host, image_id, root_gb=1, error=None, then=lambda: None):
    """Build a server, as far as it is of an image.

    :param then: is called when the image is there
    """
    with host.store.building(image_id):
        host.ensure(image_id, root_gb)
        then()
        if error:
            raise error


def too_small(host):
    build(host, host.upload(content(20 * MIB)), root_gb=0.01)


def of_another_machine(host):
    build(host, host.upload(content(architecture='s390x')))


def cut_off(host):
    build(host, host.upload(content()[:MIB // 2]))


def refused_by_the_engine(host):
    # A file where the engine has to make a folder: of another layer.
    bad = layer(**{'dev\0': b'x'})
    build(host, host.upload(image_hosts.saved(
        layer(big=uuid.uuid4().bytes * 5000), bad,
        config=configuration(layer(), layer()))))


def not_started(host):
    build(host, host.upload(content()), error=BuildError())


def of_a_command_that_is_none(host):
    """One that loads and can't be started, as an engine says."""
    build(host, host.upload(content()), error=exception.EngineError('x'))


FAILURES = {found.__name__: found for found in (
    too_small, of_another_machine, cut_off, refused_by_the_engine,
    not_started, of_a_command_that_is_none)}


@pytest.mark.parametrize('name', FAILURES)
def test_a_failed_build_leaves_nothing(host, tmp_path, name):
    before = host.contents()
    for _ in range(3):
        with pytest.raises((nova_exception.NovaException, BuildError,
                            exception.EngineError)):
            FAILURES[name](host)
    assert host.settled(before) == before
    assert not any((tmp_path / 'used').iterdir())


def test_a_failed_build_takes_away_no_image_of_others(host, dockerd):
    kept = host.upload(content())
    build(host, kept)
    with pytest.raises(BuildError):
        build(host, kept, error=BuildError())
    assert host.there(kept)

    # One that is kept by nothing but a container, of whatever host.
    used = host.upload(content())
    with pytest.raises(BuildError):
        build(host, used, error=BuildError(), then=lambda: dockerd.engine
              .create(f'other-{used}', server_of(used)))
    assert host.there(used)
    dockerd.engine.remove(f'other-{used}')


def server_of(image_id):
    """Return what a server of an image is made by."""
    return {'Image': images.tag_of(image_id), 'Cmd': ['/x'], 'Labels': {
        server_labels.UUID: str(uuid.uuid4()),
        server_labels.IMAGE: image_id},
        'HostConfig': {'NetworkMode': 'none'}}


def test_the_last_of_several_builds_takes_it_away(host):
    image_id, both = host.upload(content()), threading.Barrier(2)
    failed, left = threading.Event(), []

    def first():
        with pytest.raises(BuildError):
            build(host, image_id, error=BuildError(),
                  then=lambda: both.wait(MINUTE))
        failed.set()

    def while_the_first_fails():
        both.wait(MINUTE)
        assert failed.wait(MINUTE)
        left.append(host.there(image_id))

    thread = threading.Thread(target=first)
    thread.start()
    with pytest.raises(BuildError):
        build(host, image_id, error=BuildError(), then=while_the_first_fails)
    thread.join()
    assert left == [True]
    assert not host.there(image_id)


def test_what_a_killed_build_has_left_goes_at_the_next_look(host):
    image_id = host.upload(content())
    host.ensure(image_id)  # and nobody says how its build ended
    host.cache.prune([])
    assert host.there(image_id)  # it may have just begun
    host.age(image_id, 2 * MINUTE)
    host.cache.prune([])
    assert not host.there(image_id)


def test_a_look_during_a_build_keeps_nothing_of_it(host):
    """Nova's record of the server that fails names the image."""
    image_id = host.upload(content())
    server = objects.Instance(uuid=str(uuid.uuid4()), image_ref=image_id)
    before = host.contents()
    with pytest.raises(BuildError):
        build(host, image_id, error=BuildError(),
              then=lambda: host.cache.prune([server]))
    assert host.settled(before) == before
    # One that has a server is kept.
    build(host, image_id, then=lambda: host.cache.prune([server]))
    host.cache.prune([server])
    assert host.store.records.read(image_id).kept


def bounded(dockerd, tmp_path, **bounds):
    return image_hosts.private(dockerd, tmp_path,
                               bounds=imageroom.Bounds(**bounds))


def test_a_project_has_so_much_and_no_more(dockerd, tmp_path):
    with bounded(dockerd, tmp_path, max_project_gb=1.07) as host:
        mine = []
        for _ in range(3):  # of 40 MiB each, where 110 are to be had
            mine.append(host.upload(content(40 * MIB), owner='eve'))
            build(host, mine[-1])
            host.age(mine[-1], HOUR - len(mine))
        # The first one went for the last, which wants a GiB to be sure.
        assert [host.there(each) for each in mine] == [False, True, True]
        # Others, and what is the operator's, are as they were.
        for fields in ({'owner': 'bob'},
                       {'owner': 'eve', 'visibility': 'public'}):
            image_id = host.upload(content(40 * MIB), **fields)
            build(host, image_id)
            host.age(image_id, HOUR)
            build(host, host.upload(content(), owner='eve'))
            assert host.there(image_id)


def test_images_in_use_are_a_reason_to_refuse(dockerd, tmp_path):
    with bounded(dockerd, tmp_path, max_project_gb=0.05) as host:
        used = host.upload(content(40 * MIB), owner='eve')
        build(host, used)
        host.age(used, HOUR)
        container = dockerd.engine.create(f'server-{used}', server_of(used))
        before = host.contents()
        more = host.upload(content(40 * MIB), owner='eve')
        try:
            with pytest.raises(
                    nova_exception.ComputeResourcesUnavailable,
                    match='project eve take all the room'):
                build(host, more)
            assert host.settled(before) == before
            # It may have what is smaller.
            build(host, host.upload(content(), owner='eve'))
        finally:
            dockerd.engine.remove(container)
        build(host, more)
        assert not host.there(used)


def test_images_that_come_at_once_are_counted_together(dockerd, tmp_path):
    """Each of them would fit, and no two of them do."""
    with bounded(dockerd, tmp_path, max_project_gb=0.05) as host:
        ids = [host.upload(content(40 * MIB), owner='eve') for _ in range(4)]
        together = threading.Barrier(len(ids))

        def one(image_id):
            together.wait()
            build(host, image_id)

        with futures.ThreadPoolExecutor(len(ids)) as pool:
            builds = [pool.submit(one, each) for each in ids]
        errors = [each.exception() for each in builds]
        assert len([each for each in errors if not each]) == 1
        assert all(isinstance(
            each, nova_exception.ComputeResourcesUnavailable)
            for each in errors if each), errors
        assert sum(map(host.there, ids)) == 1


def room(size, files=10**6):
    """Return what is free of which images may take so much."""
    return lambda: imageroom.Free(2 * size, 2 * files, 50.0)


def at_once(host, ids):
    """Build servers of images that come at one time."""
    together = threading.Barrier(len(ids))
    download = host.store._download

    def first(context, image_id):
        together.wait(MINUTE)
        yield from download(context, image_id)

    host.store._download = first
    try:
        with futures.ThreadPoolExecutor(len(ids)) as pool:
            builds = [pool.submit(build, host, each) for each in ids]
        return [each.exception() for each in builds]
    finally:
        host.store._download = download


@pytest.mark.parametrize('kind', ['bytes', 'files'])
def test_loads_at_once_share_the_disk(host, tmp_path, monkeypatch, kind):
    """Each would fit into what is free when it begins; not all of them."""
    if kind == 'bytes':
        monkeypatch.setattr(host.store.room, 'free', room(100 * MIB))
        ids = [host.upload(content(40 * MIB)) for _ in range(5)]
    else:
        monkeypatch.setattr(host.store.room, 'free', room(1 << 40, 1000))
        ids = [host.upload(image_hosts.saved(layer(**{
            f'{name}{number}': b'x' for number in range(400)})))
            for name in 'abcde']
    before = host.contents()
    errors = at_once(host, ids)
    # Nor is none of them let in: what came first has it.
    assert sum(map(host.there, ids)) == errors.count(None)
    assert 1 <= errors.count(None) <= 2
    assert all(isinstance(each, exception.EngineError)
               and 'has room for' in str(each)
               for each in errors if each), errors
    for image_id in filter(host.there, ids):
        host.store.room.discard(image_id)
    assert host.settled(before) == before
    # Nothing is kept for them: one alone has all.
    assert not any((tmp_path / 'loading').iterdir())
    build(host, ids[0])


def test_loads_that_fit_are_all_let_in(host, monkeypatch):
    monkeypatch.setattr(host.store.room, 'free', room(220 * MIB))
    ids = [host.upload(content(40 * MIB)) for _ in range(4)]
    assert at_once(host, ids) == [None] * 4


def test_a_load_that_was_killed_keeps_no_room(tmp_path):
    loads = image_reservations.Reservations(
        str(tmp_path), lambda: unpacked_size.Weight(100, 100))
    done = subprocess.run([sys.executable, '-c', (
        'import os, sys\n'
        'from nova_vcloud.image import unpacked_size\n'
        'from nova_vcloud.virt_docker.image import image_reservations\n'
        'loads = image_reservations.Reservations(\n'
        '    sys.argv[1], lambda: unpacked_size.Weight(100, 100))\n'
        'with loads.load() as take:\n'
        '    take(unpacked_size.Weight(90, 90))\n'
        '    os.kill(os.getpid(), 9)\n'), str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    with loads.load() as take:
        take(unpacked_size.Weight(100, 100))
        with pytest.raises(exception.NoRoomForImage):
            take(unpacked_size.Weight(101, 100))


def test_a_load_that_was_killed_as_it_began_leaves_no_file(tmp_path):
    loads = image_reservations.Reservations(
        str(tmp_path), lambda: unpacked_size.Weight(100, 100))
    (tmp_path / 'loading').mkdir()
    (tmp_path / 'loading' / str(uuid.uuid4())).touch()
    with loads.load() as take:
        take(unpacked_size.Weight(100, 100))
        assert len(list((tmp_path / 'loading').iterdir())) == 1
    assert not any((tmp_path / 'loading').iterdir())


def test_the_first_of_those_that_meet_the_bound_goes_on(tmp_path):
    loads = image_reservations.Reservations(
        str(tmp_path), lambda: unpacked_size.Weight(100, 100))
    with futures.ThreadPoolExecutor(1) as pool, loads.load() as first:
        first(unpacked_size.Weight(40, 1))
        waiting = []

        def second():
            with loads.load() as other:
                other(unpacked_size.Weight(40, 1))
                waiting.append(pool.submit(first, unpacked_size.Weight(80, 1)))
                other(unpacked_size.Weight(80, 1))

        with pytest.raises(exception.NoRoomForImage):
            second()
        waiting[0].result(MINUTE)
        # Which none can give: at once.
        with pytest.raises(exception.NoRoomForImage), loads.load():
            first(unpacked_size.Weight(101, 1))


def test_what_a_load_has_taken_counts_for_those_beside_it(tmp_path):
    loads = image_reservations.Reservations(
        str(tmp_path), lambda: unpacked_size.Weight(100, 100))
    with loads.load() as take:
        with loads.load() as other:
            other(unpacked_size.Weight(60, 1))
        # It is on the disk now, which was looked at before.
        with pytest.raises(exception.NoRoomForImage):
            take(unpacked_size.Weight(50, 1))
        with contextlib.suppress(BuildError), loads.load() as other:
            other(unpacked_size.Weight(20, 1))
            raise BuildError
        take(unpacked_size.Weight(30, 1))  # what has failed is gone


def test_a_look_at_the_images_keeps_none_of_a_failed_build(
        host, monkeypatch):
    """Nova names the server still, and the look asks for builds of it."""
    image_id = host.upload(content())
    host.ensure(image_id)
    records = host.store.records
    unbuilt, ends = records.unbuilt, []

    @contextlib.contextmanager
    def meanwhile(each):
        monkeypatch.setattr(records, 'unbuilt', unbuilt)
        with unbuilt(each) as found:
            ends.append(threading.Thread(target=host.store._give_up,
                                         args=(each,)))
            ends[0].start()
            ends[0].join(2)  # or it waits until we are done
            yield found

    monkeypatch.setattr(records, 'unbuilt', meanwhile)
    host.cache.prune([objects.Instance(
        uuid=str(uuid.uuid4()), image_ref=image_id)])
    ends[0].join(MINUTE)
    assert not host.there(image_id)
    assert not records.known(image_id)


def test_no_lock_stays_for_an_image(host, tmp_path):
    (tmp_path / 'nova-vcloud-image-of-before').touch()
    image_id = host.upload(content())
    build(host, image_id)
    with host.store.records.locked(image_id), \
            host.store.records.counted('a'):
        with pytest.raises(lockutils.AcquireLockFailedException), \
                host.store.records.locked(image_id, blocking=False):
            pass
        assert len(list((tmp_path / 'locks').iterdir())) == 2
    host.cache.prune([])
    assert not any((tmp_path / 'locks').iterdir())
    assert not list(tmp_path.glob('nova-vcloud-image-*'))


def test_one_at_a_time_has_a_lock_that_comes_and_goes(tmp_path):
    records, inside, most = imagerecords.Records(str(tmp_path)), [], []

    def take():
        for _each in range(50):
            with records.locked('a'):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    with futures.ThreadPoolExecutor(8) as pool:
        for each in [pool.submit(take) for _ in range(8)]:
            each.result(MINUTE)
    assert most == [1] * 400


def test_attributes_that_no_file_system_takes_are_the_images_fault(host):
    """An engine calls it a full disk."""
    info = tarfile.TarInfo('f')
    info.pax_headers = {'SCHILY.xattr.user.a': 'x' * 60_000}
    one = info.tobuf(tarfile.PAX_FORMAT) + bytes(1024)
    before = host.contents()
    with contextlib.suppress(nova_exception.ImageUnacceptable):
        build(host, image_id := host.upload(image_hosts.saved(one)))
        assert host.there(image_id)  # as on xfs
        host.store.room.discard(image_id)
    assert host.settled(before) == before


def test_a_full_disk_has_no_image_that_nobody_needs(dockerd, tmp_path):
    with bounded(dockerd, tmp_path, min_free=0) as host:
        old, used = host.upload(content()), host.upload(content())
        for image_id in (old, used):
            build(host, image_id)
            host.age(image_id, HOUR)
        host.cache.prune([])
        assert host.there(old)
        # No disk has more free than all of it.
        host.store.room.bounds = imageroom.Bounds(min_free=101)
        host.cache.prune([objects.Instance(
            uuid=str(uuid.uuid4()), image_ref=used)])
        assert not host.there(old)
        assert host.there(used)
        host.age(used, HOUR)
        build(host, host.upload(content()))  # nor when one is loaded
        assert not host.there(used)


def test_records_of_an_earlier_release_keep_their_images(host, tmp_path):
    """It has written empty files: nobody's, and not of a failed build."""
    image_id = host.upload(content())
    build(host, image_id)
    (tmp_path / 'used' / image_id).write_bytes(b'')
    host.age(image_id, HOUR)
    with pytest.raises(BuildError):
        build(host, image_id, error=BuildError())
    host.cache.prune([])
    assert host.there(image_id)
    (tmp_path / 'used' / image_id).write_text(json.dumps({'kept': False}))
    assert host.store.records.read(image_id).kept
