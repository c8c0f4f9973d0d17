# SPDX-License-Identifier: Apache-2.0
"""What a server finds in /etc of its own name, its addresses and DNS.

The engine has such files as well. They would be the host's: a server could
fill its disk by them, and what it writes there would be gone with a restart.
So they are the server's own; of /etc/hosts, the lines that end in MARK follow
what Nova says, and /etc/hostname as long as it is what Nova said before.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import ipaddress

from nova_vcloud.virt_docker.guest import container_spec
from nova_vcloud.virt_docker.vif import addresses

HOSTS_PATH = '/etc/hosts'
HOSTNAME_PATH = '/etc/hostname'
#: Of lines in /etc/hosts that are ours. Without it they are their owner's.
MARK = '# nova'
#: What the engine's begins with.
HOSTS = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def files(hostname: str,
          nics: Iterable[addresses.Nic]) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of each file of a new server.

    :param hostname: as Nova has it
    """
    nics = list(nics)
    yield HOSTNAME_PATH, f'{container_spec.kernel_hostname(hostname)}\n'
    yield HOSTS_PATH, HOSTS + _own_lines(
        hostname, (address for nic in nics for address in nic.addresses))
    servers = dict.fromkeys(server for nic in nics for server in nic.dns)
    if servers:  # else the image may know some
        yield '/etc/resolv.conf', ''.join(
            f'nameserver {server}\n' for server in servers)


def _own_lines(hostname: str, given: Iterable[str]) -> str:
    names = ' '.join(dict.fromkeys(
        (hostname, container_spec.kernel_hostname(hostname))))
    # Without an address, the place for one.
    return ''.join(f'{address.partition("/")[0]}\t{names}\t{MARK}\n'
                   for address in given) \
        or f'{MARK}\n'


def renewed(hosts: str, own: str, made: str, hostname: str,
            given: Iterable[str]) -> dict[str, str]:
    """Return {path: text} of the files that are to change.

    What the server's owner has written stays: other lines of /etc/hosts; a
    name in /etc/hostname that Nova never gave; no line, where ours were
    removed.

    :param hosts: what is in /etc/hosts now
    :param own: what is in /etc/hostname now
    :param made: the name that the container was made with
    :param hostname: as Nova has it now
    :param given: the addresses it has now, 'address/prefix length'
    """
    lines = hosts.splitlines(keepends=True)
    ours = [line for line in lines if line.rstrip().endswith(MARK)]
    if not ours:  # of a release before this one
        ours = [line for line in lines
                if _is_of(line, {made, own.strip()})]
    former = {made, *(name for line in ours
                      for name in line.partition('#')[0].split()[1:])}
    changed = {}
    if own.strip() in former:
        changed[HOSTNAME_PATH] = \
            f'{container_spec.kernel_hostname(hostname)}\n'
    if ours:
        place = lines.index(ours[0])
        known = set(ours)  # there may be thousands of either
        others = [line for line in lines[place:] if line not in known]
        changed[HOSTS_PATH] = ''.join(
            [*lines[:place], _own_lines(hostname, given), *others])
    before = {HOSTS_PATH: hosts, HOSTNAME_PATH: own}
    return {path: text for path, text in changed.items()
            if text != before[path]}


def _is_of(line: str, names: set[str]) -> bool:
    """Tell whether a line gives an address to no other name than these."""
    address, *given = line.partition('#')[0].split() or ['']
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return bool(given) and names.issuperset(given) and not ip.is_loopback
