# SPDX-License-Identifier: Apache-2.0
"""What a guest is to those who only need to find it in the kernel."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Link:
    """One NIC of a guest, as the host's kernel knows it.

    :ivar port_id: the Neutron port
    :ivar fabric: network namespace of the tap; '' is the host's own
    :ivar tap: name of the end in ``fabric``
    :ivar namespace: network namespace of the guest; '' when it has none that
        the host may work in, as a libvirt guest
    :ivar name: name of the end in ``namespace``; '' when there is none
    """

    port_id: str
    fabric: str
    tap: str
    namespace: str = ''
    name: str = ''


@dataclasses.dataclass(frozen=True)
class Guest:
    """A container or a libvirt domain.

    :ivar uuid: the server's
    :ivar name: what its engine calls it: container id, domain name
    :ivar cgroup: path below the mount of a controller (v1) or of the unified
        hierarchy (v2), such as ``/docker/<id>``. It exists while the guest
        runs.
    """

    uuid: str
    name: str
    cgroup: str
    links: tuple[Link, ...] = ()
