# SPDX-License-Identifier: Apache-2.0
"""What runs with privilege, and with how little of it."""

from oslo_privsep import capabilities
from oslo_privsep import priv_context

#: Network namespaces, links, addresses, routes, announcements.
net = priv_context.PrivContext(
    'nova_vcloud',
    cfg_section='nova_vcloud_net_privileged',
    pypath=__name__ + '.net',
    capabilities=[
        capabilities.CAP_NET_ADMIN,
        capabilities.CAP_NET_RAW,    # ARP and ND frames
        capabilities.CAP_SYS_ADMIN,  # setns, and the mount of a namespace
    ],
)


def in_process() -> None:
    """Do privileged work in this process: it is root, so needs no daemon."""
    net.set_client_mode(False)
