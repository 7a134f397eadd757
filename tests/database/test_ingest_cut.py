"""Contents that end too early: that it is told, and what is loaded of them."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest

from citus_analytics.errors import LoadError
from citus_analytics.ingest import LoadOptions, load_once
from citus_analytics.models import github_events
from tests.database.ingest_data import count
from tests.event_data import api_event

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from citus_analytics.gharchive import Reject


def test_an_array_that_is_cut_after_an_element_is_told(connection: Connection) -> None:
    whole = json.dumps([api_event(number) for number in range(3)], indent=1).encode()
    content = whole.rstrip(b"]\n")
    with pytest.raises(LoadError, match="the array of events has no end") as caught:
        load_once(connection, github_events, io.BytesIO(content), options=LoadOptions(strict=True))
    assert caught.value.line == whole.count(b"\n")
    assert count(connection) == 0
    rejects: list[Reject] = []
    options = LoadOptions(rejects=rejects.append)
    result = load_once(connection, github_events, io.BytesIO(content), options=options)
    assert (result.rows, result.rejected, len(rejects)) == (3, 1, 1)
