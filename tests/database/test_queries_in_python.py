"""The analytics against the same questions answered in plain Python, over random events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from citus_analytics.github import queries
from tests.database.query_data import (
    CLOCK_CHANGES,
    INT_MAX,
    UNFIT_SIZES,
    ZONES,
    Event,
    add_events,
    instants,
    push,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

Window: TypeAlias = tuple[datetime | None, datetime | None]

EVER = datetime.max.replace(tzinfo=UTC)

times = st.one_of(
    st.datetimes(datetime(2015, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.builds(
        lambda change, seconds: change + timedelta(seconds=seconds),
        st.sampled_from(CLOCK_CHANGES),
        st.integers(-9000, 9000),
    ),
)
sizes = st.one_of(st.integers(0, 30), st.integers(), st.sampled_from(UNFIT_SIZES))
payloads = st.fixed_dictionaries({}, optional={"distinct_size": sizes})
pushes = st.builds(
    lambda moment, payload: push(moment, **payload), st.one_of(st.none(), times), payloads
)
windows: st.SearchStrategy[Window] = st.one_of(
    st.tuples(st.one_of(st.none(), times), st.none()),
    st.tuples(st.none(), times),
    st.tuples(times, times).filter(lambda pair: pair[0] < pair[1]),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(events=st.lists(pushes, max_size=25), zone=st.sampled_from(ZONES), window=windows)
def test_answers_are_those_of_plain_python(
    connection: Connection, events: list[Event], zone: str, window: Window
) -> None:
    since, until = window
    with connection.begin_nested() as savepoint:
        add_events(connection, events)
        counted = queries.count_events(connection, since=since, until=until)
        hourly = queries.commits_per_hour(connection, since=since, until=until, time_zone=zone)
        savepoint.rollback()
    selected = [event for event in events if is_in(window, event["created_at"])]
    assert counted == len(selected)
    assert instants(hourly) == hours_in_python(selected, ZoneInfo(zone))


def is_in(window: Window, moment: datetime | None) -> bool:
    if window == (None, None):
        return True
    since, until = window
    return moment is not None and (since or moment) <= moment < (until or EVER)


def hours_in_python(
    events: Sequence[Event], zone: ZoneInfo
) -> list[tuple[datetime | None, int | None]]:
    sums: dict[datetime | None, int | None] = {}
    for event in events:
        hour = start_of_hour(event["created_at"], zone)
        size = event["payload"].get("distinct_size")
        sums.setdefault(hour, None)
        if type(size) is int and -(2**31) <= size <= INT_MAX:
            sums[hour] = (sums[hour] or 0) + size
    return sorted(sums.items(), key=lambda each: each[0] or EVER)


def start_of_hour(moment: datetime | None, zone: ZoneInfo) -> datetime | None:
    if moment is None:
        return None
    shown = moment.astimezone(zone)
    return moment - timedelta(
        minutes=shown.minute, seconds=shown.second, microseconds=shown.microsecond
    )
