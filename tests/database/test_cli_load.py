"""`citus-analytics load`: what it tells while it works, and when it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import NullPool, create_engine

from citus_analytics.__main__ import main
from tests.database.load_data import EVENTS
from tests.database.small_parts import events
from tests.servers import ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from sqlalchemy import URL

pytestmark = ON_POSTGRESQL_ONLY


def load(database: URL, *arguments: str) -> int:
    address = database.set(drivername="postgresql").render_as_string(hide_password=False)
    return main(["load", "events", *arguments, "--database-url", address])


def test_rejects_that_cannot_be_written_are_told_before_the_load(
    database: URL, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(EVENTS)
    nowhere = str(tmp_path / "nowhere" / "rejects")
    assert load(database, str(path), "--rejects", nowhere) == 1
    said = capsys.readouterr().err
    assert f"--rejects, {nowhere}, cannot be written: No such file or directory" in said
    assert events(create_engine(database, poolclass=NullPool)) == 0


def test_indexes_that_are_built_later_are_announced(
    database: URL, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(EVENTS)
    assert load(database, str(path), "--indexes-later") == 0
    assert "Building the indexes of github_events" in capsys.readouterr().err


def test_the_call_in_python_is_the_same(
    database: URL, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(EVENTS)
    assert load(database, str(path), "--force", "--connections", "2", "--indexes-later") == 0
    call = f"load_files(engine, github_events, ['{path}'], force=True, connections=2, "
    assert f"{call}indexes_later=True)" in capsys.readouterr().out
