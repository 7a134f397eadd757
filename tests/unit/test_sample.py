"""The made-up events: the same every time, of the right shapes, about users who exist."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from citus_analytics.errors import ArgumentError
from citus_analytics.github.sample import Sample

SINCE = datetime(2025, 1, 1, tzinfo=UTC)
HOUR = Sample(events=20_000, since=SINCE, until=SINCE + timedelta(hours=1))


def rows(blocks: Any) -> list[list[str]]:
    return list(csv.reader(io.StringIO(b"".join(blocks).decode(), newline="")))


@pytest.fixture(scope="module")
def events() -> list[list[str]]:
    return rows(HOUR.events_csv())


def payloads(events: list[list[str]], event_type: str) -> list[dict[str, Any]]:
    return [json.loads(row[4]) for row in events if row[1] == event_type]


def test_equal_samples_give_the_same_bytes_on_every_version_of_python() -> None:
    digest = hashlib.sha256()
    for block in (*HOUR.events_csv(), *HOUR.users_csv()):
        digest.update(block)
    assert digest.hexdigest() == (
        "f5814e7628c74578451d7a04e627b8ef6cdba77d743e68475fcf263fdd0ed483"
    )


def test_another_seed_gives_other_events_of_the_same_users(events: list[list[str]]) -> None:
    other = replace(HOUR, seed=1)
    assert rows(other.events_csv()) != events
    assert rows(other.users_csv()) == rows(HOUR.users_csv())


def test_an_event_has_nine_columns_and_the_tutorials_types(events: list[list[str]]) -> None:
    assert len(events) == HOUR.events
    for event_id, event_type, public, repo_id, _, repo, user_id, org, created_at in events:
        assert event_id.isdecimal()
        assert user_id.isdecimal()
        assert event_type.endswith("Event")
        assert public == "t"
        named = json.loads(repo)
        assert named["id"] == int(repo_id)
        assert named["url"].endswith(f"/repos/{named['name']}")
        if org:
            assert named["name"].startswith(json.loads(org)["login"] + "/")
        assert datetime.fromisoformat(created_at).utcoffset() == timedelta(0)


def test_event_ids_follow_one_another(events: list[list[str]]) -> None:
    assert [int(row[0]) for row in events] == list(range(1, HOUR.events + 1))
    late = replace(HOUR, events=3, first_event_id=700)
    assert [row[0] for row in rows(late.events_csv())] == ["700", "701", "702"]


def test_a_user_has_six_columns_and_every_id_once() -> None:
    users = rows(HOUR.users_csv())
    assert [int(row[0]) for row in users] == list(range(1, HOUR.users + 1))
    assert len({row[2] for row in users}) == HOUR.users
    for user_id, url, login, avatar_url, gravatar_id, display_login in users:
        assert login == display_login == f"user-{user_id}"
        assert url.endswith(f"/users/{login}")
        assert avatar_url.endswith(f"/{user_id}")
        assert gravatar_id == ""


def test_the_types_have_githubs_shares(events: list[list[str]]) -> None:
    shares = {name: n / HOUR.events for name, n in Counter(row[1] for row in events).items()}
    assert len(shares) == 14
    assert shares["PushEvent"] == pytest.approx(0.52, abs=0.02)
    assert shares["WatchEvent"] == pytest.approx(0.12, abs=0.01)
    assert shares["CreateEvent"] == pytest.approx(0.12, abs=0.01)
    assert 0 < shares["PublicEvent"] < 0.005


def test_about_seventy_percent_of_events_have_no_org(events: list[list[str]]) -> None:
    assert sum(row[7] == "" for row in events) / HOUR.events == pytest.approx(0.7, abs=0.04)


@pytest.mark.parametrize("column", [6, 3], ids=["users", "repositories"])
def test_a_hundredth_has_a_third_of_the_events(events: list[list[str]], column: int) -> None:
    counts = Counter(row[column] for row in events)
    total = HOUR.users if column == 6 else HOUR.repositories
    first = sum(n for _, n in counts.most_common(total // 100))
    assert 0.25 < first / HOUR.events < 0.45


def test_some_minutes_are_several_times_busier(events: list[list[str]]) -> None:
    minutes = sorted(Counter(row[8][:16] for row in events).values())
    assert len(minutes) == 60
    assert minutes[-4] >= 3 * minutes[30]


def test_rows_are_in_the_order_of_their_minutes_only(events: list[list[str]]) -> None:
    times = [row[8] for row in events]
    assert [time[:16] for time in times] == sorted(time[:16] for time in times)
    assert times != sorted(times)


def test_a_push_counts_its_commits(events: list[list[str]]) -> None:
    pushes = [push for push in payloads(events, "PushEvent") if "size" in push]
    for push in pushes:
        assert 0 <= push["distinct_size"] <= push["size"]
        assert len({commit["sha"] for commit in push["commits"]}) == min(push["size"], 20)
        assert all(commit["sha"] == push["head"] for commit in push["commits"][-1:])
        if push["size"] <= 20:
            assert sum(commit["distinct"] for commit in push["commits"]) == push["distinct_size"]
    assert {0, 1, 2} <= {push["distinct_size"] for push in pushes}
    assert max(push["size"] for push in pushes) > 100


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_the_wanted_share_of_pushes_has_no_size(share: float) -> None:
    some = rows(replace(HOUR, events=4000, pushes_without_size=share).events_csv())
    pushes = payloads(some, "PushEvent")
    bare = [push for push in pushes if "distinct_size" not in push]
    assert all(push.keys() == {"push_id", "ref", "head", "before"} for push in bare)
    assert len(bare) / len(pushes) == pytest.approx(share, abs=0.03 if 0 < share < 1 else 0)


def test_no_two_pushes_have_the_same_head(events: list[list[str]]) -> None:
    heads = [push["head"] for push in payloads(events, "PushEvent")]
    assert len(set(heads)) == len(heads)
    assert all(len(head) == 40 for head in heads)


def test_ids_in_payloads_are_numbers(events: list[list[str]]) -> None:
    assert all(isinstance(push["push_id"], int) for push in payloads(events, "PushEvent"))
    members = [member["member"] for member in payloads(events, "MemberEvent")]
    assert all(member["login"] == f"user-{member['id']}" for member in members)


def test_a_create_event_says_what_was_created(events: list[list[str]]) -> None:
    created = payloads(events, "CreateEvent")
    kinds = Counter(payload["ref_type"] for payload in created)
    assert kinds.keys() == {"repository", "branch", "tag"}
    assert kinds["repository"] / len(created) == pytest.approx(0.4, abs=0.04)
    assert all(
        (payload["ref"] is None) == (payload["ref_type"] == "repository") for payload in created
    )


def test_rows_have_a_plausible_size() -> None:
    size = sum(map(len, HOUR.events_csv()))
    assert 300 < size / HOUR.events < 1000


def test_blocks_are_small_enough_to_keep_memory_flat() -> None:
    assert max(map(len, HOUR.events_csv())) < 2**20


samples = st.builds(
    Sample,
    events=st.integers(0, 300),
    users=st.integers(1, 50),
    repositories=st.integers(1, 50),
    first_event_id=st.integers(0, 2**40),
    since=st.datetimes(
        min_value=datetime(1960, 1, 1),  # noqa: DTZ001
        max_value=datetime(2100, 1, 1),  # noqa: DTZ001
        timezones=st.just(timezone(timedelta(hours=5, minutes=30))),
    ),
    until=st.just(datetime(2200, 1, 1, tzinfo=UTC)),
    pushes_without_size=st.floats(0, 1),
    seed=st.integers(0, 2**64),
)


@settings(max_examples=60, deadline=None)
@given(samples, st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=2)))
@example(replace(HOUR, events=300), timedelta(seconds=1))
@example(replace(HOUR, events=300), timedelta(minutes=2, microseconds=1))
def test_every_event_is_in_the_window_and_of_a_user_who_exists(
    sample: Sample, window: timedelta
) -> None:
    sample = replace(sample, until=sample.since + window)
    events = rows(sample.events_csv())
    users = {row[0] for row in rows(sample.users_csv())}
    assert len(events) == sample.events
    for row in events:
        assert sample.since <= datetime.fromisoformat(row[8]) < sample.until
        assert row[6] in users
        assert 1 <= int(row[3]) <= sample.repositories
        json.loads(row[4])


def test_no_events_are_no_blocks() -> None:
    assert list(replace(HOUR, events=0).events_csv()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"events": -1}, "events must be at least 0, not -1"),
        ({"users": 0}, "users must be at least 1, not 0"),
        ({"repositories": 0}, "repositories must be at least 1, not 0"),
        ({"since": datetime(2025, 1, 1)}, "since must be an aware datetime"),  # noqa: DTZ001
        ({"until": datetime(2025, 1, 2)}, "until must be an aware datetime"),  # noqa: DTZ001
        ({"until": SINCE}, "no whole second lies between"),
        (
            {"since": SINCE.replace(microsecond=1), "until": SINCE.replace(microsecond=2)},
            "no whole second lies between",
        ),
        ({"pushes_without_size": 1.5}, "pushes_without_size must be from 0 to 1, not 1.5"),
    ],
)
def test_impossible_samples_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        replace(HOUR, **change)
