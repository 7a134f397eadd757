"""A rollup that an application leaves out: its own, or one of the built-in ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Index,
    MetaData,
    NullPool,
    Table,
    Text,
    create_engine,
    inspect,
)

import citus_analytics
from citus_analytics import Distributed, Local, Rollup, count, distinct, rollups_of, total
from citus_analytics.__main__ import main
from citus_analytics.errors import DeclarationError
from citus_analytics.rollups.declare import specs_of
from tests.autogenerate import migrated
from tests.database.analytics_data import add_events, random_events
from tests.documents import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL

    from tests.autogenerate import Application

# Run in a process of its own, whose built-in tables are its own.
PROGRAM = """
import json, sys
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine
import citus_analytics as ca
from citus_analytics.rollups.run import verify

folder, url, *removed = sys.argv[1:]
for name in removed:
    getattr(ca, name).remove()
config = Config()
config.set_main_option("script_location", folder)
config.set_main_option("path_separator", "newline")
config.set_main_option(
    "version_locations", folder + "/versions\\ncitus_analytics:_alembic/versions"
)
config.attributes |= {"url": url, "metadata": ca.Base.metadata}
script = command.revision(
    config, "fewer", autogenerate=True, version_path=folder + "/versions"
)
command.upgrade(config, "head")
command.check(config)
with create_engine(url).connect() as connection:
    def asked(**options):
        activity = ca.repository_activity(connection, 2, **options)
        stars = ca.trending_repositories(connection, limit=None, **options)
        active = ca.most_active_users(connection, **options)
        return [
            [[str(each.bucket), each.events] for each in activity],
            [[each.repo_id, each.events] for each in stars],
            [[each.user_id, str(each.minute), each.events] for each in active],
        ]
    answers = {
        "fresh": asked(),
        "raw": asked(freshness="raw"),
        "wrong": sum(each.groups for each in verify(connection, ca.GITHUB_EVENTS_BY_TYPE)),
    }
    ca.run_rollup(connection, ca.GITHUB_EVENTS_BY_TYPE)
    answers["rolled_up"] = asked(freshness="rolled_up")
print(json.dumps({"revision": open(script.path).read(), **answers}))
"""


@pytest.mark.parametrize(
    "removed", ["GITHUB_REPOSITORY_ACTIVITY GITHUB_STARS", "GITHUB_ROLLUP_1MIN"]
)
def test_built_in_rollups_are_left_out(
    database: URL,
    application: Application,
    tmp_path: Path,
    removed: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The revision drops their tables and no other; what they answered comes from elsewhere."""
    engine = create_engine(database, poolclass=NullPool)
    with engine.begin() as connection:
        add_events(connection, random_events(300))
        connection.exec_driver_sql("SELECT github_events_run()")
        add_events(connection, random_events(100, seed=5))
    before = set(inspect(engine).get_table_names())
    url = database.render_as_string(hide_password=False)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program), str(application.folder), url, *removed.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    upgrade, downgrade = said["revision"].split("def downgrade")
    tables = {"github_repository_activity", "github_stars"}
    if removed == "GITHUB_ROLLUP_1MIN":
        # Its table is the tutorial's.
        tables = set()
    assert set(re.findall(r"op\.drop_table\(\s*['\"](\w+)", upgrade)) == tables
    assert set(re.findall(r"op\.create_table\(\s*['\"](\w+)", downgrade)) == tables
    assert "op.create_table" not in upgrade
    gone = before - set(inspect(engine).get_table_names())
    assert gone in (tables, tables | {f"{table}_outbox" for table in tables})
    assert said["fresh"] == said["raw"] == said["rolled_up"]
    assert all(said["fresh"])
    assert said["wrong"] == 0

    # The command line does what it can, and names what is missing.
    missing = {getattr(citus_analytics, name).name for name in removed.split()}
    every = {rollup.name: rollup for rollup in rollups_of(citus_analytics.Base.metadata)}
    left = {table.name for name in every if name not in missing for table in every[name].tables}

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["rollups", *arguments, "--database-url", url])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    for action in ("status", "verify", "repair"):
        code, out, err = run(action, "--json")
        assert {each["table"] for each in json.loads(out)["tables"]} == left
        assert code == 1
        assert set(re.findall(r"github_\w+", err.partition(" declares ")[2])) == missing
        assert "--metadata myapp.models:Base" in err
        code, _, err = run(action, *missing)
        assert code == 1
        assert "call its remove()" in err
    code, out, err = run("audit", "--json")
    assert {each["table"] for each in json.loads(out)["windows"]} <= left
    assert code == 1
    assert all(name in err for name in missing)
    assert run("run")[0] == 0
    # What differs comes first, and hides nothing.
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE github_user_activity SET events = events + 1")
    code, _, err = run("verify")
    assert code == 1
    assert err.index("groups differ") < min(err.index(name) for name in missing)

    # An application says what it has.
    removals = "\n".join(f"citus_analytics.{name}.remove()" for name in removed.split())
    (tmp_path / "shop.py").write_text(
        f"import citus_analytics\nfrom citus_analytics import Base as GitHubBase\n{removals}\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "citus_analytics", "rollups", "repair", "--json"),
            *("--metadata", "shop:GitHubBase", "--database-url", url),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    repaired = json.loads(done.stdout)["tables"]
    assert {each["table"] for each in repaired} == left
    assert {each["table"] for each in repaired if each["groups"]} == {"github_user_activity"}


def declared() -> tuple[MetaData, dict[str, Rollup]]:
    metadata = MetaData()
    clicks = Table(
        "clicks",
        metadata,
        Column("user_id", BigInteger),
        Column("page", Text),
        Column("seconds", BigInteger),
        Column("at", DateTime(timezone=True)),
        Distributed("user_id"),
    )
    theirs = Table(
        "theirs",
        metadata,
        Column("user_id", BigInteger),
        Column("bucket", DateTime(timezone=True)),
        Column("clicks", BigInteger),
        Distributed("user_id", colocate_with=clicks),
        Index("theirs_key", "user_id", "bucket", unique=True, postgresql_nulls_not_distinct=True),
    )
    state = Table("ran", metadata, Column("at", DateTime(timezone=True), primary_key=True), Local())
    pages = {"page": clicks.c.page, "upper": (clicks.c.seconds % 3).label("page")}
    return metadata, {
        "pages": Rollup(
            "pages",
            clicks,
            time="at",
            every=["1 hour", "1 day"],
            by=[pages["page"]],
            measures={"clicks": count(), "users": distinct("user_id")},
        ),
        "thirds": Rollup("thirds", clicks, by=[pages["upper"]], measures={"n": total("seconds")}),
        "users": Rollup(
            "users",
            clicks,
            time="at",
            every="1 hour",
            by=["user_id"],
            measures={"clicks": count()},
            target=theirs,
            state=state,
            function="run_users",
        ),
    }


def test_what_is_left_is_what_the_others_declare() -> None:
    metadata, rollups = declared()
    rollups["pages"].remove()
    assert [rollup.name for rollup in rollups_of(metadata)] == ["thirds", "users"]
    assert set(metadata.tables) == {"clicks", "theirs", "ran", "thirds"}
    (spec,) = specs_of(metadata)
    # The name of a column of the log is free again.
    assert spec.columns == {"page": "r.seconds % 3", "seconds": "r.seconds"}
    rollups["users"].remove()
    assert set(metadata.tables) == {"clicks", "theirs", "ran", "thirds"}
    (spec,) = specs_of(metadata)
    assert (spec.functions, dict(spec.states)) == ((), {})
    with pytest.raises(DeclarationError, match="there is no rollup 'users' in the metadata"):
        rollups["users"].remove()
    rollups["thirds"].remove()
    assert (specs_of(metadata), rollups_of(metadata)) == ((), ())
    # Its names are free again.
    Rollup("pages", metadata.tables["clicks"], by=["page"], measures={"clicks": count()})
    assert "pages" in metadata.tables


def test_one_and_then_all_are_removed(application: Application) -> None:
    metadata, rollups = declared()
    migrated(application, metadata)
    engine = create_engine(application.url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO clicks SELECT n %% 5, 'p' || n %% 3, n, '2026-01-01Z' FROM "
            "generate_series(1, 50) AS n"
        )
        connection.exec_driver_sql("SELECT run_users()")
    rollups["pages"].remove()
    migrated(application, metadata)
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM clicks WHERE user_id = 1")
        connection.exec_driver_sql("SELECT run_users()")
        found = connection.exec_driver_sql("SELECT sum(n) FROM thirds").scalar()
        assert found == connection.exec_driver_sql("SELECT sum(seconds) FROM clicks").scalar()
    for name in ("thirds", "users"):
        rollups[name].remove()
    migrated(application, metadata)
    assert set(inspect(engine).get_table_names()) == {"alembic_version", "clicks", "theirs", "ran"}
