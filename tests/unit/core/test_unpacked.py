# SPDX-License-Identifier: Apache-2.0
"""What a layer will take is known from its headers, however it comes."""

import bz2
import gzip
import io
import itertools
import lzma
import os
import random
import subprocess
import tarfile

import pytest

from nova_vcloud import exception
from nova_vcloud import unpacked

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


def typed(kind):
    info = tarfile.TarInfo()
    info.type = kind
    info.linkname = 'x'
    return info


def weigh(data, limit=1 << 60, sizes=(65536,)):
    scale = unpacked.Scale(limit)
    rest, parts = io.BytesIO(data), []
    for size in itertools.cycle(sizes):
        if not (part := rest.read(size)):
            break
        parts.append(part)
    assert b''.join(scale.weighed(parts)) == data
    return scale.total


@pytest.mark.parametrize('fmt', [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize('pack_with', [bytes, gzip.compress])
@pytest.mark.parametrize('sizes', [(1,), (511, 2, 77), (1 << 20,)])
def test_files_are_counted_in_blocks(fmt, pack_with, sizes):
    data = pack(('a', b'x'), ('d', typed(tarfile.DIRTYPE)), ('e', b''),
                ('l' * 300, b'y' * 4097), ('h', typed(tarfile.LNKTYPE)),
                ('é', typed(tarfile.SYMTYPE)), fmt=fmt)
    assert weigh(pack_with(data), sizes=sizes) == 4096 * (1 + 1 + 1 + 2 + 1)


@pytest.mark.parametrize('fmt', ['gnu', 'posix', 'pax-0.0', 'pax-1.0'])
def test_a_sparse_file_counts_whole(tmp_path, fmt):
    with (tmp_path / 'f').open('wb') as f:
        for place in range(40):  # more than one header's worth of pieces
            f.seek(place << 24)
            f.write(b'x' * 4096)
        f.truncate(GIB)
    kind = ['--format=posix', f'--sparse-version={fmt[4:]}'] if (
        '-' in fmt) else [f'--format={fmt}']
    data = subprocess.run(
        ['tar', '--sparse', *kind, '-C', tmp_path, '-c', 'f'], check=True,
        capture_output=True).stdout
    assert len(data) < 1 << 20
    # And what comes after it is found.
    data = data.rstrip(b'\0')
    data += bytes(-len(data) % 512) + pack(('b', b'z'))
    assert weigh(data, sizes=(700,)) == GIB + 4096


def test_a_bomb_is_known_before_it_goes_off():
    head = tarfile.TarInfo('big')
    head.size = 10 * GIB
    scale, given = unpacked.Scale(GIB), []

    def endless():
        yield head.tobuf(tarfile.GNU_FORMAT)
        while True:
            given.append(1)
            yield bytes(1 << 20)

    with pytest.raises(exception.ImageTooLarge, match=r'1\.0 GiB'):
        for _ in scale.weighed(endless()):
            pass
    assert given == []


def test_much_output_of_little_input_is_all_seen():
    data = gzip.compress(pack(('a', bytes(50 << 20)), ('b', bytes(20 << 20))))
    assert weigh(data) == 70 << 20
    assert weigh(data, sizes=(3,)) == 70 << 20


def test_very_many_files_are_a_size_too():
    info = tarfile.TarInfo('x').tobuf()
    with pytest.raises(exception.ImageTooLarge):
        weigh(info * 300, limit=1 << 20)


@pytest.mark.parametrize('packer', [bz2.compress, lzma.compress,
                                    lambda _: b'\x28\xb5\x2f\xfd' + b'x' * 9])
def test_what_cannot_be_weighed_is_refused(packer):
    with pytest.raises(exception.InvalidImageArchive, match='only gzip'):
        weigh(packer(pack(('a', b'x'))))


@pytest.mark.parametrize('data', [
    b'', b'{"a": 1}', os.urandom(100) + bytes(5000)])
def test_what_is_no_layer_weighs_nothing(data):
    assert weigh(data) == 0


def test_corrupt_layers():
    good = pack(('a', b'x' * 600), ('b', b'y'))
    with pytest.raises(exception.InvalidImageArchive, match='corrupt'):
        weigh(good[:512] + good[1024:])
    packed = gzip.compress(os.urandom(100_000) + good)
    spoilt = packed[:50_000] + bytes(100) + packed[50_100:]
    with pytest.raises(exception.InvalidImageArchive, match='corrupt'):
        weigh(spoilt)


def test_as_python_reads_it():
    chance = random.Random(7)
    members = [(f'{"n" * chance.randrange(1, 200)}{i}',
                bytes(chance.randrange(20_000))) for i in range(200)]
    data = pack(*members)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        wanted = sum(max(4096, i.size + -i.size % 4096) for i in tar)
    assert weigh(data, sizes=(chance.randrange(1, 5000), 13)) == wanted
