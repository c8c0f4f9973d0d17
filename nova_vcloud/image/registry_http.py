# SPDX-License-Identifier: Apache-2.0
"""HTTP to a registry, and to the hosts that it refers to, within bounds.

A registry says who issues its tokens and, by a redirect, where a blob lies
(OCI distribution specification). It must not make a compute host ask
addresses for it that only this host can reach, nor give away a credential.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterator
import http.cookiejar
import ipaddress
import json
import socket
from typing import Any
import urllib.parse

import requests
from requests import adapters
import urllib3
import urllib3.exceptions

from nova_vcloud import bounded_http
from nova_vcloud.exception import RegistryError

CHUNK = 1 << 20
MAX_REDIRECTS = 5
MAX_TOKEN = 64 << 10  # bytes of a token server's answer; real ones: 5 KiB
_SHOWN = 200  # characters of what others say
_REDIRECTS = (301, 302, 303, 307, 308)
_PORTS = {'https': 443, 'http': 80}
# NAT64 (RFC 6052): the last four bytes are the IPv4 address that is meant.
_NAT64 = ipaddress.IPv6Network('64:ff9b::/96')
# All that IANA gives away as global unicast; not what a site has for itself
# (64:ff9b:1::/48, fec0::/10, 5f00::/16), which Python learns of by and by.
_GLOBAL = ipaddress.IPv6Network('2000::/3')
_DOCUMENTS = ipaddress.IPv6Network('3fff::/20')
_MOST_ADDRESSES = 4  # of a name that are tried

_FAILURES = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


class Client:
    """Asks one registry and the hosts that it refers to.

    :param host: ``HOST[:PORT]`` of the registry
    :param plain: those, of the same form, that are asked without TLS
    :param trusted: those that may have an address that is not public
    :param ca_file: certificates of authorities; '' for those of the system
    :param timeout: seconds of silence
    :ivar scheme: what the registry itself is asked by
    """

    def __init__(self, host: str, plain: Collection[str],
                 trusted: Collection[str], ca_file: str,
                 timeout: int) -> None:
        self.host = host
        # Whom a registry with TLS refers to has it too.
        self._plain = frozenset(_place(f'http://{each}') for each in plain)
        self.scheme = ('http' if _place(f'http://{host}') in self._plain
                       else 'https')
        self._trusted = self._plain | {
            _place(f'https://{each}') for each in (host, *trusted)}
        self._timeout = timeout
        self._own = _session(ca_file)
        self._guarded = _session(ca_file)
        self._guarded.mount('https://', _Adapter(_PublicPool))

    def ask(self, url: str, method: str = 'GET',
            headers: dict[str, str] | None = None,
            params: dict[str, str] | None = None) -> requests.Response:
        """Return an answer, of which nothing but the headers was read.

        No redirect is followed.

        :raises RegistryError: there is none, or the place is not one that
            the registry may refer to
        """
        place = self._checked(url)
        session = self._own if place in self._trusted else self._guarded
        try:
            return session.request(
                method, url, headers=headers, params=params, stream=True,
                timeout=self._timeout, allow_redirects=False)
        except _FAILURES as e:
            raise self.unavailable(e) from e

    def follow(self, answer: requests.Response,
               headers: dict[str, str]) -> requests.Response:
        """Return where a redirected answer leads to; another as it is.

        :param headers: that were asked with; the credentials among them
            stay with the host that they were for
        :raises RegistryError: it leads nowhere that may be asked
        """
        for _ in range(MAX_REDIRECTS):
            if answer.status_code not in _REDIRECTS:
                return answer
            with answer:
                url = self._joined(answer.url,
                                   answer.headers.get('Location', ''))
                if (answer.url.startswith('https:')
                        and not url.startswith('https:')):
                    raise self._refused(url, 'is without TLS')
                if _origin(url) != _origin(answer.url):
                    headers = {name: value for name, value in headers.items()
                               if name != 'Authorization'}
            answer = self.ask(url, headers=headers)
        answer.close()
        raise RegistryError(
            f'{self.host} redirects more than {MAX_REDIRECTS} times')

    def read(self, answer: requests.Response) -> Iterator[bytes]:
        """Yield the bytes of an answer as they come, unpacked by nobody.

        :raises RegistryError: the connection broke
        """
        try:
            # Of urllib3 only what reads no more than it is told, whatever a
            # Content-Encoding or a chunk's header says.
            while chunk := answer.raw.read(CHUNK, decode_content=False):
                yield chunk
        except _FAILURES as e:
            raise self.unavailable(e) from e

    def read_all(self, answer: requests.Response, limit: int,
                 what: str) -> bytes:
        """Return the bytes of an answer.

        :param limit: bytes
        :param what: it is, for the error
        :raises RegistryError: there are more, or the connection broke
        """
        data = b''
        with answer:
            for chunk in self.read(answer):
                data += chunk
                if len(data) > limit:
                    raise RegistryError(f'{what} of {self.host} is larger '
                                        f'than {limit} bytes')
        return data

    def token(self, realm: str, params: dict[str, str],
              login: str) -> str:
        """Return the token that a registry's token server issues; '' if none.

        https://distribution.github.io/distribution/spec/auth/token/

        :param realm: where it is, as the registry says
        :param login: user and password in base64; '' for none
        :raises RegistryError: there is no such server, or it says something
            that is no answer
        """
        answer = self.ask(realm, headers={
            'Authorization': f'Basic {login}'} if login else {},
            params=params)
        if answer.status_code in _REDIRECTS:
            answer.close()
            raise RegistryError(f'the token server of {self.host} redirects; '
                                'credentials are not sent there')
        data = self.read_all(answer, MAX_TOKEN, 'the token')
        try:
            found = json.loads(data)
            token = found.get('token') or found['access_token']
        except (ValueError, KeyError, AttributeError, RecursionError):
            return ''
        # What does not fit into a header is none.
        return token if isinstance(token, str) and token.isascii() and (
            token.isprintable()) else ''

    def unavailable(self, error: Exception) -> RegistryError:
        """Return what is to be said of a connection that failed."""
        word = ('TLS certificate verification failed'
                if isinstance(error, requests.exceptions.SSLError)
                else 'cannot be reached')
        return RegistryError(f'{self.host} {word}: {str(error)[:_SHOWN]}')

    def _joined(self, base: str, url: str) -> str:
        """Return where a reference leads to (RFC 3986, 5.2).

        :raises RegistryError: nowhere
        """
        try:
            return urllib.parse.urljoin(base, url)
        except ValueError as e:
            raise self._refused(url, 'is no address of a host') from e

    def _checked(self, url: str) -> str:
        """Return whom a URL asks, if the registry may refer to it.

        :raises RegistryError: it may not
        """
        place = _place(url)
        if not place or '@' in urllib.parse.urlsplit(url).netloc:
            raise self._refused(url, 'is no address of a host')
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != 'https' and not (
                parts.scheme == self.scheme and place in self._plain):
            raise self._refused(url, 'is without TLS')
        return place

    def _refused(self, url: str, reason: str) -> RegistryError:
        return RegistryError(
            f'{self.host} refers to {url[:_SHOWN]!r}, which {reason}')


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Follow nothing: to do so, requests reads what is said beside it.
        """


def _session(ca_file: str) -> requests.Session:
    session = _Session()
    # Neither a proxy nor credentials of nova-compute's environment.
    session.trust_env = False
    session.verify = ca_file or True
    for scheme in _PORTS:
        session.mount(f'{scheme}://', _Adapter())
    session.cookies.set_policy(
        http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    return session


def _origin(url: str) -> tuple[str, str]:
    return urllib.parse.urlsplit(url).scheme, _place(url)


def _place(url: str) -> str:
    """Return ``HOST[:PORT]`` of a URL; '' if it has none."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname or '', parts.port
    except ValueError:
        return ''
    if ':' in host:
        host = f'[{host}]'
    return host if port in (None, _PORTS.get(parts.scheme)) else (
        f'{host}:{port}')


def is_public(address: str) -> bool:
    """Tell whether an address is one of the Internet, for anybody to ask.

    :param address: of IPv4 or IPv6; of one that stands for an IPv4 address
        it is that which counts
    """
    found = ipaddress.ip_address(address.partition('%')[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (
            ipaddress.IPv4Address(int(found) & 0xffffffff)
            if found in _NAT64 else None)
        if inner:
            return is_public(str(inner))
        if found not in _GLOBAL or found in _DOCUMENTS:
            return False
    return found.is_global and not found.is_multicast


class _PublicConnection(bounded_http.HTTPSConnection):
    """One that is opened to public addresses only.

    What a name stands for is looked up once: what was checked is asked.
    """

    def _new_conn(self) -> socket.socket:
        try:
            found = socket.getaddrinfo(self.host, self.port,
                                       type=socket.SOCK_STREAM)
        except UnicodeError as e:
            raise OSError(f'{self.host[:_SHOWN]} is no name') from e
        addresses = [str(entry[4][0]) for entry in found]
        if not all(map(is_public, addresses)):
            raise RegistryError(
                f'a registry refers to {self.host[:_SHOWN]}, whose address '
                'is not public ([vcloud_registry] trusted_hosts)')
        error: OSError = OSError('no address')
        for address in addresses[:_MOST_ADDRESSES]:
            try:
                return socket.create_connection(
                    (address, self.port), self.timeout)
            except OSError as e:
                error = e
        raise error


class _Pool(urllib3.HTTPSConnectionPool):
    ConnectionCls = bounded_http.HTTPSConnection


class _PublicPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _PublicConnection


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = bounded_http.HTTPConnection


class _Adapter(adapters.HTTPAdapter):
    """Gives requests such connections.

    :param secure: makes those with TLS
    """

    def __init__(self, secure: type[urllib3.HTTPSConnectionPool] = _Pool
                 ) -> None:
        self._secure = secure
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {
            'https': self._secure, 'http': _PlainPool}
