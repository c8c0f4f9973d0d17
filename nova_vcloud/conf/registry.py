# SPDX-License-Identifier: Apache-2.0
"""Options of the registries that images may come from."""

from oslo_config import cfg

from nova_vcloud.image import registry

GROUP = cfg.OptGroup(
    'vcloud_registry',
    title='Registries of images',
    help='From where a compute host takes an image whose property '
         '``vcloud_registry_ref`` names one of a registry.')

OPTS = [
    cfg.ListOpt(
        'allowed',
        default=[],
        help='Registries, or parts of them, as ``HOST[:PORT][/PATH]``. '
             'Whoever may create an image in Glance can have a server made '
             'of all that the credentials in ``auth_file`` can read below '
             'these. Empty: no image comes from a registry.'),
    cfg.StrOpt(
        'auth_file',
        default='',
        help='JSON file with credentials, as ``docker login`` and ``podman '
             'login`` write it (``{"auths": {"HOST[:PORT]": {"auth": '
             '"..."}}}``). Read anew for each image; only nova-compute '
             'should be able to read it. Empty: none.'),
    cfg.StrOpt(
        'ca_file',
        default='',
        help='PEM file with the certificates of authorities that sign those '
             'of registries. Empty: those that the system trusts.'),
    cfg.ListOpt(
        'plain_http',
        default=[],
        help='Those of the registries, as ``HOST[:PORT]``, that are asked '
             'without TLS. Digests are checked all the same, but a tag is '
             'whatever somebody on the way says.'),
    cfg.ListOpt(
        'trusted_hosts',
        default=[],
        help='Hosts, as ``HOST[:PORT]``, that a registry may refer to though '
             'their addresses are not public: a token server, or where '
             'blobs lie (a redirect). The registry itself need not be '
             'here.'),
    cfg.IntOpt(
        'timeout',
        default=60, min=1,
        help='Seconds that a registry may be silent.'),
    cfg.IntOpt(
        'pull_timeout',
        default=7200, min=1,
        help='Seconds that all layers of an image may take. The build that '
             'waits for them keeps one of ``[DEFAULT] '
             'max_concurrent_builds``.'),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register the group ``[vcloud_registry]`` on ``conf``."""
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def settings(conf: cfg.ConfigOpts) -> registry.Settings:
    """Return the values of ``[vcloud_registry]``."""
    found = conf.vcloud_registry
    return registry.Settings(
        tuple(found.allowed), tuple(found.plain_http), found.ca_file,
        found.auth_file, found.timeout, tuple(found.trusted_hosts),
        found.pull_timeout)
