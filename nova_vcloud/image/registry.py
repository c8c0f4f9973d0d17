# SPDX-License-Identifier: Apache-2.0
"""Images of a registry (OCI distribution, Registry v2), read and checked.

The compute host pulls, not its engine: only so are the operator's list of
registries, his credentials and his certificates those of nova.conf, and the
same checks made as for an image that comes from Glance.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import json
import re
import time

import requests
from requests.utils import parse_dict_header

from nova_vcloud.exception import RegistryError
from nova_vcloud.image import docker_archive
from nova_vcloud.image import image_config
from nova_vcloud.image import manifests
from nova_vcloud.image import registry_http
from nova_vcloud.image import unpacked_size

_NAME = r'[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*'
_REFERENCE = re.compile(
    r'(?P<host>(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*|\[[0-9A-Fa-f:.]+\])'
    r'(?::[0-9]{1,5})?)'
    rf'/(?P<repository>{_NAME}(?:/{_NAME})*)'
    r'(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?'
    r'(?:@(?P<digest>[a-z0-9]+:[0-9a-f]+))?')


@dataclasses.dataclass(frozen=True)
class Reference:
    """An image of a registry; ``digest`` wins over ``tag``."""

    host: str
    repository: str
    tag: str
    digest: str

    def __str__(self) -> str:
        return f'{self.host}/{self.repository}' + (
            f'@{self.digest}' if self.digest else f':{self.tag}')


@dataclasses.dataclass(frozen=True)
class Settings:
    """What an operator says of registries.

    :ivar allowed: ``HOST[:PORT][/PATH]`` each
    :ivar plain: those hosts that are asked without TLS
    :ivar ca_file: certificates of authorities; '' for those of the system
    :ivar auth_file: credentials as ``docker login`` writes them; '' for none
    :ivar timeout: seconds of silence
    :ivar trusted: ``HOST[:PORT]`` that registries may refer to, whatever
        their addresses
    :ivar pull_timeout: seconds for all layers of an image
    """

    allowed: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    ca_file: str = ''
    auth_file: str = ''
    timeout: int = 60
    trusted: tuple[str, ...] = ()
    pull_timeout: int = 7200


@dataclasses.dataclass(frozen=True)
class Image:
    """An image that a registry has: its layers are still there.

    :ivar digest: of what was asked for, be it an index
    :ivar layers: as the manifest has them, lowest first
    :ivar pull: yields the bytes of one
    :ivar has: tells whether this cloud may read one, and it is there
    """

    digest: str
    config: image_config.Config
    layers: tuple[manifests.Blob, ...]
    pull: Callable[[manifests.Blob], Iterator[bytes]]
    has: Callable[[manifests.Blob], bool]

    def archive(self, tag: str, scale: unpacked_size.Scale,
                verified: Callable[[docker_archive.Layer], None],
                there: Sequence[unpacked_size.Weight] = ()) -> Iterator[bytes]:
        """Yield what an engine loads.

        :param scale: for what the layers take
        :param verified: is given each layer that is what its digests say
        :param there: what those of the lowest layers take that the engine
            has, and that are known to be what their digests say
        """
        return filter(None, docker_archive.docker_archive(self.config, [
            docker_archive.Layer(blob, diff_id, None, there[number])
            if number < len(there) else
            docker_archive.Layer(blob, diff_id, self.pull(blob))
            for number, (blob, diff_id) in enumerate(zip(
                self.layers, self.config.diff_ids, strict=True))],
            tag, scale, verified))


def parse(text: str) -> Reference:
    """Read ``HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]``.

    :raises RegistryError: it is something else
    """
    found = _REFERENCE.fullmatch(text.strip())
    if not found or ('.' not in found['host'] and ':' not in found['host']
                     and found['host'] != 'localhost'):
        raise RegistryError(
            f'{text[:200]!r} is not HOST[:PORT]/REPOSITORY with a :TAG or a '
            '@sha256:DIGEST')
    digest = found['digest'] or ''
    if digest and not manifests.is_digest(digest):
        raise RegistryError(f'{digest[:100]!r} is not a sha256 digest')
    return Reference(found['host'], found['repository'],
                     found['tag'] or ('' if digest else 'latest'), digest)


def is_allowed(reference: Reference, allowed: Iterable[str]) -> bool:
    """Tell whether an operator lets images of that place in."""
    name = f'{reference.host}/{reference.repository}'
    return any(name.startswith(entry.rstrip('/') + '/')
               or name == entry.rstrip('/') for entry in allowed)


def find(text: str, settings: Settings, machine: str) -> Image:
    """Look up an image; its layers are pulled later.

    :param text: the reference
    :param machine: for which it must be, as ``platform.machine()``
    :raises RegistryError: with what is wrong
    :raises InvalidImageArchive: what the registry has is no image for us
    """
    reference = parse(text)
    if not is_allowed(reference, settings.allowed):
        raise RegistryError(
            f'{reference.host}/{reference.repository} is not among the '
            'registries that this cloud takes images from ([vcloud_registry] '
            'allowed)')
    return _Repository(reference, settings).image(machine)


class _Repository:
    """One repository, asked with the credentials of its host."""

    def __init__(self, reference: Reference, settings: Settings) -> None:
        self._reference = reference
        self._settings = settings
        self._login = _login(settings.auth_file, reference.host)
        self._authorization = ''
        self._deadline = time.monotonic() + settings.pull_timeout
        self._client = registry_http.Client(
            reference.host, settings.plain, settings.trusted,
            settings.ca_file, settings.timeout)
        self._url = (f'{self._client.scheme}://{reference.host}/v2/'
                     f'{reference.repository}')

    def image(self, machine: str) -> Image:
        top = self._manifest(self._reference.digest or self._reference.tag)
        digest = self._reference.digest or manifests.digest_of(top)
        found = manifests.parse(top, machine)
        if isinstance(found, manifests.Blob):
            found = manifests.parse(self._manifest(found.digest), machine)
        if isinstance(found, manifests.Blob):
            raise RegistryError(f'{self._reference} is an index of indexes')
        config = manifests.small(found.config, self.pull(found.config))
        return Image(digest, image_config.rewritten(
            config, len(found.layers)), found.layers, self.pull, self.has)

    def has(self, blob: manifests.Blob) -> bool:
        """Tell whether the repository has a piece that this cloud may read.
        """
        # One that says where else it lies has let this cloud read it.
        with self._authorized(f'blobs/{blob.digest}', 'HEAD') as answer:
            return answer.status_code < 400

    def pull(self, blob: manifests.Blob) -> Iterator[bytes]:
        """Yield a piece as it comes, unchecked.

        :raises RegistryError: the time for the image is over: a build has
            its place on the host, and its room, for as long
        """
        with self._found(self._client.follow(
                self._authorized(f'blobs/{blob.digest}', 'GET'),
                self._headers())) as answer:
            for chunk in self._client.read(answer):
                if time.monotonic() > self._deadline:
                    raise RegistryError(
                        f'pulling {self._reference} takes more than '
                        f'{self._settings.pull_timeout} seconds '
                        '([vcloud_registry] pull_timeout)')
                yield chunk

    def _manifest(self, name: str) -> bytes:
        """Return a manifest by tag or digest, checked against the digest."""
        data = self._client.read_all(
            self._found(self._authorized(f'manifests/{name}', 'GET')),
            manifests.MAX_BYTES, f'the manifest {self._reference}')
        if manifests.is_digest(name) and manifests.digest_of(data) != name:
            raise RegistryError(
                f'{self._reference.host} answers the question for {name} '
                f'with another manifest, {manifests.digest_of(data)}')
        return data

    def _found(self, answer: requests.Response) -> requests.Response:
        """Return an answer that has what was asked for."""
        if answer.status_code == requests.codes.ok:
            return answer
        answer.close()
        host = self._reference.host
        if answer.is_redirect:
            raise RegistryError(
                f'unexpected redirect from {host}: only blobs may have one')
        raise RegistryError({
            401: f'{host} refuses the credentials of this cloud for '
                 f'{self._reference.repository}',
            403: f'{host} does not let this cloud read '
                 f'{self._reference.repository}',
            404: f'{host} has no {self._reference}',
        }.get(answer.status_code,
              f'{host} answers with HTTP status {answer.status_code}'))

    def _authorized(self, path: str, method: str) -> requests.Response:
        """Ask, with credentials where they are wanted."""
        answer = self._ask(path, method)
        if answer.status_code == requests.codes.unauthorized:
            answer.close()
            self._authorization = self._authorize(
                answer.headers.get('WWW-Authenticate', ''))
            answer = self._ask(path, method)
        return answer

    def _ask(self, path: str, method: str) -> requests.Response:
        return self._client.ask(f'{self._url}/{path}', method,
                                self._headers())

    def _headers(self) -> dict[str, str]:
        headers = {'Accept': ', '.join(manifests.ACCEPTED),
                   # A piece is what its digest says, not what it unpacks to.
                   'Accept-Encoding': 'identity'}
        if self._authorization:
            headers['Authorization'] = self._authorization
        return headers

    def _authorize(self, challenge: str) -> str:
        """Return the header that answers a challenge (RFC 7235).

        The token server is whom the registry names, as for any client of it:
        https://distribution.github.io/distribution/spec/auth/token/
        """
        kind, _, rest = challenge.partition(' ')
        if kind.lower() == 'basic' and self._login:
            return f'Basic {self._login}'
        if kind.lower() != 'bearer':
            raise RegistryError(
                f'{self._reference.host} wants credentials, and this cloud '
                'has none for it')
        asked = parse_dict_header(rest)
        realm = str(asked.pop('realm', ''))
        asked.pop('error', None)
        token = self._client.token(realm, {
            name: str(value) for name, value in asked.items()}, self._login)
        if not token:
            raise RegistryError(
                f'{self._reference.host} refuses the credentials of this '
                f'cloud for {self._reference.repository}')
        return f'Bearer {token}'


def _login(path: str, host: str) -> str:
    """Return ``user:password`` for a registry in base64; '' for none.

    :param path: a file with Docker's or Podman's ``auths``
    :raises RegistryError: the file cannot be read
    """
    if not path:
        return ''
    try:
        with open(path, 'rb') as f:
            auths = json.load(f)['auths']
        found = str(auths.get(host, {}).get('auth', ''))
        base64.b64decode(found, validate=True)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as e:
        raise RegistryError(
            f'the file of this cloud with credentials for registries cannot '
            f'be read ({type(e).__name__})') from e
    return found
