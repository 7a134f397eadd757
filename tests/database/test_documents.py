"""Every snippet of the README and of docs/ runs, on PostgreSQL and on Citus."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from citus_analytics.github.sample import Sample
from tests.documents import (
    ROOT,
    blocks,
    dispose_engines,
    documents,
    run_commands,
    run_python,
)
from tests.programs import psql

if TYPE_CHECKING:
    from sqlalchemy import URL

    from tests.documents import Block
    from tests.servers import DatabaseServer

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def write_data(directory: Path) -> None:
    sample = Sample(events=1000, users=100, since=NOON, until=NOON + timedelta(hours=1))
    (directory / "events.csv").write_bytes(b"".join(sample.events_csv()))
    (directory / "users.csv").write_bytes(b"".join(sample.users_csv()))


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_snippets(
    document: Path,
    server: DatabaseServer,
    empty_database: URL,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("alembic", "alembic.ini"):
        (tmp_path / name).symlink_to(ROOT / name)
    write_data(tmp_path)
    url = empty_database.set(drivername="postgresql").render_as_string(hide_password=False)
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": document.stem}
    try:
        for block in blocks(document.read_text("utf-8")):
            run(block, server, empty_database, namespace)
    finally:
        dispose_engines(namespace)


def run(
    block: Block,
    server: DatabaseServer,
    database: URL,
    namespace: dict[str, object],
) -> None:
    match block.language:
        case "python":
            run_python(block, f"the document's line {block.line}", namespace)
        case "sql":
            psql(server, database, block.text)
        case "console":
            run_commands(block)
        case other:
            assert other == "text", f"line {block.line}: nobody runs a block of {other}"
