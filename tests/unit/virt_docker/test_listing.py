# SPDX-License-Identifier: Apache-2.0
"""What must be sent again, and what not."""

from nova_vcloud.virt_docker import listing


def listed(**files: tuple[int, float]) -> listing.Listing:
    return {name.replace('_', '/').encode(): listing.Entry(
        b'd' if name.endswith('D') else b'f', str(inode).encode(), b'0', time)
        for name, (inode, time) in files.items()}


def test_only_what_changed_is_sent_again():
    before = listed(aD=(1, 1.0), aD_x=(2, 1.0), b=(3, 1.0), c=(4, 1.0))
    now = listed(aD=(1, 1.0), aD_x=(2, 1.0), b=(3, 9.0), d=(5, 1.0))
    assert listing.again(before, now, 5.0) == [b'', b'b', b'd']


def test_a_directory_that_may_have_moved_is_sent_whole():
    before = {b'': listing.Entry(b'd', b'0', b'0', 1.0),
              **listed(aD=(1, 1.0), aD_x=(2, 1.0), bD=(3, 1.0),
                       bD_x=(4, 1.0))}
    now = {**before, b'': listing.Entry(b'd', b'0', b'0', 7.0),
           **listed(aD=(1, 6.0))}
    assert listing.again(before, now, 5.0) == [b'', b'aD', b'aD/x']


def test_what_is_as_new_as_the_copy_is_sent_again():
    files = listed(a=(1, 5.0), b=(2, 4.9))
    assert listing.again(files, files, 5.0) == [b'', b'a']


def test_names_are_read_as_they_are():
    found = listing.parse(b'd 1 4096 1.5 \0f 2 3 2.5 with space\nand line\0')
    assert found == {
        b'': listing.Entry(b'd', b'1', b'4096', 1.5),
        b'with space\nand line': listing.Entry(b'f', b'2', b'3', 2.5)}
