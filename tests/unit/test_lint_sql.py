"""The linter on SQL text: what it executes, and what only looks as if."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from citus_analytics.lint import lint_migrations
from tests.lint_pages import write_migrations
from tests.lint_sources import CLICKS, DISTRIBUTED, LATE, codes, migration

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("INSERT INTO clicks VALUES (1, 2) ON CONFLICT (k) DO UPDATE SET v = now()", ["CA106"]),
        ("insert into clicks select 1, 2 on conflict do update set v = CURRENT_DATE", ["CA106"]),
        (
            "INSERT INTO clicks AS c VALUES (1) ON CONFLICT DO UPDATE SET v = 1 WHERE c.v < now()",
            ["CA106"],
        ),
        ("INSERT INTO clicks VALUES (now()) ON CONFLICT (k) DO UPDATE SET v = excluded.v", []),
        ("INSERT INTO clicks VALUES (1) ON CONFLICT DO UPDATE SET v = 1 RETURNING now()", []),
        ("INSERT INTO clicks VALUES (1) ON CONFLICT DO UPDATE SET v = 'now()'", []),
        ("INSERT INTO other VALUES (1) ON CONFLICT (k) DO UPDATE SET v = now()", []),
        ("INSERT INTO clicks VALUES (1); UPDATE other SET v = now()", []),
        ("UPDATE clicks SET v = random()", ["CA107"]),
        ("UPDATE clicks AS c SET v = 1 WHERE c.v < clock_timestamp()", ["CA107"]),
        ("UPDATE clicks SET v = now()", []),
        ("UPDATE clicks SET k = 1", ["CA108"]),
        ("UPDATE clicks SET v = 1 WHERE k = 1", []),
        ("UPDATE clicks SET k = clicks.k, v = 2", []),
        ("UPDATE clicks SET v = 1, k = v", ["CA108"]),
        ("INSERT INTO clicks VALUES (1) ON CONFLICT (k, v) DO UPDATE SET k = 3", ["CA108"]),
        ("INSERT INTO clicks VALUES (1) ON CONFLICT (k, v) DO UPDATE SET k = excluded.k", []),
        ("ALTER TABLE clicks ADD EXCLUDE USING gist (k WITH =, abs(v) WITH =)", ["CA111"]),
        ("ALTER TABLE clicks ADD EXCLUDE USING gist (k WITH =, v WITH =) WHERE (v > 0)", []),
        ("ALTER TABLE clicks ADD CONSTRAINT c EXCLUDE USING gist (k WITH =, abs(v) WITH =)", []),
        ("ALTER TABLE clicks ADD COLUMN n bigserial", ["CA109"]),
        ("ALTER TABLE clicks ADD n bigint GENERATED ALWAYS AS IDENTITY", ["CA109", "CA012"]),
        ("ALTER TABLE clicks ADD COLUMN n bigint", []),
        ("CREATE TRIGGER t AFTER INSERT ON clicks EXECUTE FUNCTION f()", ["CA110"]),
        ("CREATE TRIGGER t AFTER INSERT ON other EXECUTE FUNCTION f()", []),
        # Comments and literals.
        ("UPDATE clicks SET note = 'a -- b', k = 5", ["CA108"]),
        ("UPDATE clicks SET note = E'it\\'s -- b', k = 5", ["CA108"]),
        ("UPDATE clicks SET v = 1 /* , k = 2 /* nested */ , k = 3 */", []),
        ("COMMENT ON TABLE clicks IS 'UPDATE clicks SET k = 1; x'", []),
        # Rows stay where they are.
        ("UPDATE clicks SET k = 1 WHERE v = 2 AND k = 1", []),
        ("UPDATE clicks SET k = 1 WHERE v = 2 AND k = 2", ["CA108"]),
        ("UPDATE clicks AS c SET k = c.k", []),
        ("UPDATE clicks SET k = o.k FROM o WHERE o.v = clicks.v", ["CA108"]),
        ("UPDATE clicks SET (v, k) = (2, 3)", ["CA108"]),
        ("UPDATE clicks SET k = o.k FROM o WHERE o.k = clicks.k", []),
        ("UPDATE clicks SET k = k + 1", ["CA108"]),
        # What is not IMMUTABLE.
        ("DELETE FROM clicks WHERE random() < 0.5", ["CA107"]),
        ("UPDATE clicks SET at = at + interval '1 day'", ["CA112"]),
        ("UPDATE clicks AS c SET v = 1 WHERE c.at::date = '2026-01-01'", ["CA112"]),
        ("DELETE FROM clicks WHERE date_trunc('day', at) < now()", ["CA112"]),
        ("DELETE FROM clicks WHERE at < now() - interval '1 day'", []),
        ("UPDATE clicks SET v = v + 1 WHERE at - now() > '1 day'", []),
        (
            "UPDATE clicks SET at = (at AT TIME ZONE 'UTC' + interval '1 day') AT TIME ZONE 'UTC'",
            [],
        ),
        ("UPDATE clicks SET at = coalesce(at, now())", ["CA113"]),
        ("UPDATE clicks SET at = CASE WHEN v = 1 THEN now() ELSE at END", ["CA113"]),
        ("UPDATE clicks SET at = greatest(at, now())", []),
        (
            "MERGE INTO clicks USING o ON o.k = clicks.k WHEN MATCHED THEN UPDATE SET at = now()",
            ["CA106"],
        ),
        ("ALTER TABLE clicks ADD COLUMN n bigint DEFAULT nextval('s')", []),
        (
            "INSERT INTO clicks VALUES (1); ALTER TABLE clicks ADD n bigint DEFAULT nextval('s')",
            ["CA114"],
        ),
        # Bodies of functions are not executed, DO blocks are.
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'UPDATE clicks SET k = 1'", []),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "UPDATE clicks SET v = random(); RETURN new; END $$",
            [],
        ),
        (
            "CREATE FUNCTION f() RETURNS void LANGUAGE sql BEGIN ATOMIC "
            "UPDATE clicks SET k = 1; END",
            [],
        ),
        ("DO $$ BEGIN IF true THEN UPDATE clicks SET k = 1; END IF; END $$", ["CA108"]),
        ("DO $$ BEGIN EXECUTE 'UPDATE clicks SET k = 1'; END $$", ["CA108"]),
        ("DO $$ BEGIN RAISE NOTICE 'UPDATE clicks SET k = 1'; END $$", []),
        # Several statements, and a wrong one among them.
        ("SELECT 1; UPDATE clicks SET v = random()", ["CA107"]),
        ("SELECT FROM WHERE; UPDATE clicks SET v = random()", ["CA107"]),
        ("WITH c AS (UPDATE clicks SET k = 1 RETURNING v) SELECT * FROM c", ["CA108"]),
        (
            "MERGE INTO clicks USING o ON o.k = clicks.k WHEN MATCHED THEN UPDATE SET k = 1",
            ["CA108"],
        ),
        # DDL is what the operations of the same kind are.
        ("ALTER TABLE clicks ADD CONSTRAINT u UNIQUE (v)", ["CA001"]),
        ("ALTER TABLE clicks ADD COLUMN w int UNIQUE", ["CA001"]),
        ("ALTER TABLE clicks ADD UNIQUE (v, k)", []),
        ("CREATE UNIQUE INDEX i ON clicks (v)", ["CA001"]),
        ("CREATE UNIQUE INDEX i ON clicks (v) INCLUDE (k)", ["CA003"]),
        ("CREATE UNIQUE INDEX i ON clicks (v); DROP INDEX i; SELECT 1", ["CA001"]),
        ("ALTER TABLE clicks DROP COLUMN k", ["CA108"]),
        ("ALTER TABLE clicks ALTER k TYPE text USING k::text", ["CA108"]),
        ("ALTER TABLE public.clicks ALTER v TYPE bigint", []),
        ("ALTER TABLE clicks RENAME COLUMN k TO tenant; UPDATE clicks SET tenant = 1", ["CA108"]),
        ("ALTER TABLE clicks RENAME TO taps; UPDATE taps SET k = 1", ["CA108"]),
    ],
)
def test_sql_text(tmp_path: Path, sql: str, found: list[str]) -> None:
    at = 'op.add_column("clicks", sa.Column("at", sa.DateTime(timezone=True)))'
    assert codes(tmp_path / "on", DISTRIBUTED, at, f"op.execute({sql!r})") == found
    assert codes(tmp_path / "off", CLICKS, at, f"op.execute({sql!r})") == []


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("CREATE TABLE clicks (k bigint, v int UNIQUE)", ["CA001"]),
        ("CREATE TABLE clicks (k bigint, v int, UNIQUE (k, v))", []),
        ("CREATE TABLE clicks (k bigint, v int, PRIMARY KEY (v) INCLUDE (k))", ["CA003"]),
        ("CREATE TABLE clicks (k json)", ["CA015"]),
        ("CREATE TABLE clicks (k bigint, EXCLUDE USING gist (v WITH =))", ["CA002"]),
        ("CREATE TABLE clicks (k bigint, n serial)", ["CA013"]),
        ("CREATE TABLE clicks (k bigint, n bigint GENERATED ALWAYS AS IDENTITY)", ["CA012"]),
        ("CREATE TABLE clicks (v bigint, k bigint GENERATED ALWAYS AS (v) STORED)", ["CA016"]),
        ("CREATE TABLE o (k bigint); CREATE TABLE clicks (k bigint REFERENCES o)", ["CA004"]),
        ("CREATE TABLE clicks AS SELECT 1 AS k", ["CA102"]),
        ("CREATE TABLE clicks (k bigint); COPY clicks FROM '/tmp/x'", ["CA102"]),
        ("CREATE TABLE clicks (k bigint); CREATE TABLE IF NOT EXISTS clicks (k json)", []),
    ],
)
def test_tables_of_sql(tmp_path: Path, sql: str, found: list[str]) -> None:
    assert codes(tmp_path / "op", f"op.execute({sql!r})", LATE) == found
    raw = "op.execute(\"SELECT create_distributed_table('clicks', 'k')\")"
    assert sorted(codes(tmp_path / "sql", f"op.execute({sql!r})", raw)) == sorted([*found, "CA103"])


@pytest.mark.parametrize(
    "expression",
    [
        '"UPDATE clicks SET k = 1"',
        "'UPDATE ' + TABLE + ' SET k = 1'",
        "f'UPDATE {TABLE} SET k = 1'",
        "f'UPDATE {TABLE} SET v = {unknown()}, k = 1 WHERE v > {unknown()}'",
        "'UPDATE %s SET k = 1' % TABLE",
        "'UPDATE {} SET k = 1'.format(TABLE)",
        'sa.text("UPDATE clicks SET k = :k")',
        'sqltext="UPDATE clicks SET k = 1"',
        'sa.text("UPDATE clicks SET k = :k").bindparams(k=1)',
        'sa.table("clicks", sa.column("k")).update().values(k=1)',
    ],
)
@pytest.mark.parametrize("call", ["op.execute", "op.get_bind().execute"])
def test_where_sql_comes_from(tmp_path: Path, call: str, expression: str) -> None:
    source = migration(f"{DISTRIBUTED}\n{call}({expression})", top='TABLE = "clicks"')
    assert [one.code for one in lint_migrations(write_migrations(tmp_path, source))] == ["CA108"]


def test_parameters_of_the_driver(tmp_path: Path) -> None:
    call = 'op.get_bind().exec_driver_sql("UPDATE clicks SET k = %s WHERE v %% 2 = 0", (1,))'
    assert codes(tmp_path, f"{DISTRIBUTED}\n{call}") == ["CA108"]


def test_names_that_only_a_run_could_tell(tmp_path: Path) -> None:
    statements = (
        'op.execute(f"UPDATE {unknown()} SET k = 1")',
        "op.execute(f\"SELECT create_distributed_table('{unknown()}', 'k')\")",
        "op.execute(unknown())",
    )
    assert codes(tmp_path, "\n".join([DISTRIBUTED, *statements])) == []


def test_sql_without_a_parser(tmp_path: Path) -> None:
    """The extra `lint` is asked for by those who have SQL, and by nobody else."""
    with_sql = write_migrations(tmp_path / "sql", migration("op.execute('SELECT 1')"))
    without = write_migrations(tmp_path / "none", migration(DISTRIBUTED))
    program = (
        "import sys; sys.modules['pglast'] = None\n"
        "from citus_analytics.__main__ import main; sys.exit(main(['lint', sys.argv[1]]))"
    )
    ended = [
        subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True)
        for folder in (with_sql, without)
    ]
    assert [one.returncode for one in ended] == [2, 0]
    assert "0001.py:7 has SQL" in ended[0].stderr
    assert "install citus_analytics[lint]" in ended[0].stderr
