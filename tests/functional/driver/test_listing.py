# SPDX-License-Identifier: Apache-2.0
"""What changes while a layer is copied arrives too, whatever it is."""

import os
import pathlib
import random
import shutil
import stat
import time

import pytest

from nova_vcloud.virt_docker.rootfs import overlay


class Tree:
    """A directory in which anything may happen."""

    def __init__(self, path: pathlib.Path, seed: int) -> None:
        self.path = path
        self.random = random.Random(seed)
        self.number = 0
        path.mkdir()
        for _ in range(30):
            self.change()

    def _any(self, *, folder: bool | None = None) -> pathlib.Path:
        found = [self.path] if folder is not False else []
        for here, folders, files in os.walk(self.path):
            names = (folders if folder is not False else []) + (
                files if folder is not True else [])
            found += [pathlib.Path(here, name) for name in names]
        return self.random.choice(found) if found else self.path

    def _new(self) -> pathlib.Path:
        self.number += 1
        folder = self._any(folder=True)
        while folder.is_symlink():
            folder = folder.parent
        return folder / self.random.choice(
            [f'n{self.number}', f'new\nline {self.number}',
             f'-dash{self.number}', f'\udcff{self.number}'])

    def change(self) -> None:
        getattr(self, '_' + self.random.choice([
            'write', 'write', 'overwrite', 'make', 'make', 'link', 'symlink',
            'whiteout', 'fifo', 'remove', 'rename', 'rename', 'swap', 'mode',
            'owner', 'attribute', 'no_attribute', 'become']))()

    def _write(self) -> None:
        self._new().write_bytes(self.random.randbytes(2000))

    def _overwrite(self) -> None:
        """In place, with the old modification time."""
        path = self._any(folder=False)
        if path.is_file() and not path.is_symlink():
            old = path.stat()
            with path.open('r+b') as f:
                f.write(self.random.randbytes(1000))
            os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))

    def _make(self) -> None:
        self._new().mkdir()

    def _link(self) -> None:
        path = self._any(folder=False)
        if path != self.path and path.is_file() and not path.is_symlink():
            os.link(path, self._new())

    def _symlink(self) -> None:
        self._new().symlink_to(self.random.choice(['/etc', '..', 'gone']))

    def _whiteout(self) -> None:
        os.mknod(self._new(), stat.S_IFCHR)

    def _fifo(self) -> None:
        os.mkfifo(self._new())

    def _remove(self) -> None:
        path = self._any()
        if path == self.path:
            return
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    def _rename(self) -> None:
        path, new = self._any(), self._new()
        if path != self.path and path not in new.parents:
            path.rename(new)

    def _swap(self) -> None:
        """Exchange two directories: what lies in them has new names."""
        one, two = self._any(folder=True), self._any(folder=True)
        if self.path in (one, two) or one == two \
                or one in two.parents or two in one.parents:
            return
        spare = self.path / 'spare'
        one.rename(spare)
        two.rename(one)
        spare.rename(two)

    def _mode(self) -> None:
        path = self._any()
        if not path.is_symlink():
            path.chmod(self.random.choice([0o700, 0o755, 0o4711, 0o1777]))

    def _owner(self) -> None:
        os.lchown(self._any(), self.random.randrange(3), 1234)

    def _attribute(self) -> None:
        os.setxattr(self._any(), 'trusted.overlay.opaque', b'y',
                    follow_symlinks=False)

    def _no_attribute(self) -> None:
        path = self._any()
        for name in os.listxattr(path, follow_symlinks=False):
            os.removexattr(path, name, follow_symlinks=False)

    def _become(self) -> None:
        """Be of another type, under the same name."""
        path = self._any()
        if path == self.path:
            return
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
            path.write_text('was a directory')
        else:
            path.unlink()
            path.mkdir()


def seen(top: pathlib.Path) -> dict:
    """Return all that is to be the same on another host."""
    found, names = {}, {}
    for here, folders, files in os.walk(top):
        for name in ['.', *folders, *files]:
            path = os.path.normpath(os.path.join(here, name))
            info = os.lstat(path)
            key = os.path.relpath(path, top)
            names.setdefault(info.st_ino, []).append(key)
            content = None
            if stat.S_ISREG(info.st_mode):
                content = pathlib.Path(path).read_bytes()
            elif stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            found[key] = [
                info.st_mode, info.st_uid, info.st_gid, info.st_rdev,
                info.st_mtime, content, info.st_ino,
                {each: os.getxattr(path, each, follow_symlinks=False)
                 for each in os.listxattr(path, follow_symlinks=False)}]
    for entry in found.values():
        entry[6] = sorted(names[entry[6]])
    return found


@pytest.mark.parametrize('seed', range(20))
def test_all_that_happens_to_a_layer_arrives(tmp_path, seed):
    """Before the copy, in the middle of it, and after it."""
    tree = Tree(tmp_path / 'diff', seed)
    notes = str(tmp_path / 'seen')
    since = time.time() - 0.1
    overlay.look(str(tree.path), notes)
    for _ in range(4):
        tree.change()
    overlay.pack(str(tree.path), [], str(tmp_path / 'layer.tar'), live=True)
    for _ in range(6):
        tree.change()
    overlay.pack_changes(str(tree.path), notes, since, [],
                         str(tmp_path / 'changes.tar'))
    there = tmp_path / 'there'
    there.mkdir()
    overlay.unpack([str(tmp_path / 'layer.tar'),
                    str(tmp_path / 'changes.tar')], str(there),
                   str(tmp_path / 'log'), 1 << 20)
    assert seen(there) == seen(tree.path)


def test_directories_that_change_places_and_back(tmp_path):
    """The copy takes each for the other; neither file in them has changed.

    Their second names elsewhere go with them.
    """
    top = tmp_path / 'diff'
    (top / 'names').mkdir(parents=True)
    for name in ('one', 'two'):
        (top / name).mkdir()
        (top / name / 'file').write_text(name)
        (top / 'names' / name).hardlink_to(top / name / 'file')
    time.sleep(0.2)
    notes = str(tmp_path / 'seen')

    def swap():
        (top / 'one').rename(top / 'spare')
        (top / 'two').rename(top / 'one')
        (top / 'spare').rename(top / 'two')
    since = time.time() - 0.1
    overlay.look(str(top), notes)
    swap()
    overlay.pack(str(top), [], str(tmp_path / 'layer.tar'), live=True)
    swap()
    overlay.pack_changes(str(top), notes, since, [],
                         str(tmp_path / 'changes.tar'))
    there = tmp_path / 'there'
    there.mkdir()
    overlay.unpack([str(tmp_path / 'layer.tar'),
                    str(tmp_path / 'changes.tar')], str(there), '', 1 << 20)
    assert seen(there) == seen(top)
