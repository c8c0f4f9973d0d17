# SPDX-License-Identifier: Apache-2.0
"""How many entries of the host's neighbour tables one server can make.

The kernel has one table for ARP and one for ND, for all network namespaces,
and counts nothing by namespace. So a packet filter in the server's own
namespace remembers for whom it made entries, and drops what would make one
more: decision 0024.
"""

from __future__ import annotations

from collections.abc import Iterable
import ipaddress
import re
import resource
import subprocess

from oslo_log import log

from nova_vcloud import host_checks
from nova_vcloud import netns
from nova_vcloud import privsep

LOG = log.getLogger(__name__)

TABLE = 'nova_vcloud'
#: The kernel throws an entry away 75 s after its last use (gc_stale_time, and
#: a round of its collector) once the table has gc_thresh1: before that its
#: place here is not given to another.
REMEMBERED = 120  # seconds since the last packet
#: What nft may take on the host. It reads all rules of the namespace first,
#: and a server with NET_ADMIN has as many as its memory holds.
_MEMORY = 256 << 20  # bytes
_TIME = 20.0  # seconds

# {family of the table: type of an address}: each with a set of its own
_KNOWN = {'sent4': ('inet', 'ipv4_addr'), 'sent6': ('inet', 'ipv6_addr'),
          'groups6': ('inet', 'ipv6_addr'), 'asked6': ('inet', 'ipv6_addr'),
          'asked4': ('arp', 'ipv4_addr')}
_FIXED = (('inet', 'gateways4', 'ipv4_addr'),
          ('inet', 'gateways6', 'ipv6_addr'),
          ('arp', 'gateways4', 'ipv4_addr'), ('arp', 'own4', 'ipv4_addr'))
_CHAINS = (('inet', 'send', 'postrouting', 300),
           ('inet', 'receive', 'input', -300), ('arp', 'receive', 'input', 0))
_TABLES = ('inet', 'arp')
_ADVERT = 'icmpv6 type nd-neighbor-advert'
# Both make an entry for the sender, whatever accept_ra is.
_ASKING = ('icmpv6 type { nd-neighbor-solicit, nd-router-advert } '
           'ip6 saddr != @gateways6')
# Of what is for others, which all of a network hear, Linux makes no entry.
_ASKING4 = ('arp operation request arp daddr ip @own4 '
            'arp saddr ip != @gateways4')


def _rules(limit: int) -> Iterable[tuple[str, str, str]]:
    """Yield (family, chain, rule); a full set matches nothing new."""
    hop4, hop6 = 'meta oif . rt ip nexthop', 'meta oif . rt ip6 nexthop'
    send, receive = ('inet', 'send'), ('inet', 'receive')
    # lo has one entry for all of IPv4.
    yield *send, 'meta nfproto ipv4 oifname "lo" accept'
    yield *send, 'rt ip nexthop @gateways4 accept'
    yield *send, 'rt ip6 nexthop @gateways6 accept'
    for place, matched, name, key in (
            (send, 'meta nfproto ipv4', 'sent4', hop4),
            # A group is an entry as well, and each neighbour that is looked
            # for is a group.
            (send, 'ip6 daddr ff00::/8', 'groups6', hop6),
            # An answer needs no entry but that of who asked.
            (send, _ADVERT, 'asked6', hop6),
            (send, 'meta nfproto ipv6', 'sent6', hop6),
            (receive, _ASKING, 'asked6', 'meta iif . ip6 saddr'),
            (('arp', 'receive'), _ASKING4, 'asked4',
             'meta iif . arp saddr ip')):
        yield *place, (f'{matched} update @{name}_{limit} {{ {key} }} accept')
        yield *place, f'{matched} drop'
    # Each names one more neighbour, and routes are Neutron's.
    yield *receive, 'icmp type redirect drop'
    yield *receive, 'icmpv6 type nd-redirect drop'


def ruleset(limit: int, addresses: Iterable[str],
            gateways: Iterable[str], whole: bool = False) -> str:
    """Return what brings a namespace to the limit, for nft(8).

    It may be applied again and again: what is remembered stays.

    :param limit: entries of each kind; 0 removes all
    :param addresses: of the server, 'address/prefix length' or without
    :param gateways: that are to be reached whatever else is sent
    :param whole: whether there are no others: those of before go, which a
        tenant could have had one after the other, without a limit
    """
    lines = [f'add table {family} {TABLE}' for family in _TABLES]
    if not limit:
        lines += [f'delete table {family} {TABLE}' for family in _TABLES]
        return '\n'.join(lines) + '\n'
    lines += [f'add set {family} {TABLE} {name} {{ type {kind} ; }}'
              for family, name, kind in _FIXED]
    # The size of a set that is there cannot be changed: so it is in the name.
    lines += [f'add set {family} {TABLE} {name}_{limit} {{ '
              f'type iface_index . {kind} ; size {limit} ; '
              f'flags dynamic,timeout ; timeout {REMEMBERED}s ; }}'
              for name, (family, kind) in _KNOWN.items()]
    lines += [f'add chain {family} {TABLE} {name} '
              f'{{ type filter hook {hook} priority {priority} ; }}'
              for family, name, hook, priority in _CHAINS]
    lines += [f'flush chain {family} {TABLE} {name}'
              for family, name, _hook, _priority in _CHAINS]
    lines += [f'add rule {family} {TABLE} {chain} {rule}'
              for family, chain, rule in _rules(limit)]
    if whole:
        lines += [f'flush set {family} {TABLE} {name}'
                  for family, name, _kind in _FIXED]
    lines += _elements('own', addresses, {4: ('arp',)})
    reached = list(gateways)
    lines += _elements('gateways', [*reached, *map(_asked_in, reached)],
                       {4: _TABLES, 6: ('inet',)})
    return '\n'.join(lines) + '\n'


def _asked_in(address: str) -> str:
    """Return the group in which ND looks for an address (RFC 4291, 2.7.1).

    That of IPv4 is the address itself.
    """
    parsed = ipaddress.ip_address(address)
    if parsed.version == 4:
        return address
    base = int(ipaddress.IPv6Address('ff02::1:ff00:0'))
    return str(ipaddress.IPv6Address(base | int(parsed) & 0xFFFFFF))


def _elements(name: str, addresses: Iterable[str],
              families: dict[int, tuple[str, ...]]) -> Iterable[str]:
    # A link-local one may name its link ('fe80::1%eth0'), which nft refuses.
    parsed = sorted({ipaddress.ip_address(re.split('[/%]', each)[0])
                     for each in addresses},
                    key=lambda address: (address.version, address))
    for version, tables in families.items():
        listed = ', '.join(str(each) for each in parsed
                           if each.version == version)
        for family in tables if listed else ():
            yield (f'add element {family} {TABLE} {name}{version} '
                   f'{{ {listed} }}')


def hold(limit: int, addresses: Iterable[str],
         gateways: Iterable[str], whole: bool = False) -> None:
    """Bring the namespace in which the calling thread is to the limit.

    All or nothing changes, at once. Where the host cannot, the log says so:
    a server is worth more than this limit.

    :param limit: see ruleset(), as for the others
    """
    reason = _apply(ruleset(limit, addresses, gateways, whole))
    if reason and limit:
        LOG.warning('Neighbour limit not applied to a server: %s', reason)


def check(limit: int) -> host_checks.Check:
    """Judge whether this host can hold the limit."""
    return host_checks.neighbours(limit, _problem() if limit else '')


@privsep.net.entrypoint
@netns.own_thread
def _problem() -> str:
    """Return why this host cannot hold the limit; '' when it can."""
    netns.isolate()
    return _apply(ruleset(1, ('192.0.2.1',), ('192.0.2.2', '2001:db8::2')))


def _apply(text: str) -> str:
    """Return why that was not possible; '' when it is done."""
    # Not by oslo's processutils, which takes 15 ms more (qos/disk/rootfs.py).
    try:
        nft = subprocess.Popen(['nft', '-f', '-'], stdin=subprocess.PIPE,
                               stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    except OSError as e:
        return f'nft cannot be run ({e.strerror}), install nftables'
    with nft:
        # It does nothing before it has read the text.
        resource.prlimit(nft.pid, resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        try:
            _none, said = nft.communicate(text, _TIME)
        except subprocess.TimeoutExpired:
            nft.kill()
            return f'nft takes more than {_TIME:g} seconds'
    if nft.returncode:
        return f'nft: {said.strip().partition(chr(10))[0]}'
    return ''
