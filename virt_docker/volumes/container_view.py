# SPDX-License-Identifier: Apache-2.0
"""What the rooms of volumes need to know of a server's container."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Guest:
    """A container of a server, as it is now.

    :ivar pid: of its first process; 0 while it is stopped
    :ivar cgroup: its path below each controller
    :ivar binds: as the engine has them
    """

    pid: int
    cgroup: str
    binds: tuple[str, ...] = ()
