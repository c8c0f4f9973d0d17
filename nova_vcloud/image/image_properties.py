# SPDX-License-Identifier: Apache-2.0
"""What an image's properties may say, of those that are read for a server.

Images are tenants': a property is checked when a server is made, and refused
by its name. Those named ``vcloud_*`` have rules in
:mod:`nova_vcloud.flavor.flavor_keys`, with the flavor's keys of the same
names.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import re
import shlex

from nova_vcloud import exception

#: Characters of a value that an error repeats.
_SHOWN = 40
#: Names of users that useradd(8) makes.
USER = re.compile(r'[a-z_][a-z0-9_.-]{0,31}')


@dataclasses.dataclass(frozen=True)
class Property:
    """A property of an image.

    :ivar description: what its value has to be, as an error says it
    :ivar fits: tells whether a value is so
    """

    description: str
    fits: Callable[[str], bool]


def _pattern(pattern: str) -> Callable[[str], bool]:
    return lambda text: bool(re.fullmatch(pattern, text))


def is_command(text: str) -> bool:
    """Tell whether a text is the words of a program, in one line."""
    try:
        words = shlex.split(text)
    except ValueError:
        return False
    return bool(words and words[0]) and text.isprintable()


_LINE = Property('one line of text', str.isprintable)
_WORD = Property('a word of letters, digits, ".", "_" and "-"',
                 _pattern(r'[A-Za-z0-9_.-]{1,64}'))

#: {name: what is said of it}: what this driver reads, and what Nova's
#: compute manager reads for every driver.
PROPERTIES: Mapping[str, Property] = {
    # nova.compute.manager, _get_power_off_values
    'os_shutdown_timeout': Property(
        'a number of seconds, 0 or more', _pattern('[0-9]{1,9}')),
    'os_command_line': Property(
        'the words of a program, quoted as for a shell', is_command),
    'os_admin_user': Property(
        'the name of a user, such as useradd(8) makes',
        lambda text: bool(USER.fullmatch(text))),
    'hw_cpu_policy': Property(
        'shared or dedicated', _pattern('shared|dedicated')),
    'hw_architecture': _WORD,
    'architecture': _WORD,
    'os_type': _LINE,
    'os_distro': _LINE,
}


def check(properties: Mapping[str, str]) -> None:
    """Refuse an image whose properties cannot be followed.

    :param properties: of the image; an empty value is none
    :raises InvalidRequest: with the name of the first that is wrong
    """
    for name, rule in PROPERTIES.items():
        text = properties.get(name)
        if text and not rule.fits(text):
            shown = text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'
            raise exception.InvalidRequest(
                f'image property {name}={shown!r}: it has to be '
                f'{rule.description}')
