# SPDX-License-Identifier: Apache-2.0
"""The language of limits: which there are, in which units and ranges.

Purely values: what a flavor asks for, what an admin sets for an hour and what
a backend reads from the kernel are all said in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import enum
import functools
import re

from nova_vcloud import exception


class Special(enum.Enum):
    """A value that is no number."""

    UNLIMITED = 'unlimited'
    KEEP = 'keep'  # leave whatever is there

    def __repr__(self) -> str:
        return self.name


UNLIMITED = Special.UNLIMITED
KEEP = Special.KEEP

Value = int | frozenset[int] | Special


@dataclasses.dataclass(frozen=True)
class Field:
    """One kind of limit.

    :ivar unit: of the number; 'set' for a set of CPU or node numbers
    """

    unit: str
    minimum: int
    maximum: int
    meaning: str


_BPS = (1, 2**62)
_IOPS = (1, 2**32 - 2)  # the kernel takes 32 bits, and all ones for no limit
# Memory and swap together stay below what means "no limit" in cgroup v1.
_MEMORY = 2**61 - 1
_PAGE = 4096
_LONGEST_SET = 8192  # as many CPUs as a kernel can be built for

#: {resource.field: Field}. Ranges are the kernel's: cgroup-v1/memory.rst,
#: cgroup-v2.rst, sched-bwc.rst, tc-tbf(8).
FIELDS: dict[str, Field] = {
    'cpu.shares': Field(
        '', 2, 262144, 'weight beside other guests; 1024 is one core\'s'),
    'cpu.period': Field(
        'µs', 1000, 1_000_000, 'window in which the quota is counted'),
    'cpu.quota': Field(
        'µs', 1000, 2**44 // 1000,
        'CPU time in a period, of all the guest\'s threads together'),
    'cpu.burst': Field(
        'µs', 0, 2**44 // 1000,
        'unused quota that may be saved up, at most one quota'),
    'cpu.cpus': Field('set', 0, 8191, 'CPUs the guest may run on'),
    'cpu.mems': Field('set', 0, 1023, 'NUMA nodes its memory comes from'),
    'memory.max': Field(
        'bytes', 6 * 2**20, _MEMORY,
        'memory and page cache; beyond it something is killed'),
    'memory.swap': Field('bytes', 0, _MEMORY, 'swap on top of memory.max'),
    'memory.soft': Field(
        'bytes', _PAGE, _MEMORY, 'above it memory is reclaimed first'),
    'pids.max': Field('', 16, 4194304, 'processes and threads'),
    'disk.max': Field(
        'bytes', 2**20, 2**62, 'size of the root filesystem'),
    **{f'io.{direction}_{unit}': Field(
        name, *ends, f'{direction} of one block device')
       for direction in ('read', 'write', 'total')
       for unit, name, ends in (('bps', 'bytes/s', _BPS),
                                ('iops', 'requests/s', _IOPS))},
    **{f'net.{direction}_{name}': Field(
        'bytes' if name == 'burst' else 'bytes/s', *_BPS, meaning)
       for direction in ('in', 'out')
       for name, meaning in (
           ('average', f'{direction} the guest, frames and their headers'),
           ('peak', 'speed at which a burst may pass'),
           ('burst', 'amount that may pass at peak speed'))},
}
_SETS = ('cpu.cpus', 'cpu.mems')
# Of a number there is one spelling, or one limit would have two keys.
_DEVICE = {'io': re.compile(r'(0|[1-9][0-9]*):(0|[1-9][0-9]*)'),
           'net': re.compile(r'[\w-]+', re.ASCII)}
_NUMBER = re.compile(r'-?[0-9]+')


@dataclasses.dataclass(frozen=True, order=True)
class Key:
    """Names one limit: ``cpu.quota``, ``io.254:0.read_bps``.

    :ivar device: 'major:minor' of a whole disk for io, port id for net, ''
        for the rest
    """

    resource: str
    field: str
    device: str = ''

    def __post_init__(self) -> None:
        pattern = _DEVICE.get(self.resource)
        if self.kind not in FIELDS:
            raise exception.InvalidLimit(
                f'There is no limit {self}; there are '
                f'{", ".join(sorted(FIELDS))}.')
        if pattern is None and self.device:
            raise exception.InvalidLimit(f'{self}: {self.resource} limits '
                                         'have no device')
        if pattern is not None and not pattern.fullmatch(self.device):
            example = 'io.254:0.read_bps' if self.resource == 'io' \
                else 'net.PORT-ID.in_average'
            raise exception.InvalidLimit(
                f'{self}: name the device, as in {example}')

    @classmethod
    def parse(cls, text: str) -> Key:
        """Return the key that ``str()`` shows as ``text``.

        :raises InvalidLimit: there is no such limit
        """
        resource, _, rest = text.partition('.')
        device, _, field = rest.rpartition('.')
        return cls(resource, field, device)

    @property
    def kind(self) -> str:
        """Name of the field, whatever the device."""
        return f'{self.resource}.{self.field}'

    def __str__(self) -> str:
        return '.'.join(part for part in
                        (self.resource, self.device, self.field) if part)


class Limits(Mapping[Key, Value]):
    """Some limits; what is not named is KEEP.

    They may be what was found somewhere, so any value is taken;
    :meth:`check` tells whether they can be asked for.
    """

    def __init__(self, values: Mapping[Key, Value] | None = None) -> None:
        self._values = {key: value for key, value in (values or {}).items()
                        if value is not KEEP}

    def __getitem__(self, key: Key) -> Value:
        return self._values[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f'Limits({self.to_doc()})'

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def value(self, name: str, device: str = '') -> Value:
        """Return a value by the name of its field, KEEP when not named."""
        resource, _, field = name.partition('.')
        return self._values.get(Key(resource, field, device), KEEP)

    def over(self, base: Limits) -> Limits:
        """Return ``base`` with these in place of its own."""
        return Limits({**base._values, **self._values})

    def only(self, kinds: Iterable[str]) -> Limits:
        """Return those of some kinds, such as ``cpu.quota``."""
        kinds = frozenset(kinds)
        return Limits({key: value for key, value in self._values.items()
                       if key.kind in kinds})

    def devices(self, resource: str) -> tuple[str, ...]:
        """Return the devices that are named, in order."""
        return tuple(sorted({key.device for key in self._values
                             if key.resource == resource}))

    def check(self) -> None:
        """Check each value, and the values against one another.

        :raises InvalidLimit: out of its range, or two that are at odds
        """
        for key, value in self._values.items():
            _check(key, value)
        self._at_most('cpu.burst', 'cpu.quota')
        self._at_most('memory.soft', 'memory.max')
        if self.value('memory.max') is UNLIMITED \
                and self._number('memory.swap') is not None:
            raise exception.InvalidLimit(
                'memory.swap has no meaning without memory.max: make both '
                'unlimited')
        for device in self.devices('io'):
            self._no_total_beside(device)
        for device in self.devices('net'):
            for way in ('in', 'out'):
                self._at_most(f'net.{way}_average', f'net.{way}_peak', device)
                for name in ('peak', 'burst'):
                    self._needs(f'net.{way}_{name}', f'net.{way}_average',
                                device)

    def _number(self, name: str, device: str = '') -> int | None:
        value = self.value(name, device)
        return value if isinstance(value, int) else None

    def _at_most(self, less: str, more: str, device: str = '') -> None:
        low, high = self._number(less, device), self._number(more, device)
        if low and self.value(more, device) is UNLIMITED \
                and less == 'cpu.burst':
            raise exception.InvalidLimit(
                f'{less} {low} has no meaning without {more}')
        if low is not None and high is not None and low > high:
            raise exception.InvalidLimit(
                f'{less} {low} is more than {more} {high}')

    def _needs(self, name: str, other: str, device: str) -> None:
        if self._number(name, device) is not None \
                and self._number(other, device) is None:
            raise exception.InvalidLimit(
                f'{name} has no meaning without {other}')

    def _no_total_beside(self, device: str) -> None:
        for unit in ('bps', 'iops'):
            if self._number(f'io.total_{unit}', device) is None:
                continue
            for way in ('read', 'write'):
                if self._number(f'io.{way}_{unit}', device) is not None:
                    raise exception.InvalidLimit(
                        f'io.total_{unit} and io.{way}_{unit} exclude each '
                        'other')

    def to_doc(self) -> dict[str, int | str]:
        """Return what JSON can hold: sets as ``0-3,7``."""
        return {str(key): to_text(value) if not isinstance(value, int)
                else value for key, value in sorted(self._values.items())}

    @classmethod
    def from_doc(cls, doc: Mapping[str, int | str]) -> Limits:
        """Return the limits of which :meth:`to_doc` made ``doc``.

        :raises InvalidLimit: an unknown limit, or a value out of its range
        """
        values: dict[Key, Value] = {}
        for name, text in doc.items():
            key = Key.parse(name)
            values[key] = parse_value(key, str(text))
        return cls(values)


def _check(key: Key, value: Value) -> None:
    if value is UNLIMITED:
        return
    field = FIELDS[key.kind]
    wanted = frozenset if key.kind in _SETS else int
    if not isinstance(value, wanted) or isinstance(value, bool):
        what = 'set' if key.kind in _SETS else 'number'
        raise exception.InvalidLimit(f'{key}: {value!r} is not a {what}')
    numbers = value if isinstance(value, frozenset) else (value,)
    if not numbers:
        raise exception.InvalidLimit(f'{key}: the set is empty')
    for number in numbers:
        if not isinstance(number, int) or isinstance(number, bool):
            raise exception.InvalidLimit(
                f'{key}: {number!r} is not a number')
        if not field.minimum <= number <= field.maximum:
            raise exception.InvalidLimit(
                f'{key}: {number} {field.unit} is not between '
                f'{field.minimum} and {field.maximum}')


def parse_value(key: Key, text: str) -> Value:
    """Return the value that a person wrote.

    :param text: a number, ``unlimited``, ``keep``, or a list such as 0-3,7
    :raises InvalidLimit: none of these
    """
    text = text.strip().lower()
    for special in Special:
        if text == special.value:
            return special
    try:
        value: Value = parse_set(text) if key.kind in _SETS \
            else _parse_number(text)
    except ValueError:
        raise exception.InvalidLimit(
            f'{key}: {text!r} is neither a '
            f'{"list such as 0-3,7" if key.kind in _SETS else "number"} '
            'nor "unlimited"') from None
    _check(key, value)
    return value


@functools.lru_cache(maxsize=256)
def parse_set(text: str) -> frozenset[int]:
    """Return the numbers of a kernel list such as ``0-3,7``.

    :raises ValueError: not such a list, or a number no kernel has
    """
    numbers: set[int] = set()
    for part in text.split(','):
        first, dash, last = part.strip().partition('-')
        start = _parse_number(first)
        end = _parse_number(last) if dash else start
        if not start <= end < _LONGEST_SET:
            raise ValueError(part)
        numbers.update(range(start, end + 1))
    return frozenset(numbers)


def _parse_number(text: str) -> int:
    # int() alone takes 1_000 and the digits of every script.
    if not _NUMBER.fullmatch(text):
        raise ValueError(text)
    return int(text)


def to_text(value: Value) -> str:
    """Return a value as a person reads it and :func:`parse_value` takes it."""
    if isinstance(value, Special):
        return value.value
    if isinstance(value, frozenset):
        return format_set(value)
    return str(value)


def format_set(numbers: Iterable[int]) -> str:
    """Return a kernel list: ``0-3,7``."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return ','.join(str(first) if first == last else f'{first}-{last}'
                    for first, last in runs)
