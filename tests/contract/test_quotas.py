# SPDX-License-Identifier: Apache-2.0
"""The mini cloud's quotas against the resources that Nova knows."""

import pathlib
import sys

from nova.conf import quota
from nova.limit import local
from nova.limit import placement
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'devstack'))

from mini import quotas  # noqa: E402 - found by the line above


@pytest.mark.parametrize('name', quotas.DEFAULTS)
def test_nova_knows_the_resource(name):
    assert quota.UnifiedLimitsResource()(name) == name


def test_nothing_is_shown_as_zero():
    """Nova's limits and quota calls say 0 of what has no limit."""
    shown = {*local.LEGACY_LIMITS, *placement.LEGACY_LIMITS}
    assert quotas.missing(()).keys() >= shown
