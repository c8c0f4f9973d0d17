# SPDX-License-Identifier: Apache-2.0
"""What a layer will take is known from its headers, however it comes."""

import bz2
import gzip
import hashlib
import io
import itertools
import lzma
import os
import random
import subprocess
import tarfile

import pytest

from nova_vcloud import exception
from nova_vcloud.image import unpacked_size

GIB = 1 << 30


def pack(*members, fmt=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w', format=fmt) as tar:
        for name, what in members:
            info = what if isinstance(what, tarfile.TarInfo) else (
                tarfile.TarInfo(name))
            info.name = name
            data = b'' if what is info else what
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def typed(kind, to='x'):
    info = tarfile.TarInfo()
    info.type = kind
    info.linkname = to
    return info


def link(to):
    return typed(tarfile.LNKTYPE, to)


def folder():
    return typed(tarfile.DIRTYPE)


def looked_at(data, limit=1 << 60, sizes=(65536,), diff_id=None, **kwargs):
    look = unpacked_size.Layer(unpacked_size.Scale(limit, **kwargs))
    rest, parts = io.BytesIO(data), []
    for size in itertools.cycle(sizes):
        if not (part := rest.read(size)):
            break
        parts.append(part)
    assert b''.join(look.passed(parts, diff_id)) == data
    return look


def weigh(data, **kwargs):
    return looked_at(data, **kwargs).weight


def fits(weight, size, files):
    """Tell whether a weight is that, with headers and the end of a tape."""
    return size < weight.size < size + 20480 and weight.files == files


@pytest.mark.parametrize('fmt', [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize('pack_with', [bytes, gzip.compress])
@pytest.mark.parametrize('sizes', [(1,), (511, 2, 77), (1 << 20,)])
def test_files_are_counted_in_blocks(fmt, pack_with, sizes):
    data = pack(('a', b'x'), ('d', folder()), ('e', b''),
                ('l' * 150, b'y' * 4097),
                ('é', typed(tarfile.SYMTYPE)), fmt=fmt)
    look = looked_at(pack_with(data), sizes=sizes)
    assert look.weight.files == 5
    # With all headers, and the mark of the end.
    blocks = 4096 * (1 + 1 + 1 + 2 + 1)
    assert blocks + 5 * 512 <= look.weight.size <= blocks + len(data)
    assert look.diff_id == f'sha256:{hashlib.sha256(data).hexdigest()}'


def test_folders_that_names_imply_are_files_too():
    deep = '/'.join('abcdefgh')
    assert fits(weigh(pack((f'{deep}/x', b''), (f'{deep}/y', b''),
                           ('a/b/z/w', b''))), 12 * 4096, 12)


def test_a_hard_link_is_a_name():
    many = [(f'h{number}', link('a')) for number in range(64)]
    assert weigh(pack(('a', bytes(8192)), *many)).files == 65
    assert weigh(pack(('a', b''), *many)).size >= 64 * 512


def test_a_sparse_file_counts_whole(tmp_path):
    with (tmp_path / 'f').open('wb') as f:
        for place in range(40):  # more than one header's worth of pieces
            f.seek(place << 24)
            f.write(b'x' * 4096)
        f.truncate(GIB)
    data = subprocess.run(
        ['tar', '--sparse', '--format=gnu', '-C', tmp_path, '-c', 'f'],
        check=True, capture_output=True).stdout
    assert len(data) < 1 << 20
    # And what comes after it is found.
    data = data.rstrip(b'\0')
    data += bytes(-len(data) % 512) + pack(('b', b'z'))
    assert fits(weigh(data, sizes=(700,)), GIB + 4096, 2)


@pytest.mark.parametrize('version', ['0.0', '0.1', '1.0'])
def test_other_sparse_files_are_refused_with_what_to_do(tmp_path, version):
    with (tmp_path / 'f').open('wb') as f:
        f.truncate(GIB)
    data = subprocess.run(
        ['tar', '--sparse', '--format=posix', f'--sparse-version={version}',
         '-C', tmp_path, '-c', 'f'], check=True, capture_output=True).stdout
    with pytest.raises(exception.InvalidImageArchive, match='--format=gnu'):
        weigh(data)


def test_a_bomb_is_known_before_it_goes_off():
    head = tarfile.TarInfo('big')
    head.size = 10 * GIB
    look, given = unpacked_size.Layer(unpacked_size.Scale(GIB)), []

    def endless():
        yield head.tobuf(tarfile.GNU_FORMAT)
        while True:
            given.append(1)
            yield bytes(1 << 20)

    with pytest.raises(exception.ImageTooLarge, match=r'1\.0 GiB'):
        for _ in look.passed(endless()):
            pass
    assert given == []


def test_much_output_of_little_input_is_all_seen():
    data = gzip.compress(pack(('a', bytes(50 << 20)), ('b', bytes(20 << 20))))
    assert fits(weigh(data), 70 << 20, 2)
    assert fits(weigh(data, sizes=(3,)), 70 << 20, 2)


def test_very_many_files_are_a_size_too():
    info = tarfile.TarInfo('x').tobuf()
    with pytest.raises(exception.ImageTooLarge):
        weigh(info * 300, limit=1 << 20)
    with pytest.raises(exception.TooManyFiles, match='more than 100 files'):
        weigh(info * 300, files=100)


@pytest.mark.parametrize('packer', [bz2.compress, lzma.compress,
                                    lambda _: b'\x28\xb5\x2f\xfd' + b'x' * 9])
def test_what_cannot_be_weighed_is_refused(packer):
    with pytest.raises(exception.InvalidImageArchive, match='only gzip'):
        weigh(packer(pack(('a', b'x'))))


@pytest.mark.parametrize('data', [
    b'', b'{"a": 1}', b'x' + os.urandom(100) + bytes(5000)])
def test_what_is_no_layer_is_refused(data):
    with pytest.raises(exception.InvalidImageArchive, match='no tar'):
        weigh(data)


def test_corrupt_layers():
    good = pack(('a', b'x' * 600), ('b', b'y'))
    with pytest.raises(exception.InvalidImageArchive, match='corrupt'):
        weigh(good[:512] + good[1024:])
    packed = gzip.compress(os.urandom(100_000) + good)
    spoilt = packed[:50_000] + bytes(100) + packed[50_100:]
    with pytest.raises(exception.InvalidImageArchive, match='corrupt'):
        weigh(spoilt)


def test_gzip_is_read_to_its_end():
    packed = gzip.compress(pack(('a', b'x')))
    assert weigh(packed + gzip.compress(bytes(512))).files == 1
    for data in (packed[:-1], packed + b'\0', packed + b'x',
                 packed[:-5] + b'\0' + packed[-4:],
                 packed + gzip.compress(b'') * 5000):
        with pytest.raises(exception.InvalidImageArchive,
                           match=r'corrupt|truncated'):
            weigh(data)


def test_the_last_chunk_comes_only_when_the_digest_is_right():
    data = pack(('a', b'x'))
    right = f'sha256:{hashlib.sha256(data).hexdigest()}'
    assert looked_at(data, diff_id=right).diff_id == right
    came = []
    with pytest.raises(exception.InvalidImageArchive, match='and not'):
        came.extend(unpacked_size.Layer(unpacked_size.Scale(GIB)).passed(
            [data[:600], data[600:]], 'sha256:' + '0' * 64))
    assert b''.join(came) == data[:600]


def test_a_tar_may_end_without_its_mark_where_its_digest_is_known():
    data = pack(('a', bytes(512)))[:1024]
    assert weigh(data).files == 1
    with pytest.raises(exception.InvalidImageArchive, match='truncated'):
        list(unpacked_size.Layer(unpacked_size.Scale(GIB),
                                 marked=True).passed([data]))
    with pytest.raises(exception.InvalidImageArchive, match='truncated'):
        weigh(data[:1000])


ODD_TREES = {
    'file then folder': [('a', b''), ('a', folder())],
    'folder then file': [('a', folder()), ('a', b'')],
    'file in a file': [('a', b''), ('a/b', b'')],
    'file in a link': [('a', typed(tarfile.SYMTYPE)), ('a/b', b'')],
    'link to a layer below': [('a', link('b'))],
    'link to later': [('a', link('b')), ('b', b'')],
    'link to a folder': [('b', folder()), ('a', link('b'))],
    'whiteout of its own': [('a', b''), ('.wh.a', b'')],
    'whiteout of a folder of its own': [('d/a', b''), ('.wh.d', b'')],
    'whiteout of nothing': [('.wh.', b'')],
    'whiteout with data': [('.wh.a', b'x')],
    'opaque twice': [('d/.wh..wh..opq', b'')] * 2,
    'links of AUFS': [('.wh..wh.plnk/1.2', b'x')],
    'folder of AUFS': [('.wh..wh.plnk', folder())],
    'above': [('a/../b', b'')], 'out': [('../b', b'')],
    'link out': [('b', b''), ('a', link('../b'))],
    'long name': [('n' * 256, b'')], 'deep': [('a/' * 257 + 'b', b'')],
    'the root': [('.', b'')],
}


@pytest.mark.parametrize('name', ODD_TREES)
def test_trees_that_stores_would_make_differently(name):
    with pytest.raises(exception.InvalidImageArchive,
                       match=r'corrupt|outside|too long'):
        weigh(pack(*ODD_TREES[name]))


def test_trees_as_engines_write_them():
    assert weigh(pack(
        ('./', folder()), ('etc/', folder()), ('etc/a', b'x'),
        ('etc/.wh.b', b''), ('usr/.wh..wh..opq', b''), ('usr/c', b''),
        ('.wh.d', b''), ('d/e', b''), ('etc/a', b'twice'),
        ('/f', link('etc/a')))).files == 12


def test_as_python_reads_it():
    chance = random.Random(7)
    members = [(f'{"n" * chance.randrange(1, 200)}{i}',
                bytes(chance.randrange(20_000))) for i in range(200)]
    data = pack(*members)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        wanted = sum(max(4096, i.size + -i.size % 4096) for i in tar)
    size = looked_at(data, sizes=(chance.randrange(1, 5000), 13)).weight.size
    assert wanted < size < wanted + 200 * 2048 + 10240
