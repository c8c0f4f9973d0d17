# SPDX-License-Identifier: Apache-2.0
"""Loop devices of the kernel, which go by themselves."""

from concurrent import futures
import contextlib
import os
import pathlib
import subprocess
import threading

import pytest

from nova_vcloud import exception
from nova_vcloud.qos import loopdevice

SIZE = 4 << 20
MANY = 8


@pytest.fixture
def file(tmp_path):
    path = tmp_path / 'disk'
    path.write_bytes(os.urandom(SIZE))
    return path


def about(device: str, what: str) -> str:
    name = os.path.basename(device)
    return pathlib.Path(f'/sys/block/{name}/loop/{what}').read_text().strip()


def of(path: pathlib.Path) -> list[str]:
    return subprocess.check_output(
        ['losetup', '--associated', path, '--noheadings', '--output', 'NAME'],
        text=True).split()


def test_it_is_the_file_and_bypasses_the_cache(file):
    with loopdevice.attached(str(file)) as device:
        assert about(device, 'dio') == '1'
        assert about(device, 'backing_file') == str(file)
        assert of(file) == [device]
        assert pathlib.Path(device).read_bytes() == file.read_bytes()
    assert of(file) == []


def test_it_goes_with_its_last_user(file):
    with loopdevice.attached(str(file)) as device:
        user = os.open(device, os.O_RDONLY)
    try:
        assert of(file) == [device]
    finally:
        os.close(user)
    assert of(file) == []


def test_many_at_once_have_one_each(tmp_path):
    together = threading.Barrier(MANY)

    def have(number: int) -> str:
        path = tmp_path / str(number)
        path.write_bytes(bytes(SIZE))
        together.wait(10)
        with loopdevice.attached(str(path)) as device:
            together.wait(10)
            assert of(path) == [device]
            together.wait(10)
            return device

    with futures.ThreadPoolExecutor(MANY) as pool:
        assert len(set(pool.map(have, range(MANY)))) == MANY


@pytest.mark.parametrize('make', [pathlib.Path.mkdir, lambda _path: None])
def test_what_is_no_file(tmp_path, make):
    path = tmp_path / 'disk'
    make(path)
    with contextlib.ExitStack() as entered, pytest.raises(
            exception.LimitNotEnforced, match=f'{path} as a loop device'):
        entered.enter_context(loopdevice.attached(str(path)))
