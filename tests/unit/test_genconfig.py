# SPDX-License-Identifier: Apache-2.0
"""The files of etc/ agree with the options that the code registers."""

import configparser
import json
import pathlib
import subprocess
import sys

from oslo_config import cfg
import pytest

from nova_vcloud.conf import opts

ROOT = pathlib.Path(__file__).resolve().parents[2]
ETC = ROOT / 'etc' / 'nova-vcloud'


def read(example):
    """Parse a file; [DEFAULT] is a section like any other, as in Nova."""
    # An option that may be given several times is no mistake.
    parser = configparser.ConfigParser(default_section='nothing',
                                       strict=False)
    parser.read(ETC / example)
    return parser


@pytest.fixture
def conf():
    """A configuration object of its own with every option of ours."""
    found = cfg.ConfigOpts()
    for group, options in opts.list_opts():
        found.register_group(group)
        found.register_opts(options, group=group)
    return found


def our_groups():
    return {group.name: {option.dest for option in options}
            for group, options in opts.list_opts()}


def test_sample_is_what_the_generator_writes(tmp_path):
    """When this fails: make genconfig, and commit the result."""
    sample = tmp_path / 'sample'
    subprocess.run(
        [pathlib.Path(sys.executable).with_name('oslo-config-generator'),
         '--config-file', ETC / 'config-generator.conf',
         '--output-file', sample],
        cwd=ROOT, check=True, timeout=60)
    assert (ETC / 'nova-vcloud.conf.sample').read_text() == sample.read_text()


def test_every_option_explains_itself():
    for group, options in opts.list_opts():
        for option in options:
            assert option.help, f'{group.name}.{option.dest}'
            assert option.help.endswith(('.', '``')), option.dest


def test_groups_are_ours_alone():
    """Nova and Neutron read the same files; a shared name would clash."""
    assert set(our_groups()).isdisjoint(
        {'DEFAULT', 'compute', 'libvirt', 'neutron', 'ml2', 'agent'})


@pytest.mark.parametrize(
    'example', sorted(ETC.glob('*.conf.example')), ids=lambda path: path.name)
def test_example_sets_options_that_exist_to_valid_values(example, conf):
    parser = read(example)
    groups = our_groups()
    ours = [(group, option) for group in parser.sections()
            for option in parser.options(group) if group in groups]
    assert ours
    conf(['--config-file', str(example)], project='test')
    for group, option in ours:
        assert option in groups[group]
        assert conf[group][option], f'{group}.{option}'


def test_daemon_json_and_nova_conf_name_the_same_things():
    daemon = json.loads((ETC / 'daemon.json.example').read_text())
    nova = read('nova-compute.conf.example')
    runtime = daemon['runtimes'][nova['docker']['runtime']]
    assert runtime['runtimeArgs'] == [
        '--links', nova['docker']['runtime_links_path']]


def test_examples_show_the_defaults(conf):
    """An operator who copies an example changes nothing by it."""
    nova = read('nova-compute.conf.example')
    conf([], project='test')
    assert {name: conf.docker[name] for name in nova['docker']} == dict(
        nova['docker'])
