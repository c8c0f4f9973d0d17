# SPDX-License-Identifier: Apache-2.0
"""What another host packs changes nothing outside of the server's layer."""

import io
import os
import random
import stat
import subprocess
import tarfile

import pytest

from nova_vcloud import exception
from nova_vcloud.virt_docker.rootfs import changed_files
from nova_vcloud.virt_docker.rootfs import overlay
from nova_vcloud.virt_docker.rootfs import received
from nova_vcloud.virt_docker.volumes import ephemeral

LOG = '0' * 64 + '-json.log'
SERVER = '11111111-2222-4333-8444-555566667777'


@pytest.fixture
def host(tmp_path):
    """A layer, and beside it files of the host that are not to be touched."""
    return Host(tmp_path)


class Host:
    """Where an archive is unpacked, and what is around it."""

    def __init__(self, top):
        self.top = top
        self.layer = top / 'store' / 'diff'
        self.layer.mkdir(parents=True)
        self.victim = top / 'victim'
        (self.victim / 'folder').mkdir(parents=True)
        for name in ('file', 'folder/file'):
            (self.victim / name).write_text('mine')
            (self.victim / name).chmod(0o600)
        (top / 'spool').mkdir()
        self.before = self.seen()

    def seen(self):
        """Return all there is outside of the layer, spool and log."""
        found = {}
        for path in (self.layer.parent, *self.layer.parent.iterdir(),
                     self.victim, *self.victim.rglob('*')):
            info = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(info.st_mode) else b''
            found[path] = (info.st_mode, info.st_uid, info.st_gid,
                           info.st_nlink, content,
                           os.listxattr(path, follow_symlinks=False))
        del found[self.layer]
        return found

    def archive(self, name, *members):
        """Write what another host would send; return its path.

        :param members: (name, type, link or content)
        """
        path = self.top / 'spool' / name
        with tarfile.open(path, 'w', format=tarfile.PAX_FORMAT) as tar:
            for member, kind, what in members:
                info = tarfile.TarInfo(member)
                info.type, info.mode = kind, 0o4777
                info.uid = info.gid = 1234
                info.pax_headers = {'SCHILY.xattr.user.mark': 'theirs'}
                data = b''
                if kind == tarfile.REGTYPE:
                    data = what.encode() if isinstance(what, str) else what
                    info.size = len(data)
                elif kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
                    info.devmajor, info.devminor = what
                elif kind != tarfile.DIRTYPE:
                    info.linkname = what
                tar.addfile(info, io.BytesIO(data))
        return str(path)

    def unpack(self, *archives):
        """Unpack; a refusal is fine, too."""
        try:
            overlay.unpack(list(archives), str(self.layer),
                           str(self.top / 'log'), 1 << 20)
        except exception.MoveFailed as e:
            return str(e)
        return ''

    def unharmed(self):
        assert self.seen() == self.before


FILE, DIR = tarfile.REGTYPE, tarfile.DIRTYPE
LINK, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE
UP = '../' * 30
KEPT = ('kept', FILE, 'D\0')


def ways(victim):
    """Return what leads from a layer to a directory of the host."""
    return [str(victim), f'{UP}{str(victim)[1:]}', '../../victim',
            f'/proc/1/root{victim}', f'/proc/self/root{victim}',
            f'/proc/self/cwd/../../..{victim}']


@pytest.mark.parametrize('way', range(6))
@pytest.mark.parametrize('split', [False, True])
def test_a_link_and_then_something_through_it(host, budget, way, split):
    """In one archive, or the link in the layer and the rest in changes."""
    link = ('diff/x', LINK, ways(host.victim)[way])
    through = [('diff/x/file', FILE, 'theirs'),
               ('diff/x/new', FILE, 'theirs'),
               ('diff/x/folder', DIR, ''),
               ('diff/x/folder/file', LINK, '/etc/passwd'),
               ('diff/x/pipe', tarfile.FIFOTYPE, ''),
               ('diff/x/gone', tarfile.CHRTYPE, (0, 0)),
               ('diff/hard', HARD, 'diff/x/file'),
               ('diff/hard', FILE, 'theirs'), ('diff/x', DIR, '')]
    # One by one, or all: tar goes on after what it refuses.
    for some in [[each] for each in through] if budget.long else [through]:
        if split:
            archives = [host.archive('layer.tar', ('diff', DIR, ''), link),
                        host.archive('changes.tar', (
                            'kept', FILE, 'D\0lx\0fhard\0'), *some)]
        else:
            archives = [host.archive('layer.tar', link, *some)]
        host.unpack(*archives)
        assert host.seen() == host.before, some
        subprocess.run(['rm', '-rf', *host.layer.iterdir()], check=True)


@pytest.mark.parametrize('way', range(6))
def test_a_link_that_the_layer_has_already(host, way):
    (host.layer / 'etc').symlink_to(ways(host.victim)[way])
    host.unpack(host.archive(
        'layer.tar', ('diff', DIR, ''), ('diff/etc/file', FILE, 'theirs'),
        ('diff/etc', DIR, ''), ('diff/etc/new', FILE, 'theirs')))
    host.unharmed()


@pytest.mark.parametrize('name', [
    '{V}/new', '/{V}/new', 'diff/{U}{V}/new', 'diff/../../victim/new',
    'diff/../../victim/file', '{V}/file', '../../victim/file'])
def test_names_that_lead_out(host, name):
    name = name.format(V=host.victim, U=UP)
    for kind, what in ((FILE, 'theirs'), (DIR, ''), (LINK, '/'),
                       (HARD, str(host.victim / 'file'))):
        host.unpack(host.archive('layer.tar', (name, kind, what),
                                 ('diff/x', FILE, 'theirs')))
        host.unharmed()


@pytest.mark.parametrize('target', [
    '{V}/file', 'diff/../../victim/file', '{U}{V}/file', '/usr/bin/tar',
    '/folder/../usr/bin/tar'])
def test_a_hard_link_to_a_file_of_the_host(host, target):
    programs = os.stat('/usr/bin/tar')
    host.unpack(host.archive(
        'layer.tar', ('diff/hard', HARD, target.format(V=host.victim, U=UP)),
        ('diff/hard', FILE, 'theirs')))
    host.unharmed()
    assert os.stat('/usr/bin/tar') == programs


@pytest.mark.parametrize('path', ['/usr/bin', '/bin', '/', '/lib'])
def test_programs_that_it_sees_are_not_its_own_to_change(host, path):
    host.unpack(host.archive(
        'layer.tar', ('diff/x', LINK, path),
        ('diff/x/nova-vcloud-attack', FILE, 'theirs')))
    assert not os.path.exists(f'{path}/nova-vcloud-attack')
    host.unharmed()


@pytest.mark.parametrize('kept', [
    'D\0d../../victim\0', 'D\0D..\0D../..\0D../../victim\0', 'D\0Dx\0Dx/\0',
    'D\0dx\0Dx/folder\0', 'D\0lx\0', 'Z\0\0\0', 'D', ''])
def test_a_list_of_what_to_keep_deletes_nothing_outside(host, kept):
    os.setxattr(host.victim, 'user.mine', b'1')
    host.before = host.seen()
    host.unpack(
        host.archive('layer.tar', ('diff', DIR, ''),
                     ('diff/x', LINK, str(host.victim)),
                     ('diff/y', LINK, '../../victim')),
        host.archive('changes.tar', ('kept', FILE, kept),
                     ('diff/z', FILE, 'theirs')))
    host.unharmed()


def test_a_list_without_end_takes_no_memory(host, monkeypatch):
    monkeypatch.setattr(overlay, 'MAX_KEPT', 10_000)
    layer = host.archive('layer.tar', ('diff', DIR, ''))
    said = host.unpack(layer, host.archive(
        'changes.tar', ('kept', FILE, b'x' * 20_000), ('diff', DIR, '')))
    assert 'no list of what is in the layer' in said
    said = host.unpack(layer, host.archive('changes.tar', ('diff', DIR, '')))
    assert 'no list of what is in the layer' in said


@pytest.mark.parametrize('name', [
    '--to-command=touch {V}/new', '--directory={V}', '-P', f'../{LOG}',
    f'{{V}}/{LOG}', f'--{LOG}', f'{LOG}\n', f'{LOG}/{UP}{{V}}/new',
    '--checkpoint=1', '--checkpoint-action=exec=touch {V}/new',
    f'{LOG}.1;touch {{V}}/new', f'$(touch {{V}}/new){LOG}'])
def test_names_of_console_logs_are_no_words(host, name):
    host.unpack(host.archive(
        'layer.tar', ('diff', DIR, ''), ('--checkpoint=1', FILE, 'x'),
        (name.format(V=host.victim), FILE, 'theirs')))
    host.unharmed()


def test_a_console_log_is_bounded_and_a_file(host):
    host.unpack(host.archive(
        'layer.tar', ('diff', DIR, ''), (f'{LOG}.1', FILE, 'old\n'),
        (LOG, FILE, 'x' * 3_000_000)))
    log = (host.top / 'log').read_bytes()
    assert log == (b'old\n' + b'x' * 3_000_000)[:1 << 20]
    (host.top / 'log').unlink()
    for kind in (LINK, HARD):
        host.unpack(host.archive('layer.tar', ('diff', DIR, ''), (
            LOG, kind, str(host.victim / 'file'))))
        assert not (host.top / 'log').exists()
    host.unharmed()


def test_what_is_compressed_is_not_unpacked(host):
    path = host.archive('layer.tar', ('diff/x', FILE, b'\0' * 10_000_000))
    subprocess.run(['gzip', path], check=True)
    os.rename(f'{path}.gz', path)
    assert host.unpack(path).startswith('tar: ')
    assert list(host.layer.iterdir()) == []


@pytest.mark.parametrize('kind', ['link', 'hard', 'folder', 'pipe', 'up'])
def test_what_lies_in_the_spool_is_no_link(host, kind):
    """As when the account of the receiver is not to be trusted."""
    path = host.top / 'spool' / 'layer.tar'
    whole = host.archive('other.tar', ('diff/x', FILE, 'theirs'))
    if kind == 'link':
        path.symlink_to(whole)
    elif kind == 'hard':
        os.link(whole, path)
    elif kind == 'folder':
        path.mkdir()
    elif kind == 'pipe':
        os.mkfifo(path)
    else:
        (host.top / 'way').symlink_to('spool')
        path = host.top / 'way' / 'other.tar'
    assert 'is not a' in host.unpack(str(path))
    assert list(host.layer.iterdir()) == []


class Forger:
    """Archives of random members that try to get out."""

    def __init__(self, host, seed):
        self.random = random.Random(seed)
        victim = str(host.victim)
        self.parts = ['x', 'y', 'z', 'file', 'folder', '..', '.', '', 'diff',
                      'victim', 'new', *victim.split('/')]
        self.targets = [*ways(host.victim), *(
            f'{way}/{name}' for way in ways(host.victim)
            for name in ('file', 'folder', 'new')), '/', '/usr', '.', '..',
            'x', 'y', 'x/y', '/folder', '/folder/x']

    def name(self):
        some = self.random.choices(self.parts, k=self.random.randint(1, 5))
        return self.random.choice(['diff/', 'diff/', 'diff/', '/', '']) \
            + '/'.join(some)

    def members(self):
        for _ in range(self.random.randint(2, 12)):
            kind = self.random.choice([FILE, FILE, DIR, LINK, LINK, HARD,
                                       tarfile.CHRTYPE, tarfile.FIFOTYPE])
            what = {FILE: 'theirs', DIR: '', tarfile.FIFOTYPE: '',
                    tarfile.CHRTYPE: (0, 0),
                    LINK: self.random.choice(self.targets),
                    HARD: self.random.choice(
                        [*self.targets, self.name()])}[kind]
            yield self.name(), kind, what

    def kept(self):
        return 'D\0' + ''.join(
            self.random.choice('dDfFlL') + self.name().removeprefix('diff/')
            + '\0' for _ in range(6))


def test_no_random_archive_gets_out(host, budget):
    for number in range(budget.count(40, 3000)):
        forger = Forger(host, f'{budget.seed}-{number}')
        layer = host.archive('layer.tar', *forger.members())
        changes = host.archive('changes.tar', ('kept', FILE, forger.kept()),
                               *forger.members())
        host.unpack(layer)
        assert host.seen() == host.before, number
        host.unpack(layer, changes)
        assert host.seen() == host.before, number
        changed_files.prune(str(host.layer), b'D\0')
        assert list(host.layer.iterdir()) == []


def disk(host, *members):
    path = host.archive('disk.eph0.tar', *members)
    store = ephemeral.Store(str(host.top / 'disks'), 'ext4')
    with store.arrived(SERVER, os.path.dirname(path), ['disk.eph0'],
                       1 << 20):
        return store.sizes(SERVER)


@pytest.mark.parametrize('members', [
    [('disk.eph0', LINK, '{V}/file')], [('disk.eph0', DIR, '')],
    [('disk.eph0', tarfile.BLKTYPE, (7, 0))],
    [('x', FILE, 'theirs'), ('disk.eph0', HARD, 'x')],
    [('disk.eph0', HARD, '{V}/file')],
    [('disk.eph0', LINK, '{V}'), ('disk.eph0/file', FILE, 'theirs')],
    [('disk.eph0', FILE, b'x' * ((1 << 20) + 1))], [('x', FILE, 'x')]])
def test_a_disk_is_a_file_of_the_flavors_size(host, members):
    members = [(name, kind, what.replace('{V}', str(host.victim))
                if isinstance(what, str) else what)
               for name, kind, what in members]
    with pytest.raises(exception.MoveFailed):
        disk(host, *members)
    host.unharmed()
    # Nothing of it is left.
    assert [path for path in (host.top / 'disks').rglob('*')
            if not path.is_dir()] == []


def test_a_disk_of_holes_is_no_larger(host):
    assert disk(host, ('disk.eph0', FILE, b'x' * (1 << 20))) == [1 << 20]
    sparse = host.top / 'disk.eph0'
    with sparse.open('wb') as f:
        f.truncate(1 << 42)
    path = host.top / 'spool' / 'disk.eph0.tar'
    subprocess.run(['tar', '-C', host.top, '--sparse', '-cf', path,
                    'disk.eph0'], check=True)
    (host.top / 'into').mkdir()
    with pytest.raises(exception.MoveFailed, match='more than 1048576 bytes'):
        received.unpack_file(str(path), str(host.top / 'into'), 'disk.eph0',
                             1 << 20)


@pytest.mark.parametrize('left', [0, -1])
def test_no_disk_comes_for_a_flavor_without_one(host, left):
    """A bound of no bytes is one."""
    path = host.archive('disk.eph0.tar', ('disk.eph0', FILE, b'x' * 8192))
    (host.top / 'into').mkdir()
    with pytest.raises(exception.MoveFailed, match='allows no such disk'):
        received.unpack_file(str(path), str(host.top / 'into'), 'disk.eph0',
                             left)
    assert list((host.top / 'into').iterdir()) == []
