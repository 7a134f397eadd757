"""What large loads cost: events in JSON, several connections, indexes that are built afterwards."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sqlalchemy.schema import CreateIndex, DropIndex

from benchmarks.database import execute, sample
from benchmarks.figures import Figure
from benchmarks.loading import psql_copy
from benchmarks.timing import alternate, median_ratio, milliseconds, say, seconds
from citus_analytics import LoadOptions, github_events, load_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

REPETITIONS = 3
_WORDS = [f"{start}{end}" for start in ("re", "un", "de", "con") for end in ("view", "fine", "bug")]
_WORDS_OF_AN_EVENT = 280
_TABLES = "github_events, github_users, github_user_origins, loaded_files, "
_TABLES += "github_rollup_1min_changes"


def measure(engine: Engine, rows: int) -> list[Figure]:
    r"""Compare large loads with psql's `\copy` of the same rows as CSV, into the same empty tables.

    Measured: events in JSON of the size that GH Archive's have, a quarter of the rows, with all
    indexes but the one on `payload`, and the megabytes of JSON a second; CSV over two connections
    without indexes; and CSV into the table with all of its indexes, which are built afterwards.

    Promised: JSON at most 1.5 of the time of `\copy`, and 60 MB a second; two connections at most
    0.7; indexes afterwards at most 0.8.
    """
    with TemporaryDirectory() as directory:
        execute(engine, "DROP INDEX payload_index")
        figures = _json(engine, *_write_archive(rows // 4, Path(directory)))
        table = Path(directory, "events.csv")
        with table.open("wb") as file:
            file.writelines(sample(rows).events_csv())
        _indexes(engine, "create", "payload_index")
        figures += _ratio(
            engine, "indexes afterwards", 0.8, partial(_load, table, indexes_later=True), table
        )
        _indexes(engine, "drop")
        figures += _ratio(engine, "two connections", 0.7, partial(_load, table, jobs=2), table)
        _indexes(engine, "create")
    return figures


def _json(engine: Engine, table: Path, archive: Path) -> list[Figure]:
    arms = [
        partial(_into_empty, engine, load)
        for load in (partial(_load, archive, users=False), partial(psql_copy, path=table))
    ]
    ours, psqls = alternate(arms, REPETITIONS)
    say(rf"events in JSON: {milliseconds(ours)}, psql's \copy {milliseconds(psqls)}")
    megabytes = archive.stat().st_size / 1e6
    return [
        Figure(r"events in JSON: load_files / \copy", median_ratio(ours, psqls), "at most", 1.5),
        Figure("megabytes of JSON a second", megabytes / sorted(ours)[1], "at least", 60),
    ]


def _ratio(
    engine: Engine, name: str, promised: float, load: Callable[[Engine], None], table: Path
) -> list[Figure]:
    arms = [partial(_into_empty, engine, arm) for arm in (load, partial(psql_copy, path=table))]
    ours, psqls = alternate(arms, REPETITIONS)
    say(rf"{name}: {milliseconds(ours)}, psql's \copy {milliseconds(psqls)}")
    figure = rf"{name}: load_files / \copy"
    return [Figure(figure, median_ratio(ours, psqls), "at most", promised)]


def _load(
    path: Path, engine: Engine, *, users: bool = True, jobs: int = 1, indexes_later: bool = False
) -> None:
    load_files(
        engine,
        github_events,
        [path],
        options=LoadOptions(users=users),
        jobs=jobs,
        indexes_later=indexes_later,
    )


def _into_empty(engine: Engine, load: Callable[[Engine], None]) -> float:
    execute(engine, f"TRUNCATE {_TABLES}")
    return seconds(lambda: load(engine))


def _indexes(engine: Engine, what: str, *names: str) -> None:
    with engine.begin() as connection:
        for index in sorted(github_events.indexes, key=lambda index: str(index.name)):
            if not names or index.name in names:
                connection.execute(CreateIndex(index) if what == "create" else DropIndex(index))


def _write_archive(rows: int, directory: Path) -> tuple[Path, Path]:
    """Write the same events as the tutorial's CSV and as GH Archive's JSON.

    Of an hour of GH Archive's, an event has more than two thousand bytes, most of them text of
    people's.
    """
    table, archive = directory / "archive.csv", directory / "archive.json"
    words = Random(0)
    events = csv.reader(b"".join(sample(rows).events_csv()).decode().splitlines())
    with table.open("w", newline="") as columns, archive.open("w") as lines:
        writer = csv.writer(columns)
        for number, kind, public, repo_id, payload, repo, user, org, moment in events:
            text = " ".join(words.choices(_WORDS, k=_WORDS_OF_AN_EVENT))
            event = {
                "id": number,
                "type": kind,
                "actor": {"id": int(user), "login": f"user-{user}", "url": "", "avatar_url": ""},
                "repo": {**json.loads(repo), "id": int(repo_id)},
                "payload": {**json.loads(payload), "comment": {"body": text}},
                "public": public == "t",
                "created_at": moment.replace(" ", "T").replace("+00", "Z"),
                **({"org": json.loads(org)} if org else {}),
            }
            lines.write(json.dumps(event) + "\n")
            parts = (json.dumps(event[name]) for name in ("payload", "repo"))
            writer.writerow([number, kind, public, repo_id, *parts, user, org, moment])
    return table, archive
