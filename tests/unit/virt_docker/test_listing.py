# SPDX-License-Identifier: Apache-2.0
"""What must be sent again, and what not."""

import io

import pytest

from nova_vcloud.virt_docker.rootfs import changed_files


def listed(**files: tuple[int, float]) -> list[bytes]:
    return [b'%s %d 0 %.1f %s' % (
        b'd' if name.endswith('D') else b'f', inode, time,
        name.replace('_', '/').encode())
        for name, (inode, time) in files.items()]


def again(before: list[bytes], now: list[bytes], since: float
          ) -> list[bytes]:
    return changed_files.again(changed_files.parse(
        now, changed_files.seen(before), since))


def test_only_what_changed_is_sent_again():
    before = listed(aD=(1, 1.0), aD_x=(2, 1.0), b=(3, 1.0), c=(4, 1.0))
    now = listed(aD=(1, 1.0), aD_x=(2, 1.0), b=(3, 9.0), d=(5, 1.0))
    assert again(before, now, 5.0) == [b'', b'b', b'd']


def test_a_directory_that_may_have_moved_is_sent_whole():
    below = listed(aD_x=(2, 1.0), bD=(3, 1.0), bD_x=(4, 1.0))
    before = [b'd 0 0 1.0 ', *listed(aD=(1, 1.0)), *below]
    now = [b'd 0 0 7.0 ', *listed(aD=(1, 6.0)), *below]
    assert again(before, now, 5.0) == [b'', b'aD', b'aD/x']


def test_what_is_as_new_as_the_copy_is_sent_again():
    files = listed(a=(1, 5.0), b=(2, 4.9))
    assert again(files, files, 5.0) == [b'', b'a']


@pytest.mark.parametrize('now', [
    b'f 1 3 2.0 a', b'f 2 4 2.0 a', b'l 1 4 2.0 a', b'f 1 4 2.1 a'])
def test_whatever_is_another_is_sent_again(now):
    before = [b'f 1 4 2.0 a', b'f 9 4 2.0 b']
    assert again(before, [now, before[1]], 5.0) == [b'', b'a']


def test_names_are_read_as_they_are():
    file = io.BytesIO(b'd 1 4096 1.5 \0f 2 3 2.5 with space\nand line\0')
    found = changed_files.parse(changed_files.read(file), frozenset(), 9.0)
    assert found == {
        b'': changed_files.Entry(b'd', 1, True),
        b'with space\nand line': changed_files.Entry(b'f', 2, True)}
    assert b''.join(changed_files.kept(found, [b''])) == (
        b'D\0fwith space\nand line\0')
