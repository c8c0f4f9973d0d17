# SPDX-License-Identifier: Apache-2.0
"""Which ids an engine's containers have."""

import os

import pytest

from nova_vcloud import userns

ON = ['name=seccomp,profile=default', 'name=userns']


def info(root, options=ON):
    return {'DockerRootDir': root, 'SecurityOptions': options}


@pytest.fixture
def files(tmp_path):
    """Files as subuid(5) and subgid(5) have them."""
    found = []
    for name, first in (('subuid', 100000), ('subgid', 300000)):
        path = tmp_path / name
        path.write_text(f'# of podman\nadmin:1000:100\n\nodd:x:y\n'
                        f'dockremap:{first}:65536\n'
                        f'dockremap:{first + 100000}:10\n')
        found.append(str(path))
    return found


@pytest.mark.parametrize('options', [
    None, [], ['name=seccomp,profile=default'], ['name=usernsish']])
def test_without_user_namespaces_ids_are_the_hosts(options):
    assert userns.of_engine(info('/var/lib/docker', options)) is None


def test_all_ranges_of_the_engines_user_count(files):
    found = userns.of_engine(info('/var/lib/docker/100000.300000'), *files)
    assert found == (((0, 100000, 65536), (65536, 200000, 10)),
                     ((0, 300000, 65536), (65536, 400000, 10)))
    assert found.root == (100000, 300000)
    assert found.turned().uids[1] == (200000, 65536, 10)
    assert found.turned().turned() == found


@pytest.mark.parametrize('root', [
    '/var/lib/docker/5.300000', '/var/lib/docker/100000.5',
    '/var/lib/docker'])
def test_ids_that_nobody_has_are_told(files, root):
    with pytest.raises(LookupError, match='begins with'):
        userns.of_engine(info(root), *files)


def test_an_owner_that_has_no_namespace_yet_is_chosen(monkeypatch):
    ids = userns.IdMap(((0, 100000, 3),), ((0, 200000, 3),))
    monkeypatch.setattr(userns, '_names', lambda: ['a', 'b'])
    monkeypatch.setattr(userns, 'owner', lambda path: {
        'a': 100000, 'b': 100002}[os.path.basename(path)])
    words = userns.as_owner(ids)
    assert '--reuid=100001' in words
    assert '--regid=200000' in words


def test_what_is_no_namespace_has_no_owner(tmp_path):
    (tmp_path / 'file').touch()
    assert userns.owner(str(tmp_path / 'file')) == -1
    assert userns.owner(str(tmp_path / 'absent')) == -1
    assert not userns.exists('no-such-name')
    userns.forget('no-such-name')
