# SPDX-License-Identifier: Apache-2.0
"""The DevStack plugin, phase by phase, sourced as DevStack sources it.

DevStack's functions are stand-ins that write down their calls; jq, tar,
busybox and the files are real. It shows what the plugin asks DevStack to do,
not that DevStack does it.
"""

import json
import pathlib
import shlex
import shutil
import subprocess

import pytest

from nova_vcloud.conf import docker as docker_conf
from nova_vcloud.conf import ml2 as ml2_conf

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEVSTACK = ROOT / 'devstack'
SERVER = 'nova-5d1b7c6e-6a0f-4a53-8e0c-2b1f6a1e0d11'

pytestmark = pytest.mark.skipif(
    not shutil.which('jq') or not shutil.which('busybox'),
    reason='jq or busybox, which the plugin calls, is not installed')

# What DevStack gives a plugin. A call is one line in $CALLS.
STAND_INS = r'''
set -o errexit
function note { printf '%s\n' "$*" >>"$CALLS"; }
function define_plugin { note define_plugin "$@"; }
function enable_service { note enable_service "$@"; }
function echo_summary { :; }
function is_ubuntu { true; }
function exit_distro_not_supported { note not_supported "$@"; exit 1; }
function install_package { note install_package "$@"; }
function add_user_to_group { note add_user_to_group "$@"; }
function setup_develop { note setup_develop "$@"; }
function restart_service { note restart_service "$@"; }
function get_python_exec_prefix { echo /opt/stack/data/venv/bin; }
function iniset { note iniset "$@"; }
function iniset_multiline { note iniset_multiline "$@"; }
function iniget { echo "$FLAT_NETWORKS"; }
function sudo { "$@"; }
function is_service_enabled {
    local service
    for service in "$@"; do
        [[ ",$ENABLED_SERVICES," == *,$service,* ]] && return 0
    done
    return 1
}
function ip {
    case "$*" in
        'link show '*) [[ -n $BRIDGE_EXISTS ]] ;;
        'netns list') printf '%s\n' "$NAMESPACES" ;;
        *) note ip "$@" ;;
    esac
}
function docker {
    case "$1" in
        ps) note docker "$@"; echo "$CONTAINERS" ;;
        import) cat >"$TARBALL"; note docker "$@" ;;
        save) echo saved ;;
        *) note docker "$@" ;;
    esac
}
function openstack {
    case "$*" in
        *' show '*) [[ -n $IN_CLOUD ]] ;;
        *) note openstack "$@" ;;
    esac
}
'''


class Host:
    """A machine as the plugin sees it; every setting can be changed."""

    def __init__(self, folder):
        self.daemon_json = folder / 'docker' / 'daemon.json'
        self.links = folder / 'run' / 'netns'
        self.calls_file = folder / 'calls'
        self.tarball = folder / 'rootfs.tar'
        self.env = {
            'PATH': '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin'
                    ':/sbin:/bin',
            'CALLS': self.calls_file,
            'TARBALL': self.tarball,
            'DEST': '/opt/stack',
            'STACK_USER': 'root',
            'NOVA_CONF': '/etc/nova/nova.conf',
            'Q_PLUGIN_CONF_FILE': 'etc/neutron/plugins/ml2/ml2_conf.ini',
            'REGION_NAME': 'RegionOne',
            'ENABLED_SERVICES': 'nova-vcloud,n-cpu,q-svc,g-api',
            'VIRT_DRIVER': 'docker',
            'NOVA_VCLOUD_HOST': 'compute1',
            'NOVA_VCLOUD_DAEMON_JSON': self.daemon_json,
            'NOVA_VCLOUD_LINKS_PATH': self.links,
            'NOVA_VCLOUD_TMPFILES': folder / 'tmpfiles.conf',
            'FLAT_NETWORKS': 'public',
            'NAMESPACES': '', 'CONTAINERS': '', 'BRIDGE_EXISTS': '',
            'IN_CLOUD': '', 'TMPDIR': folder,
        }

    def bash(self, script):
        """Run a script after DevStack's stand-ins; return what it printed."""
        done = subprocess.run(
            ['bash', '-c', STAND_INS + script], text=True, timeout=60,
            env={key: str(value) for key, value in self.env.items()},
            capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def phase(self, *arguments):
        """Source the plugin once; return the calls it made."""
        self.calls_file.write_text('')
        self.bash(f'source {DEVSTACK}/settings\n: >"$CALLS"\n'
                  f'source {DEVSTACK}/plugin.sh {shlex.join(arguments)}\n')
        return self.calls_file.read_text().splitlines()

    def daemon(self):
        return json.loads(self.daemon_json.read_text())


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


PHASES = [
    ('stack', 'pre-install'), ('stack', 'install'), ('stack', 'post-config'),
    ('stack', 'extra'), ('stack', 'test-config'), ('unstack',), ('clean',)]


@pytest.mark.parametrize('phase', PHASES, ids='-'.join)
def test_disabled_plugin_does_nothing(host, phase):
    host.env['ENABLED_SERVICES'] = 'n-cpu,q-svc,g-api'
    assert host.phase(*phase) == []
    assert not host.daemon_json.exists()


@pytest.mark.parametrize('phase', PHASES, ids='-'.join)
def test_host_of_another_driver_is_left_alone(host, phase):
    """A controller gets the mechanism driver and no Docker."""
    host.env['VIRT_DRIVER'] = 'libvirt'
    calls = host.phase(*phase)
    first_words = {call.split()[0] for call in calls}
    assert first_words <= {'setup_develop', 'iniset', 'openstack'}
    assert not any('nova.conf' in call for call in calls)
    assert not host.daemon_json.exists()


def test_pre_install_installs_the_engine(host):
    assert host.phase('stack', 'pre-install') == [
        'install_package docker.io jq busybox-static iproute2 nftables',
        'add_user_to_group root docker']


def test_install_is_editable(host):
    assert host.phase('stack', 'install') == [
        'setup_develop /opt/stack/nova-vcloud']


def test_post_config_registers_the_runtime(host):
    assert 'restart_service docker' in host.phase('stack', 'post-config')
    assert host.daemon() == {
        'live-restore': True,
        'iptables': False,
        'bridge': 'none',
        'userns-remap': 'default',
        'runtimes': {'nova-vcloud': {
            'path': '/opt/stack/data/venv/bin/nova-vcloud-runtime',
            'runtimeArgs': ['--links', str(host.links)]}}}
    assert host.links.is_dir()


def test_post_config_keeps_what_the_operator_set(host):
    own = {'iptables': True, 'log-driver': 'journald',
           'runtimes': {'kata': {'path': '/usr/bin/kata-runtime'}}}
    host.daemon_json.parent.mkdir()
    host.daemon_json.write_text(json.dumps(own))
    host.phase('stack', 'post-config')
    daemon = host.daemon()
    assert daemon['iptables'] is True
    assert daemon['log-driver'] == 'journald'
    assert set(daemon['runtimes']) == {'kata', 'nova-vcloud'}


def test_clean_puts_daemon_json_back_after_two_runs(host):
    text = '{ "log-driver": "journald" }\n'
    host.daemon_json.parent.mkdir()
    host.daemon_json.write_text(text)
    host.phase('stack', 'post-config')
    host.phase('stack', 'post-config')
    assert 'restart_service docker' in host.phase('clean')
    assert host.daemon_json.read_text() == text
    assert not host.links.exists()
    assert [path.name for path in host.daemon_json.parent.iterdir()] == [
        'daemon.json']


def test_post_config_makes_the_bridge_once(host):
    made = 'ip link add br-vcloud type bridge'
    calls = host.phase('stack', 'post-config')
    assert made in calls
    assert 'ip address replace 10.77.0.1/24 dev br-vcloud' in calls
    host.env['BRIDGE_EXISTS'] = '1'
    assert made not in host.phase('stack', 'post-config')


def test_clean_deletes_only_a_bridge_that_is_there(host):
    assert host.phase('clean') == []
    host.env['BRIDGE_EXISTS'] = '1'
    assert host.phase('clean') == ['ip link delete br-vcloud']


def test_post_config_chooses_the_driver(host):
    calls = host.phase('stack', 'post-config')
    nova = 'iniset /etc/nova/nova.conf'
    assert f'{nova} DEFAULT compute_driver virt_docker.DockerDriver' in calls
    assert f'{nova} docker runtime_links_path {host.links}' in calls
    assert not [call for call in calls if 'filter_scheduler' in call]


def test_post_config_adds_filters_where_the_scheduler_is(host):
    host.env['ENABLED_SERVICES'] += ',n-sch'
    host.env['NOVA_FILTERS'] = 'NOVA'
    found = [call.partition(' filter_scheduler ')[2] for call in host.phase(
        'stack', 'post-config') if 'filter_scheduler' in call]
    assert [call.replace('nova.scheduler.', '').replace(
        'nova_vcloud.filters.', 'our.') for call in found] == [
            'available_filters filters.all_filters our.all_filters',
            'enabled_filters NOVA,ZoneFilter,EcuFilter,AppAntiAffinityFilter',
            'weight_classes weights.all_weighers,our.weighers.all_weighers']


def test_post_config_sets_only_options_that_exist(host):
    known = {
        (module.GROUP.name, option.dest)
        for module in (docker_conf, ml2_conf) for option in module.OPTS}
    ours = {
        tuple(call.split()[2:4])
        for call in host.phase('stack', 'post-config')
        if call.startswith('iniset') and call.split()[2] in (
            'docker', 'ml2_vcloud')}
    assert ours
    assert ours <= known


@pytest.mark.parametrize(('found', 'written'), [
    ('public', 'public,vcloud'),
    ('', 'vcloud'),
    ('public,vcloud', None),
    ('*', None),
])
def test_post_config_adds_the_physical_network_once(host, found, written):
    host.env['FLAT_NETWORKS'] = found
    ml2 = 'iniset /etc/neutron/plugins/ml2/ml2_conf.ini'
    calls = host.phase('stack', 'post-config')
    flat = [call for call in calls if 'flat_networks' in call]
    assert flat == ([f'{ml2} ml2_type_flat flat_networks {written}']
                    if written else [])
    assert (f'{ml2} ml2_vcloud bridge_mappings compute1:vcloud:br-vcloud'
            in calls)


def test_extra_fills_the_cloud(host):
    network, subnet, *docker, image = [
        call for call in host.phase('stack', 'extra')
        if not call.startswith('docker')]
    assert docker == []
    assert '--provider-network-type flat' in network
    assert '--provider-physical-network vcloud' in network
    assert '--no-dhcp' in subnet
    assert 'image create tiny' in image
    assert '--container-format docker --disk-format raw' in image
    assert '--property hypervisor_type=docker' in image


def test_extra_builds_a_root_filesystem_that_runs(host, tmp_path):
    host.phase('stack', 'extra')
    root = tmp_path / 'root'
    root.mkdir()
    subprocess.run(['tar', '-C', root, '-xf', host.tarball], check=True)
    shell = root / 'bin' / 'sh'
    assert shell.readlink() == pathlib.Path('busybox')
    said = subprocess.run(
        [shell, '-c', 'echo here'], capture_output=True, text=True,
        check=True)
    assert said.stdout == 'here\n'


def test_extra_leaves_no_work_files(host, tmp_path):
    host.phase('stack', 'extra')
    assert not list(tmp_path.glob('tmp.*'))


def test_extra_again_makes_nothing_twice(host):
    host.env['IN_CLOUD'] = '1'
    assert host.phase('stack', 'extra') == []


def test_unstack_removes_servers_and_nothing_else(host):
    host.env['CONTAINERS'] = 'aaa\nbbb'
    host.env['NAMESPACES'] = f'{SERVER} (id: 3)\nqrouter-1\nnova-other\nmine'
    calls = host.phase('unstack')
    assert calls == [
        'docker ps -aq --filter label=org.openstack.nova.uuid',
        'docker rm -f aaa bbb',
        f'ip netns delete {SERVER}']


def test_unstack_of_an_empty_host(host):
    assert host.phase('unstack') == [
        'docker ps -aq --filter label=org.openstack.nova.uuid']


def test_plugin_leaves_tracing_as_it_was(host):
    host.env['ENABLED_SERVICES'] = ''
    source = f'source {DEVSTACK}/plugin.sh stack install'
    assert host.bash(f'{source}\nshopt -qo xtrace && echo on || echo off'
                     ) == 'off\n'
    assert host.bash(f'set -x\n{source}\nshopt -qo xtrace && echo on'
                     ) == 'on\n'


def test_settings_name_the_plugin(host):
    host.bash(f'source {DEVSTACK}/settings')
    assert host.calls_file.read_text().splitlines() == [
        'define_plugin nova-vcloud', 'enable_service nova-vcloud']


def test_settings_leave_the_operators_values(host):
    host.env['NOVA_VCLOUD_BRIDGE'] = 'br-lab'
    printed = host.bash(f'source {DEVSTACK}/settings\n'
                        'echo "$NOVA_VCLOUD_BRIDGE_MAPPINGS"')
    assert printed == 'compute1:vcloud:br-lab\n'


@pytest.mark.parametrize(('before', 'after'), [
    ('', 'vcloud,ovn'),
    ('openvswitch', 'vcloud,openvswitch'),
    ('ovn,vcloud', 'ovn,vcloud'),
])
def test_override_defaults_adds_the_mechanism_driver_once(
        host, before, after):
    host.env['Q_ML2_PLUGIN_MECHANISM_DRIVERS'] = before
    source = f'source {DEVSTACK}/override-defaults\n'
    printed = host.bash(
        source + source + 'echo "$Q_ML2_PLUGIN_MECHANISM_DRIVERS"')
    assert printed == f'{after}\n'
