# SPDX-License-Identifier: Apache-2.0
"""An index of applications without databases, and no memory of others."""

from nova import conf
import pytest

from nova_vcloud.filters import app_anti_affinity
from nova_vcloud.filters import app_index
from nova_vcloud.filters import choices


class Databases:
    """What a reader finds; each test writes it."""

    def __init__(self):
        self.requests = []
        self.now = []
        self.asked = 0

    def applications(self):
        self.asked += 1
        return list(self.requests)

    def places(self):
        return []

    def places_of(self, uuids):
        return [place for place in self.now if place.uuid in set(uuids)]


@pytest.fixture
def databases():
    return Databases()


@pytest.fixture(autouse=True)
def recent(monkeypatch):
    """Choices of this test only."""
    found = choices.Choices()
    monkeypatch.setattr(choices, 'RECENT', found)
    return found


@pytest.fixture
def index(databases, recent, monkeypatch):
    """Return an index that has read the databases when it was asked to."""
    found = app_index.Index(lambda: databases, lambda: 1000.0)
    monkeypatch.setattr(found, 'watch', lambda: found.look(databases))
    recent.listen(found.note_choice)
    monkeypatch.setattr(app_anti_affinity, 'INDEX', found)
    return found


@pytest.fixture
def options():
    """Return a setter of options in [vcloud_scheduler]."""
    names = []

    def override(**values):
        for name, value in values.items():
            conf.CONF.set_override(name, value, 'vcloud_scheduler')
            names.append(name)

    yield override
    for name in names:
        conf.CONF.clear_override(name, 'vcloud_scheduler')
