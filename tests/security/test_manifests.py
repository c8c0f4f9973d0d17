# SPDX-License-Identifier: Apache-2.0
"""Manifests of a registry that are no manifests: refused, in few words.

Any other error would be this host's, and Nova would try the next one.
"""

import json
import random

import pytest

from nova_vcloud import exception
from nova_vcloud.image import manifests

MACHINE = 'x86_64'
DIGEST = 'sha256:' + '0' * 64
KEYS = ['platform', 'os', 'architecture', 'digest', 'size', 'mediaType',
        'config', 'layers', 'manifests']
VALUES = [None, True, -1, 1.5, '', 'linux', 'amd64', DIGEST, '\ud800',
          'x' * 100_000]
MOST = 1000  # characters of an error


def parse(found: object) -> None:
    manifests.parse(json.dumps(found).encode(), MACHINE)


@pytest.mark.parametrize('platform', ['linux', ['linux'], 7, True])
def test_a_platform_that_is_none(platform):
    with pytest.raises(exception.InvalidImageArchive, match='platform'):
        parse({'schemaVersion': 2, 'manifests': [{'platform': platform}]})


def test_a_long_platform_makes_no_long_error():
    with pytest.raises(exception.InvalidImageArchive) as refused:
        parse({'schemaVersion': 2, 'manifests': [{'platform': {
            'os': 'linux', 'architecture': 'x' * 3_000_000}}]})
    assert len(str(refused.value)) < MOST


def value(chosen: random.Random, depth: int = 0) -> object:
    kind = chosen.randrange(10)
    if kind < 3 or depth > 3:
        return chosen.choice(VALUES)
    if kind < 6:
        return [value(chosen, depth + 1) for _ in range(chosen.randrange(4))]
    return {chosen.choice(KEYS): value(chosen, depth + 1)
            for _ in range(chosen.randrange(6))}


def reason(found: object) -> str:
    """Return why a manifest is refused, '' when it is not."""
    try:
        parse(found)
    except exception.InvalidImageArchive as e:
        return str(e)
    return ''


def test_whatever_it_is_it_is_refused_as_the_images_fault(budget):
    refused = 0
    for number in range(budget.count(5000, 300_000)):
        chosen = random.Random(f'{budget.seed}-{number}')
        said = reason({key: value(chosen) for key in KEYS[-3:]
                       if chosen.random() < 0.7} | {'schemaVersion': 2})
        assert len(said) < MOST, number
        refused += bool(said)
    assert refused
