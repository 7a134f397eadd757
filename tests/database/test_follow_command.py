"""The command `follow` as the program that a user runs, and what it says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.database.follow_data import run, stored
from tests.github_api import Reply, live_event
from tests.rollups import assert_adds_up

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL, Connection, Engine

    from tests.github_api import GitHub


def test_lines_for_a_person(database: URL, github: GitHub) -> None:
    github.happen(*range(150))
    github.headers = {"X-RateLimit-Remaining": "4987", "X-RateLimit-Reset": "0"}
    github.replies = [None, None, Reply(502)]

    def happen(_: int) -> None:
        if len(github.requests) == 3:
            github.happen(*range(150, 700))

    github.before = happen
    first, failed, reason, second, gap, summary, python = run(
        database, github, "--max-polls", "2"
    ).splitlines()
    assert "UTC: 150 events new, 0 there already, 0 rejected; newest " in first
    assert "; 4,987 requests left; next poll in " in first
    assert "UTC: failed; " in failed
    assert reason == "  Nothing was loaded: GitHub answers 502"
    assert "UTC: 300 events new, 0 there already, 0 rejected; newest " in second
    assert gap == (
        "  Gap: events may have been missed from 2026-03-01 12:02:29 UTC to "
        "2026-03-01 12:06:40 UTC."
    )
    assert summary == "2 polls, 1 failed: 450 events new, 0 there already, 0 rejected, 1 gap."
    assert python == f"Python: follow(engine, Feed(api='{github.address}'))"


def test_lines_of_json(database: URL, connection: Connection, github: GitHub) -> None:
    github.happen(*range(100))
    told = run(database, github, "--max-polls", "2", "--rollup", "--json", "--repo", "a/b")
    first, second, summary = map(json.loads, told.splitlines())
    assert first["poll"].items() >= {"outcome": "loaded", "new": 100, "problem": None}.items()
    assert first["poll"]["newest"] == "2026-03-01T12:01:39+00:00"
    assert first["poll"]["lag_seconds"] > 0
    assert first["poll"]["rollup"]["groups_written"] > 0
    assert (second["poll"]["outcome"], second["poll"]["rollup"]) == ("unchanged", None)
    assert summary["summary"].pop("seconds") > 0
    assert summary == {
        "summary": {
            "polls": 2,
            "failed": 0,
            "new": 100,
            "known": 0,
            "rejected": 0,
            "gaps": 0,
            "interrupted": False,
        }
    }
    assert github.requests[0][0].startswith("/repos/a/b/events")
    assert_adds_up(connection)


def test_the_token_is_sent_and_not_shown(database: URL, github: GitHub) -> None:
    github.replies = [None, Reply(401, body=b'{"message": "Bad credentials"}')]
    told = run(database, github, "--once", GITHUB_TOKEN="sesame\n")
    told += run(database, github, "--once", code=1, GITHUB_TOKEN="sesame")
    assert [asked["authorization"] for _, asked, _ in github.requests] == ["Bearer sesame"] * 2
    assert "set GITHUB_TOKEN to another one" in told
    assert "sesame" not in told
    run(database, github, "--once", GITHUB_TOKEN="")
    assert "authorization" not in github.requests[-1][1]


def test_once_is_once(database: URL, engine: Engine, github: GitHub) -> None:
    github.happen(*range(150))
    github.replies = [Reply(500), None, Reply(500)]
    said = run(database, github, "--once", code=1)
    assert said.startswith(f"citus-analytics: {github.address}/events: GitHub answers 500.")
    assert stored(engine) == []
    run(database, github, "--once", code=1)
    assert stored(engine) == [*range(50, 150)]
    run(database, github, "--once")
    assert stored(engine) == [*range(150)]


def test_rejects_are_kept(database: URL, github: GitHub, tmp_path: Path) -> None:
    github.events = [live_event(1, payload={"text": "\0"}), live_event(2)]
    file = tmp_path / "rejects"
    for number in (1, 2):
        assert "1 rejected" in run(database, github, "--once", "--rejects", str(file))
        github.happen(number + 2)
        rejects = [json.loads(line) for line in file.read_bytes().splitlines()]
        assert len(rejects) == number
    assert rejects[0]["source"] == f"{github.address}/events"
    assert json.loads(rejects[0]["text"])["id"] == "1000001"


@pytest.mark.parametrize("options", [["--repo", "nobody"], ["--org", "a", "--user", "b"]], ids=str)
def test_a_feed_that_cannot_be(database: URL, github: GitHub, options: list[str]) -> None:
    run(database, github, *options, code=2)


def test_a_database_without_the_tables(empty_database: URL, github: GitHub) -> None:
    assert "citus-analytics migrate" in run(empty_database, github, "--once", code=1)
