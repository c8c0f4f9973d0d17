# SPDX-License-Identifier: Apache-2.0
"""Options of ``[docker]`` that are refused when nova-compute starts."""

from oslo_config import cfg
import pytest

from nova_vcloud.conf import docker


def proxy_hosts(tmp_path, value):
    conf = cfg.ConfigOpts()
    docker.register_opts(conf)
    path = tmp_path / 'nova.conf'
    path.write_text(f'[docker]\nserial_proxy_hosts = {value}\n')
    conf([], default_config_files=[str(path)])
    return conf.docker.serial_proxy_hosts


def test_hosts_and_networks_of_the_proxy(tmp_path):
    assert proxy_hosts(
        tmp_path, '192.0.2.1, 192.0.2.16/28, 2001:db8::/64, 192.0.2.7/32') \
        == ['192.0.2.1/32', '192.0.2.16/28', '2001:db8::/64', '192.0.2.7/32']


@pytest.mark.parametrize(('value', 'reason'), [
    ('192.0.2.1/8', 'host bits set: write 192.0.0.0/8 .* or 192.0.2.1 for'),
    ('192.0.2.17/28', 'host bits set: write 192.0.2.16/28'),
    ('2001:db8::1/64', 'host bits set: write 2001:db8::/64'),
    ('proxy.example.org', 'does not appear to be an IPv4 or IPv6 network'),
    ('192.0.2.1/33', 'does not appear to be'),
])
def test_what_may_be_more_than_was_meant_is_refused(tmp_path, value, reason):
    with pytest.raises(cfg.ConfigFileValueError,
                       match=f'serial_proxy_hosts.*{reason}'):
        proxy_hosts(tmp_path, value)
