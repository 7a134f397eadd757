"""What loading costs: files, events in JSON, several connections, indexes, captured changes."""

from __future__ import annotations

import csv
import json
import subprocess
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sqlalchemy import MetaData
from sqlalchemy.schema import CreateIndex, DropIndex

from benchmarks.harness import (
    OTHER,
    Figure,
    compare,
    distribute_other,
    execute,
    sample,
    seconds,
)
from citus_analytics import github_events
from citus_analytics.copy import load_csv
from citus_analytics.github.load import LoadOptions, load_events, load_files
from citus_analytics.server import find_binaries

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine, Table

# Of an hour of GH Archive's, an event has more than two thousand bytes, most of them people's text.
_WORDS = [f"{start}{end}" for start in ("re", "un", "de", "con") for end in ("view", "fine", "bug")]
_WORDS_OF_AN_EVENT = 280


def capture_cost(engine: Engine, rows: int) -> list[Figure]:
    """Compare COPY into the events with COPY into a table that has no rollups.

    Measured: COPY of a tenth of `rows` events, with its commit, into the empty `github_events`,
    whose changes are captured for all built-in rollups. The other arm is the same COPY into a table
    with the same columns and indexes, and on Citus the same shards, but without triggers. The index
    on `payload` is dropped: it would take most of the time, and hide what capture takes.

    Promised: at most 1.15 of the other arm's time.
    """
    bare = github_events.to_metadata(MetaData(), schema=OTHER)
    bare.create(engine)
    distribute_other(engine, bare.name)
    execute(engine, "DROP INDEX payload_index", f"DROP INDEX {OTHER}.payload_index")
    with TemporaryDirectory() as directory:
        path = _write_sample(max(rows // 10, 1), Path(directory))

        def load(table: Table, engine: Engine) -> None:
            with engine.begin() as connection:
                load_csv(connection, table, path)

        return [
            compare(
                "COPY: captured / uncaptured",
                partial(_into_empty, engine, partial(load, github_events)),
                partial(_into_empty, engine, partial(load, bare), bare),
                repetitions=9,
                at_most=1.15,
            )
        ]


def loading(engine: Engine, rows: int) -> list[Figure]:
    r"""Compare `load_events` and the generator of samples with psql's `\copy`.

    Measured: the time to connect, load a file of `rows` events into the empty `github_events`,
    and commit; and the time to generate that file. The indexes are dropped: they would take most of
    the time, and hide what the clients take.

    Promised: loading at most 1.05 of the time of `\copy`, and generating at most as long.
    """
    _indexes(engine, DropIndex)
    with TemporaryDirectory() as directory:
        path = _write_sample(rows, Path(directory))

        def load(engine: Engine) -> None:
            with engine.begin() as connection:
                load_events(connection, path)

        psql = partial(_into_empty, engine, partial(_psql_copy, path))
        return [
            compare(
                r"CSV: load_events / \copy",
                partial(_into_empty, engine, load),
                psql,
                repetitions=5,
                at_most=1.05,
            ),
            compare(
                r"CSV: generating / \copy",
                lambda: seconds(lambda: _write_sample(rows, Path(directory))),
                psql,
                repetitions=3,
                at_most=1,
            ),
        ]


def bulk_loading(engine: Engine, rows: int) -> list[Figure]:
    r"""Compare large loads with psql's `\copy` of the same rows as CSV, into the same empty tables.

    Measured: events in JSON of the size that GH Archive's have, a quarter of the rows, with all
    indexes but the one on `payload`; CSV into the table with all of its indexes, which are built
    afterwards; and CSV over two connections without indexes.

    Promised: JSON at most 1.5 of the time of `\copy`, indexes afterwards at most 0.8, and two
    connections at most 0.7.
    """

    def load(
        path: Path,
        engine: Engine,
        *,
        users: bool = True,
        connections: int = 1,
        indexes_later: bool = False,
    ) -> None:
        load_files(
            engine,
            github_events,
            [path],
            options=LoadOptions(users=users),
            connections=connections,
            indexes_later=indexes_later,
        )

    def against_psql(
        name: str, at_most: float, load: Callable[[Engine], None], path: Path
    ) -> Figure:
        return compare(
            rf"{name}: load_files / \copy",
            partial(_into_empty, engine, load),
            partial(_into_empty, engine, partial(_psql_copy, path)),
            repetitions=3,
            at_most=at_most,
        )

    with TemporaryDirectory() as directory:
        columns, archive = _write_archive(rows // 4, Path(directory))
        path = _write_sample(rows, Path(directory))
        execute(engine, "DROP INDEX payload_index")
        in_json = against_psql("events in JSON", 1.5, partial(load, archive, users=False), columns)
        _indexes(engine, CreateIndex, "payload_index")
        later = against_psql(
            "indexes afterwards", 0.8, partial(load, path, indexes_later=True), path
        )
        _indexes(engine, DropIndex)
        two = against_psql("two connections", 0.7, partial(load, path, connections=2), path)
        _indexes(engine, CreateIndex)
    return [in_json, later, two]


def _into_empty(
    engine: Engine, load: Callable[[Engine], None], table: Table = github_events
) -> float:
    execute(
        engine,
        f"TRUNCATE {table.fullname}, github_users, github_user_origins, loaded_files, "
        "github_events_log",
    )
    return seconds(lambda: load(engine))


def _psql_copy(path: Path, engine: Engine) -> None:
    address = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    psql = find_binaries().bindir / "psql"
    command = rf"\copy github_events from '{path}' WITH CSV"
    subprocess.run([psql, "--no-psqlrc", "--quiet", "-d", address, "-c", command], check=True)


def _indexes(engine: Engine, statement: type[CreateIndex | DropIndex], *names: str) -> None:
    with engine.begin() as connection:
        for index in sorted(github_events.indexes, key=lambda index: str(index.name)):
            if not names or index.name in names:
                connection.execute(statement(index))


def _write_sample(rows: int, directory: Path) -> Path:
    path = directory / "events.csv"
    with path.open("wb") as file:
        file.writelines(sample(rows).events_csv())
    return path


def _write_archive(rows: int, directory: Path) -> tuple[Path, Path]:
    """Write the same events as the tutorial's CSV and as GH Archive's JSON."""
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
                "created_at": moment,
                **({"org": json.loads(org)} if org else {}),
            }
            lines.write(json.dumps(event) + "\n")
            parts = (json.dumps(event[name]) for name in ("payload", "repo"))
            writer.writerow([number, kind, public, repo_id, *parts, user, org, moment])
    return table, archive
