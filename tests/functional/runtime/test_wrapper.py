# SPDX-License-Identifier: Apache-2.0
"""The OCI runtime, with a runc that only says how it was called."""

import json
import os
import pathlib
import shutil
import stat
import subprocess

from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
RUNTIME = ROOT / 'virt_docker/runtime/nova-vcloud-runtime'
ID = 'c0' * 32
CGROUP2 = ('proc /proc proc rw 0 0\n'
           'cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nsdelegate 0 0\n')
OURS = {'path': '/proc/1234/exe', 'args': [
    'libnetwork-setkey', '-exec-root=/var/run/docker', ID, '0b6c7d8e']}
NVIDIA = {'path': '/usr/bin/nvidia-container-runtime-hook',
          'args': ['nvidia-container-runtime-hook', 'prestart']}


class Place:
    """A folder with a bundle, mappings and a stub of runc."""

    def __init__(self, home):
        self.home = home
        self.links = home / 'links'
        self.bundle = home / 'bundle'
        self.config = self.bundle / 'config.json'
        self.log = home / 'log.json'
        self.called = home / 'called'
        for folder in (self.links, self.bundle):
            folder.mkdir()
        self.runc = home / 'runc'
        self.runc.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$@" >{self.called}\nexit 7\n')
        self.runc.chmod(0o755)
        self.mounts = home / 'mounts'
        self.mounts.write_text(CGROUP2)
        self.netns = home / 'netns'
        self.netns.touch()
        (self.links / ID).symlink_to(self.netns)

    def run(self, *args, path=None, cwd=None, **env):
        return subprocess.run(
            [RUNTIME, '--links', self.links, '--runc', self.runc, *args],
            capture_output=True, text=True, check=False, cwd=cwd,
            env={'PATH': path or os.environ['PATH'],
                 'NOVA_VCLOUD_MOUNTS': self.mounts, **env})

    def create(self, config, dump=None, **kwargs):
        """Run `create` on a configuration and return the edited one."""
        self.config.write_text((dump or compact)(config))
        done = self.run('--log', self.log, 'create', '--bundle', self.bundle,
                        ID, **kwargs)
        assert done.returncode == 7, done.stderr
        return json.loads(self.config.read_text())


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def compact(value):
    """Dump as Go does."""
    return json.dumps(value, separators=(',', ':')) + '\n'


def pretty(value):
    return json.dumps(value, indent=4)


def bundle(prestart=(OURS,), namespace=None, **more):
    return {
        'ociVersion': '1.0.2-dev', 'process': {'args': ['sh'], **more},
        'mounts': [{'destination': '/proc', 'type': 'proc'}],
        'hooks': {'prestart': list(prestart)},
        'linux': {'namespaces': [{'type': 'mount'},
                                 namespace or {'type': 'network'},
                                 {'type': 'uts'}]}}


def wanted(place, config, prestart):
    found = json.loads(json.dumps(config))
    found['hooks']['prestart'] = list(prestart)
    found['linux']['namespaces'][1] = {
        'type': 'network', 'path': str(place.links / ID)}
    return found


@pytest.mark.parametrize('dump', [compact, pretty])
@pytest.mark.parametrize(('hooks', 'left'), [
    ((OURS,), ()), ((OURS, NVIDIA), (NVIDIA,)), ((NVIDIA, OURS), (NVIDIA,)),
    ((NVIDIA,), (NVIDIA,)), ((), ()),
    ((NVIDIA, OURS, {'path': '/x'}), (NVIDIA, {'path': '/x'})),
    (({**OURS, 'timeout': 5},), ()),
    (({'path': '/a]"}', 'args': ['libnetwork-setkey', ']"}', '[']},), ()),
])
def test_joins_and_drops_only_libnetworks_hook(place, dump, hooks, left):
    config = bundle(hooks)
    assert place.create(config, dump) == wanted(place, config, left)


@given(text=st.text(), hook=st.booleans())
@settings(max_examples=60, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_never_touches_a_value(place, text, hook):
    hooks = (OURS,) if hook else (NVIDIA,)
    config = bundle(hooks, env=[
        text, '{"type":"network"}', '{"type":"network"}' + text,
        text + '\\', '"hooks":{"prestart":[' + compact(OURS)])
    assert place.create(config) == wanted(
        place, config, () if hook else (NVIDIA,))


@pytest.mark.parametrize('namespace', [
    {'type': 'network', 'path': '/proc/1/ns/net'}, {'type': 'ipc'}])
def test_other_network_namespace(place, namespace):
    found = place.create(bundle(namespace=namespace))['linux']['namespaces']
    assert [n for n in found if n['type'] == 'network'] == [
        {'type': 'network', 'path': str(place.links / ID)}]


def test_no_hooks_and_newer_hooks(place):
    config = bundle()
    del config['hooks']
    assert 'hooks' not in place.create(config)
    config['hooks'] = {'createRuntime': [OURS, NVIDIA]}
    assert place.create(config)['hooks'] == {'createRuntime': [NVIDIA]}


@pytest.mark.parametrize('dump', [compact, pretty])
def test_volumes_of_an_image_are_part_of_the_root_disk(place, dump):
    config = bundle()
    anonymous = f'/var/lib/docker/volumes/{ID}/_data'
    kept = [{'destination': '/a', 'source': '/var/lib/docker/volumes/a/_data'},
            {'destination': anonymous, 'source': '/srv'},
            {'destination': '/b', 'source': anonymous + '/more'}]
    config['mounts'] += kept
    expected = wanted(place, config, ())
    config['mounts'].insert(1, {
        'destination': '/data', 'type': 'bind', 'source': anonymous,
        'options': ['rbind']})
    assert place.create(config, dump) == expected


@pytest.mark.parametrize('dump', [compact, pretty])
@pytest.mark.parametrize('first', [0, 1])
def test_what_says_names_is_part_of_the_root_disk(place, dump, first):
    config = bundle()
    folder = f'/var/lib/docker/containers/{ID}'
    config['mounts'] += [
        {'destination': '/dev/shm', 'type': 'bind',
         'source': f'{folder}/mounts/shm', 'options': ['rbind']},
        {'destination': '/etc/hosts', 'type': 'bind', 'source': '/srv/hosts',
         'options': ['rbind']}]
    expected = wanted(place, config, ())
    for name in ('resolv.conf', 'hostname', 'hosts'):
        config['mounts'].insert(first, {
            'destination': f'/etc/{name}', 'type': 'bind',
            'source': f'{folder}/{name}', 'options': ['rbind', 'rprivate']})
    assert place.create(config, dump) == expected


def no_suid(path):
    return {'path': shutil.which('mount'),
            'args': ['mount', '-o', 'remount,bind,nosuid', path]}


@pytest.mark.parametrize('dump', [compact, pretty])
@pytest.mark.parametrize('hooks', [[], [NVIDIA]])
def test_without_new_privileges_the_root_is_nosuid(place, dump, hooks):
    config = bundle(noNewPrivileges=True,
                    env=['"noNewPrivileges":true', '"root":{"path":"/x"'])
    # In the order in which dockerd writes them.
    config = {key: config.get(key) for key in (
        'ociVersion', 'process', 'root', 'mounts', 'hooks', 'linux')}
    config['root'] = {'path': '/data/overlay2/x/merged'}
    if hooks:
        config['hooks']['createContainer'] = hooks
    expected = wanted(place, config, ())
    expected['hooks']['createContainer'] = [
        *hooks, no_suid('/data/overlay2/x/merged')]
    assert place.create(config, dump) == expected


@pytest.mark.parametrize('dump', [compact, pretty])
def test_with_new_privileges_it_is_not(place, dump):
    config = bundle(env=['"noNewPrivileges":true'])
    config['root'] = {'path': '/data/overlay2/x/merged'}
    assert place.create(config, dump) == wanted(place, config, ())


def test_without_hooks_and_new_privileges(place):
    config = bundle(noNewPrivileges=True)
    config['root'] = {'path': '/data/x'}
    del config['hooks']
    assert place.create(config)['hooks'] == {
        'createContainer': [no_suid('/data/x')]}


RUN = {'destination': '/run', 'type': 'tmpfs', 'source': 'tmpfs',
       'options': ['nosuid', 'nodev', 'mode=755']}
GROUPS = {'destination': '/sys/fs/cgroup', 'type': 'cgroup',
          'source': 'cgroup', 'options': ['ro', 'nosuid', 'noexec', 'nodev']}


@pytest.mark.parametrize('dump', [compact, pretty])
@pytest.mark.parametrize(('run', 'namespace', 'writes'), [
    (RUN, 'cgroup', True), (RUN, 'pid', False),
    ({**RUN, 'destination': '/run/lock'}, 'cgroup', False),
    ({**RUN, 'type': 'bind'}, 'cgroup', False)])
def test_who_has_a_run_of_its_own_writes_its_own_control_groups(
        place, dump, run, namespace, writes):
    config = bundle()
    config['mounts'] += [GROUPS, run]
    config['linux']['namespaces'].append({'type': namespace})
    expected = wanted(place, config, ())
    if writes:
        expected['mounts'][1] = {**GROUPS, 'options': [
            'rw', *GROUPS['options'][1:]]}
    assert place.create(config, dump) == expected


@pytest.mark.parametrize('mounts', [
    CGROUP2.replace(',nsdelegate', ''),
    CGROUP2.replace(',nsdelegate', ',nsdelegates'),
    CGROUP2.replace('/cgroup ', '/cgroup/unified '),
    CGROUP2.replace('cgroup2 rw', 'cgroup rw'),
    '',
])
def test_no_start_where_limits_could_be_written_from_within(place, mounts):
    config = bundle()
    config['mounts'] += [GROUPS, RUN]
    config['linux']['namespaces'].append({'type': 'cgroup'})
    place.mounts.write_text(mounts)
    place.config.write_text(compact(config))
    done = place.run('--log', place.log, 'create', '--bundle', place.bundle,
                     ID)
    assert done.returncode == 1
    assert 'nsdelegate' in json.loads(place.log.read_text())['msg']
    assert not place.called.exists()
    # It is nothing to others.
    place.create(bundle())


def test_no_start_with_control_groups_without_number(place):
    config = bundle()
    config['mounts'] += [GROUPS, RUN]
    config['linux']['namespaces'].append({'type': 'cgroup'})
    place.runc.write_text(f'#!/bin/sh\necho "$@" >>{place.called}\n'
                          '[ $1 != state ] || echo {\\"pid\\":999999999}\n')
    place.config.write_text(compact(config))
    done = place.run('--log', place.log, 'create', '--bundle', place.bundle,
                     ID)
    assert done.returncode == 1
    assert 'number of its control groups' in place.log.read_text()
    assert place.called.read_text().splitlines()[-1] == f'delete --force {ID}'


@pytest.mark.parametrize('dump', [compact, pretty])
def test_the_bundle_stays_private(place, dump):
    place.config.touch(mode=0o600)
    place.create(bundle(), dump)
    assert stat.S_IMODE(place.config.stat().st_mode) == 0o600
    assert os.listdir(place.bundle) == ['config.json']


@pytest.mark.parametrize('args', [
    ['create', '--bundle', '{}', ID], ['create', '--bundle={}', ID],
    ['create', '-b', '{}', ID], ['restore', '--bundle', '{}', ID],
    ['--root', 'state', '--log-format', 'json', '--systemd-cgroup',
     'create', '--no-pivot', '--bundle', '{}', '--pid-file', 'x', ID],
])
def test_finds_command_bundle_and_id(place, args):
    place.config.write_text(compact(bundle()))
    args = [arg.format(place.bundle) for arg in args]
    assert place.run(*args).returncode == 7
    assert place.called.read_text().splitlines() == args
    found = json.loads(place.config.read_text())
    assert found == wanted(place, bundle(), ())


def test_bundle_is_the_working_directory_by_default(place):
    place.config.write_text(compact(bundle()))
    assert place.run('create', ID, cwd=place.bundle).returncode == 7
    assert json.loads(place.config.read_text()) == wanted(
        place, bundle(), ())


def test_options_from_the_environment(place):
    place.config.write_text(compact(bundle()))
    done = subprocess.run(
        [RUNTIME, 'create', '--bundle', place.bundle, ID], check=False,
        env={'PATH': os.environ['PATH'], 'NOVA_VCLOUD_RUNC': place.runc,
             'NOVA_VCLOUD_LINKS': place.links})
    assert done.returncode == 7
    assert json.loads(place.config.read_text()) == wanted(
        place, bundle(), ())


@pytest.mark.parametrize('args', [
    ['state', ID], ['start', ID], ['delete', '--force', ID], ['--version'],
    ['features'], ['--root', 'create', 'kill', ID, '9'], [],
    ['exec', '--process', 'a file', ID, 'create'], ['state', ''],
    ['--log', 'restore', '--log-format', 'json', 'ps', ID],
])
def test_other_commands_go_through_as_they_are(place, args):
    place.links.rename(place.home / 'elsewhere')
    done = place.run(*args, path='/nowhere')
    assert (done.returncode, done.stdout, done.stderr) == (7, '', '')
    assert place.called.read_text() == ''.join(
        f'{arg}\n' for arg in args or [''])


def no_mapping(place):
    (place.links / ID).unlink()
    return 'has no network namespace'


def no_mappings_at_all(place):
    shutil.rmtree(place.links)
    return 'has no network namespace'


def dangling(place):
    place.netns.unlink()
    return 'has no network namespace'


def bad_json(place):
    place.config.write_text('{"linux": oops')
    return 'parse error'


def cut_short(place):
    place.config.write_text(pretty(bundle())[:-20])
    return 'parse error|Unfinished'


def empty(place):
    place.config.write_text('')
    return 'is empty'


def missing(place):
    place.config.unlink()
    return 'No such file'


def not_an_object(place):
    place.config.write_text('[]')
    return 'jq: error'


def odd_folder(place):
    odd = place.links.with_name('o"d|&')
    place.links.rename(odd)
    place.links = odd
    return 'unexpected characters'


@pytest.mark.parametrize('fault', [
    no_mapping, no_mappings_at_all, dangling, bad_json, cut_short, empty,
    missing, not_an_object, odd_folder])
def test_fails_closed(place, fault):
    place.config.write_text(compact(bundle()))
    reason = fault(place)
    check_refusal(place, reason)


def check_refusal(place, reason, **kwargs):
    done = place.run('--log', place.log, '--log-format', 'json', 'create',
                     '--bundle', place.bundle, ID, **kwargs)
    assert done.returncode == 1
    assert not place.called.exists()
    line, = done.stderr.splitlines()
    assert line.startswith('nova-vcloud-runtime: ')
    assert any(word in line for word in reason.split('|'))
    record, = map(json.loads, place.log.read_text().splitlines())
    assert record['level'] == 'error'
    assert any(word in record['msg'] for word in reason.split('|'))


def test_without_jq_only_what_is_unusual_fails(place, tmp_path):
    tools = tmp_path / 'tools'
    tools.mkdir()
    for name in ('sed', 'tr', 'mv'):
        (tools / name).symlink_to(shutil.which(name))
    assert place.create(bundle(), path=str(tools)) == wanted(
        place, bundle(), ())
    place.called.unlink()
    place.config.write_text(pretty(bundle()))
    check_refusal(place, 'jq: not found', path=str(tools))


DISK = {'path': '/dev/vdb', 'type': 'b', 'major': 7, 'minor': 3,
        'fileMode': 0o660, 'uid': 0, 'gid': 0}


def devices(place, name, text):
    """Write what a namespace's server is to have of block devices."""
    folder = place.links / 'devices'
    folder.mkdir()
    (folder / name).write_text(text)


def test_block_devices_of_the_server_are_added_to_those_of_all(place):
    devices(place, place.netns.name, json.dumps([DISK]))
    config = bundle()
    expected = wanted(place, config, ())
    before = config['linux'].get('devices', [])
    rules = config['linux'].get('resources', {}).get('devices', [])
    expected['linux']['devices'] = [*before, DISK]
    expected['linux'].setdefault('resources', {})['devices'] = [*rules, {
        'allow': True, 'type': 'b', 'major': 7, 'minor': 3,
        'access': 'rwm'}]
    assert place.create(config) == expected


def test_block_devices_of_other_servers_are_not(place):
    devices(place, 'other', json.dumps([DISK]))
    assert place.create(bundle()) == wanted(place, bundle(), ())


def test_block_devices_that_cannot_be_read_fail_closed(place):
    devices(place, place.netns.name, 'oops')
    place.config.write_text(compact(bundle()))
    check_refusal(place, 'cannot add')


def test_a_second_create_of_an_edited_bundle(place):
    first = place.create(bundle())
    assert place.create(first) == first


@pytest.fixture
def limits(place):
    """Write the limits of the container; let runc succeed."""
    def write(*lines):
        (place.links / f'{ID}.limits').write_text(
            ''.join(f'{line}\n' for line in lines))
        place.runc.write_text(
            f'#!/bin/sh\nprintf "%s " "$@" >>{place.called}\n'
            f'echo >>{place.called}\n')
        place.config.write_text(compact(bundle()))
    return write


def test_limits_are_written_after_runc_made_the_cgroup(place, limits):
    file, other = place.home / 'bps', place.home / 'burst'
    limits('#{"io.8:0.read_bps": 1}', f'{file} 8:0 1048576', f'{other} 0')
    place.runc.write_text(f'#!/bin/sh\necho made >{file}\n')
    done = place.run('create', '--bundle', place.bundle, ID)
    assert done.returncode == 0, done.stderr
    assert file.read_text() == '8:0 1048576\n'
    assert other.read_text() == '0\n'


def test_a_limit_that_cannot_be_written_ends_the_container(place, limits):
    file = place.home / 'absent/bps'
    limits(f'{place.home}/first 1', f'{file} 8:0 1048576')
    done = place.run('--root', '/run/x', '--log', place.log, 'create',
                     '--bundle', place.bundle, ID)
    assert done.returncode == 1
    message = f'limit 8:0 1048576 cannot be written to {file}'
    assert message in done.stderr
    assert message in json.loads(place.log.read_text())['msg']
    called = place.called.read_text().splitlines()
    assert called[-1].split() == ['--root', '/run/x', 'delete', '--force', ID]


def test_a_runc_that_fails_is_believed(place, limits):
    limits(f'{place.home}/bps 1')
    place.runc.write_text('#!/bin/sh\nexit 7\n')
    assert place.run('create', '--bundle', place.bundle, ID).returncode == 7
    assert not (place.home / 'bps').exists()


def test_limits_are_not_for_other_commands(place, limits):
    limits(f'{place.home}/bps 1')
    assert place.run('start', ID).returncode == 0
    assert not (place.home / 'bps').exists()


def with_user_namespace(place, config):
    """Add what an engine with userns-remap writes."""
    config['linux'] |= {'uidMappings': [{
        'containerID': 0, 'hostID': 100000, 'size': 65536}]}
    config['linux']['namespaces'].append({'type': 'user'})
    return config


@pytest.mark.parametrize('dump', [compact, pretty])
def test_joins_the_user_namespace_of_the_server(place, dump):
    (place.links / f'{ID}.user').symlink_to(place.netns)
    config = with_user_namespace(place, bundle())
    expected = wanted(place, config, ())
    expected['linux']['namespaces'][-1] |= {
        'path': str(place.links / f'{ID}.user')}
    assert place.create(config, dump) == expected


@pytest.mark.parametrize('dump', [compact, pretty])
def test_without_a_user_namespace_of_the_server_it_fails(place, dump):
    place.config.write_text(dump(with_user_namespace(place, bundle())))
    done = place.run('--log', place.log, 'create', '--bundle', place.bundle,
                     ID)
    assert done.returncode == 1
    assert 'no user namespace' in place.log.read_text()
    assert not place.called.exists()


def test_a_user_namespace_that_the_engine_does_not_want_stays_out(place):
    (place.links / f'{ID}.user').symlink_to(place.netns)
    config = bundle()
    assert place.create(config) == wanted(place, config, ())


def test_a_block_device_of_a_user_namespace_is_a_mount(place):
    devices(place, place.netns.name, json.dumps([
        {**DISK, 'source': '/dev/nova-vcloud/x/vdb'}]))
    found = place.create(bundle())
    assert found['mounts'][-1] == {
        'destination': DISK['path'], 'type': 'bind',
        'source': '/dev/nova-vcloud/x/vdb', 'options': ['bind']}
    assert found['linux']['devices'] == []
    assert found['linux']['resources']['devices'][-1]['major'] \
        == DISK['major']


@pytest.fixture
def tools(place, limits):
    """Have programs of xfs that note their words; runc succeeds."""
    limits()
    folder = place.home / 'tools'
    folder.mkdir()
    for name in ('xfs_io', 'xfs_quota', 'xfs_growfs'):
        (folder / name).write_text(
            f'#!/bin/sh\nprintf "%s|" {name} "$@" >>{place.called}\n'
            f'echo >>{place.called}\n')
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize(('line', 'called'), [
    ('reserve 8192 0 0 /a b/c', ['xfs_io|-x|-c|resblks 8192|/a b/c|']),
    ('reserve 8192 0 25 /a', ['xfs_io|-x|-c|resblks 8192|/a|',
                              'xfs_growfs|-m|25|/a|']),
    ('quota 7 1000 20 /m n', [
        ('xfs_quota|-x|-c|limit -p bsoft=1000 bhard=1000 isoft=20 ihard=20 '
         '7|/m n|')])])
def test_the_room_of_a_start_ends_before_the_first_process(
        place, tools, line, called):
    room = place.links / f'{ID}.room'
    room.write_text(f'{line}\n')
    done = place.run('create', '--bundle', place.bundle, ID,
                     path=f'{tools}:{os.environ["PATH"]}')
    assert done.returncode == 0, done.stderr
    first, *rest = place.called.read_text().splitlines()
    assert first.split() == ['create', '--bundle', str(place.bundle), ID]
    assert rest == called
    assert not room.exists()


@pytest.mark.parametrize('line', ['reserve 1 0 0 /a', 'other 1 2 3 /a', ''])
def test_a_room_that_cannot_be_ended_ends_the_container(place, tools, line):
    (tools / 'xfs_io').write_text('#!/bin/sh\necho no >&2\nexit 1\n')
    (place.links / f'{ID}.room').write_text(line)
    done = place.run('--log', place.log, 'create', '--bundle', place.bundle,
                     ID, path=f'{tools}:{os.environ["PATH"]}')
    assert done.returncode == 1
    assert 'the size of the disk cannot be kept' in \
        json.loads(place.log.read_text())['msg']
    called = place.called.read_text().splitlines()
    assert called[-1].split() == ['delete', '--force', ID]
