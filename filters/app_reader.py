# SPDX-License-Identifier: Apache-2.0
"""Reads from Nova's databases which servers are of which application.

Requests are in the API database, in JSON; places are in those of the cells.
Nova's objects would read every column of every server for that.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import datetime as dt
from typing import Any

from nova import context as nova_context
from nova import objects
from nova.db.api import api as api_db
from nova.db.api import models as api_models
from nova.db.main import api as main_db
from nova.db.main import models
from oslo_log import log
from oslo_serialization import jsonutils
from oslo_utils import timeutils
import sqlalchemy as sa

from nova_vcloud import exception
from nova_vcloud.filters import app_index
from nova_vcloud.flavor import applications

LOG = log.getLogger(__name__)

ROWS = 1000  # of a query
#: Requests that are read again, for one that was numbered before another and
#: committed after it; and seconds, for clocks of hosts that differ.
OVERLAP_ROWS = 200
OVERLAP = dt.timedelta(seconds=60)
_HINT = '%"app":%'
_SPEC = '%"vcloud:app":%'


class Reader:
    """Remembers how far it has read; for one thread."""

    def __init__(self) -> None:
        self._context = nova_context.get_admin_context()
        self._last = 0
        self._since: dt.datetime | None = None

    def applications(self) -> Iterator[tuple[str, applications.Key]]:
        """Yield (server uuid, application) of requests since the last."""
        last = _last_request(self._context)
        after = max(self._last - OVERLAP_ROWS, 0)
        while True:
            rows = _requests(self._context, after, last)
            for _number, uuid, text in rows:
                key = application(text)
                if key:
                    yield uuid, key
            if len(rows) < ROWS:
                break
            after = rows[-1][0]
        self._last = last

    def places(self) -> Iterator[app_index.Place]:
        """Yield where servers are that changed since the last time."""
        now = timeutils.utcnow()
        if self._since is not None:
            for context in _cells(self._context):
                yield from _changed(context, self._since - OVERLAP)
        self._since = now

    def places_of(self, uuids: Iterable[str]) -> Iterator[app_index.Place]:
        """Yield where these servers are."""
        uuids = sorted(uuids)
        for context in _cells(self._context):
            for start in range(0, len(uuids), ROWS):
                yield from _of(context, uuids[start:start + ROWS])


def application(text: str) -> applications.Key | None:
    """Return the application of a stored request, None if it has none.

    :param text: JSON as Nova's RequestSpec is stored; anything else is none
    """
    try:
        found = jsonutils.loads(text)['nova_object.data']
        flavor = (found.get('flavor') or {}).get('nova_object.data') or {}
        return applications.application(
            found.get('project_id'), found.get('scheduler_hints') or {},
            flavor.get('extra_specs') or {})
    except (exception.InvalidRequest, ValueError, LookupError, TypeError,
            AttributeError) as e:
        LOG.debug('Stored request of no use: %s', e)
        return None


@api_db.context_manager.reader
def _last_request(context: nova_context.RequestContext) -> int:
    model = api_models.RequestSpec
    return context.session.query(sa.func.max(model.id)).scalar() or 0


@api_db.context_manager.reader
def _requests(context: nova_context.RequestContext, after: int, last: int
              ) -> list[tuple[int, str, str]]:
    model = api_models.RequestSpec
    return context.session.query(
        model.id, model.instance_uuid, model.spec).filter(
            model.id > after, model.id <= last,
            sa.or_(model.spec.like(_HINT), model.spec.like(_SPEC))).order_by(
                model.id).limit(ROWS).all()


def _cells(context: nova_context.RequestContext
           ) -> Iterator[nova_context.RequestContext]:
    """Yield a context for each cell.

    Disabled ones have servers, too, and cell0 tells of those that found no
    host when they are deleted.
    """
    for cell in objects.CellMappingList.get_all(context):
        with nova_context.target_cell(context, cell) as targeted:
            yield targeted


@main_db.pick_context_manager_reader
def _changed(context: nova_context.RequestContext, since: dt.datetime
             ) -> list[app_index.Place]:
    model = models.Instance
    return _places(context.session.query(
        model.uuid, model.host, model.deleted).filter(
            model.updated_at >= since.replace(tzinfo=None)))


@main_db.pick_context_manager_reader
def _of(context: nova_context.RequestContext, uuids: Iterable[str]
        ) -> list[app_index.Place]:
    model = models.Instance
    return _places(context.session.query(
        model.uuid, model.host, model.deleted).filter(
            model.uuid.in_(list(uuids))))


def _places(query: Any) -> list[app_index.Place]:
    return [app_index.Place(uuid, host, bool(deleted))
            for uuid, host, deleted in query.all()]
