# SPDX-License-Identifier: Apache-2.0
"""What an image says of itself costs the engine little, and starts nothing."""

import gzip
import io
import json
import pathlib
import random
import string
import tarfile

import image_hosts  # found by tests/conftest.py
from nova import exception as nova_exception
import pytest
from registry import digest
from registry import layer

from nova_vcloud import exception
from nova_vcloud.image import image_config

MIB = 1 << 20
LAYER = layer(a=b'x')


@pytest.fixture
def host(dockerd, tmp_path):
    with image_hosts.private(dockerd, tmp_path) as found:
        yield found


def configuration(**fields):
    """Return the configuration of an image with one layer."""
    return json.dumps({
        'architecture': 'amd64', 'os': 'linux', 'config': fields,
        'rootfs': {'type': 'layers', 'diff_ids': [digest(LAYER)]}}).encode()


def memory(dockerd):
    """Return bytes of memory that the engine has."""
    pid = (dockerd.home / 'pid').read_text().strip()
    status = pathlib.Path(f'/proc/{pid}/status').read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines()
                if line.startswith('VmRSS'))


def words(count):
    return [f'{number}={"x" * 100}' for number in range(count)]


LARGE = {
    '38 MiB': lambda: configuration(Env=words(380_000)),
    '20 MB of labels': lambda: configuration(
        Labels={word: word for word in words(100_000)}),
    'labels within the file': lambda: configuration(
        Labels={word: word for word in words(10_000)}),
    'one label': lambda: configuration(Labels={'a': 'x' * MIB}),
    'Env': lambda: configuration(Env=['A=' + 'x' * (MIB // 2)]),
    'Cmd': lambda: configuration(Cmd=['x' * 1000] * 3000),
    'user': lambda: configuration(User='x' * 100_000),
    'ports': lambda: configuration(ExposedPorts={
        f'{number}/tcp': {} for number in range(60_000)}),
    'a nest': lambda: b'{"config": ' + b'[' * MIB + b']' * MIB + b'}',
    'two of a name': lambda: b'{"config": {}, ' + configuration()[1:],
}


@pytest.mark.parametrize('name', LARGE)
def test_large_ones_are_refused_and_cost_nothing(host, dockerd, name):
    host.ensure(host.upload(image_hosts.saved(
        LAYER, config=configuration())))
    before, start = host.contents(), memory(dockerd)
    content = gzip.compress(image_hosts.saved(LAYER, config=LARGE[name]()))
    with pytest.raises(nova_exception.ImageUnacceptable,
                       match=r'larger than|more than|at most|not JSON|twice'):
        host.ensure(host.upload(content))
    assert host.settled(before) == before
    assert memory(dockerd) - start < 50 * MIB


def test_the_largest_that_is_taken_costs_little(host, dockerd):
    start = memory(dockerd)
    most = {
        'Env': [f'A{number}=' + 'x' * 60_000 for number in range(4)],
        'Cmd': ['x' * 60_000] * 4, 'Entrypoint': ['x' * 60_000] * 4,
        'Labels': {f'l{number}': 'x' * 6000 for number in range(10)},
        'Unknown': 'x' * (3 * MIB)}
    tag = host.ensure(host.upload(image_hosts.saved(
        LAYER, config=configuration(**most))))
    for _ in range(10):
        dockerd.engine.image_names('*')
        dockerd.engine.image_get(tag)
    assert memory(dockerd) - start < 50 * MIB


def test_what_means_nothing_for_a_server_is_gone(host, dockerd):
    said = {
        'Volumes': {f'/v{number}': {} for number in range(40_000)},
        'Healthcheck': {'Test': ['CMD', '/bin/true'], 'Interval': 1000000},
        'OnBuild': ['RUN true'], 'StopTimeout': 100_000, 'Hostname': 'x',
        'Labels': {'org.openstack.nova.uuid': 'x', 'Org.OpenStack.Nova.y': '',
                   'mine': 'yes'},
        'Env': ['A=b'], 'User': 'nobody', 'WorkingDir': '/w',
        'StopSignal': 'SIGUSR1', 'Cmd': ['/x'], 'Entrypoint': ['/y'],
        'ExposedPorts': {'80/tcp': {}}, 'Shell': ['/bin/sh', '-c']}
    tag = host.ensure(host.upload(image_hosts.saved(
        LAYER, config=configuration(**said))))
    found = dockerd.engine.image_get(tag)['Config']
    assert not any(found.get(name) for name in (
        'Volumes', 'Healthcheck', 'OnBuild', 'StopTimeout', 'Hostname'))
    assert found['Labels'] == {'mine': 'yes'}
    for name in ('Env', 'User', 'WorkingDir', 'StopSignal', 'Cmd',
                 'Entrypoint', 'ExposedPorts', 'Shell'):
        assert found[name] == said[name]


def test_one_that_an_earlier_release_has_loaded_is_loaded_anew(
        host, dockerd, tmp_path):
    """With its volumes and its health check, as it came."""
    image_id = host.upload(image_hosts.saved(
        LAYER, config=configuration(Volumes={'/v': {}})))
    out = tmp_path / 'old.tar'
    out.write_bytes(image_hosts.saved(LAYER, config=configuration(
        Volumes={'/v': {}}, Healthcheck={'Test': ['CMD', '/x']})))
    dockerd.docker('load', '-i', str(out))
    [old] = [line.split()[1] for line in host.contents()['images']
             if line.startswith('<none>')]
    dockerd.docker('tag', old, f'nova-vcloud/{image_id}')

    tag = host.ensure(image_id)
    found = dockerd.engine.image_get(tag)
    assert found['Id'] != old
    assert not found['Config'].get('Volumes')
    assert dockerd.engine.image_get(old) is None
    assert host.downloads == 1


def text(chance):
    """Return some text that shells and JSON take for something else."""
    return ''.join(chance.choices([
        *string.printable, 'pa$$word$1', 'ü', '\n', '\\', '"', '\u2028',
        '\U0001f600', '${HOME}', '\x7f', "'", '\t'],
        k=chance.randrange(1, 30)))


def test_what_stays_is_what_was_there(budget, host, dockerd):
    chance = random.Random(budget.seed)
    for _ in range(budget.count(15, 300)):
        said = {
            'Env': [f'N{number}={text(chance)}'
                    for number in range(chance.randrange(1, 5))],
            'Cmd': [text(chance) for _ in range(chance.randrange(1, 4))],
            'Entrypoint': [text(chance)], 'WorkingDir': '/' + text(chance),
            'Labels': {text(chance): text(chance) for _ in range(3)},
            'User': text(chance), 'StopSignal': 'SIGINT'}
        image_id = host.upload(image_hosts.saved(
            LAYER, config=configuration(**said)))
        tag = host.ensure(image_id)
        found = dockerd.engine.image_get(tag)['Config']
        assert {name: found[name] for name in said} == said
        dockerd.engine.image_remove(tag)


def anything(chance, depth=0):
    """Return some JSON value."""
    kind = chance.randrange(8 if depth < 4 else 6)
    if kind < 6:
        return [None, True, chance.randrange(-9, 9), 1e300, text(chance),
                'x' * chance.choice([10, 70_000])][kind]
    items = [anything(chance, depth + 1) for _ in range(chance.randrange(4))]
    return items if kind == 6 else {text(chance): item for item in items}


def test_whatever_it_is_it_is_refused_or_small(budget):
    chance = random.Random(budget.seed)
    keys = ['User', 'Env', 'Cmd', 'Entrypoint', 'Labels', 'ExposedPorts',
            'WorkingDir', 'StopSignal', 'Shell', 'ArgsEscaped', 'Volumes',
            'Healthcheck', 'config', 'x']
    taken = 0
    for _ in range(budget.count(2000, 50_000)):
        data = json.loads(configuration(**{
            key: anything(chance) for key in chance.sample(
                keys, chance.randrange(3))}))
        for key in chance.sample(['architecture', 'os', 'created', 'author',
                                  'history', 'config', 'rootfs', 'variant',
                                  'x'], chance.randrange(2)):
            data[key] = anything(chance)
        try:
            found = json.loads(image_config.rewritten(
                json.dumps(data).encode(), 1).data)
        except exception.InvalidImageArchive:
            continue
        taken += 1
        assert set(found) <= {'architecture', 'os', 'variant', 'os.version',
                              'created', 'author', 'config', 'rootfs',
                              'history'}
        assert set(found['config']) <= {
            'User', 'Env', 'Cmd', 'Entrypoint', 'Labels', 'ExposedPorts',
            'WorkingDir', 'StopSignal', 'Shell', 'ArgsEscaped'}
    assert taken


def test_a_rootfs_says_only_its_command(host, dockerd):
    """`docker import` has no configuration; what Glance says is bounded."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w') as tar:
        tar.addfile(tarfile.TarInfo('bin/x'), io.BytesIO())
    image_id = host.upload(out.getvalue())
    for line, error in (('/x "' + '\n' * 9 + 'HEALTHCHECK CMD x"', None),
                        ('x' * 100_000, 'os_command_line')):
        meta = host.meta(image_id)
        meta.properties.os_command_line = line
        if error:
            dockerd.engine.image_remove(f'nova-vcloud/{image_id}:latest')
            host.store.forget(image_id)
            with pytest.raises(nova_exception.ImageUnacceptable, match=error):
                host.store.ensure(None, image_id, meta, root_gb=1,
                                  instance=None)
        else:
            tag = host.store.ensure(None, image_id, meta, root_gb=1,
                                    instance=None)
            found = dockerd.engine.image_get(tag)['Config']
            assert found['Cmd'] == ['/x', '\n' * 9 + 'HEALTHCHECK CMD x']
            assert not found.get('Healthcheck')
