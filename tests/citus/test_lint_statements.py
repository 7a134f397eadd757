"""The linter and the server agree on single statements: refused by both, or accepted by both.

The server says which functions, operators and casts are STABLE, and which changes of a table Citus
supports; what the linter knows of it is compared with that here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from tests.lint_sources import codes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import DatabaseServer

SEQUENTIAL = text("SET LOCAL citus.multi_shard_modify_mode TO 'sequential'")
TABLES = """
CREATE EXTENSION IF NOT EXISTS citus_columnar;
CREATE SEQUENCE numbers;
CREATE TABLE d (
    k bigint PRIMARY KEY, v int, big bigint NOT NULL, at timestamptz, plain timestamp, day date,
    clock time, span interval, s text, j jsonb, n numeric, b boolean
);
CREATE TABLE r (id bigint PRIMARY KEY, at timestamptz);
CREATE TABLE tied (id bigint, v int CONSTRAINT positive CHECK (v > 0));
CREATE TABLE lone (k bigint, v int);
CREATE TABLE c (k bigint PRIMARY KEY, v int, a int[]) USING columnar;
CREATE TABLE loose (k bigint, v int) USING columnar;
SELECT create_distributed_table('d', 'k');
SELECT create_reference_table('r');
ALTER TABLE tied ADD CONSTRAINT to_r FOREIGN KEY (id) REFERENCES r (id);
INSERT INTO d (k, big) VALUES (1, 2)
"""

VALUES = """
at + interval '1 day' | at - interval '1 day' | interval '1 day' + at | at + '1 day' | at - now()
now() - at | at - at | at - plain | now() - plain | now() - day | plain + interval '1 day' | day + 1
day + interval '1 day' | day + clock | day - day | at::date | at::timestamp | at::time | at::text
at::varchar | plain::timestamptz | day::timestamptz | plain::date | day::timestamp | plain::text
day::text | clock::text | span::text | n::text | v::text | b::text | j::text | s::timestamptz
s::timestamp | s::date | s::time | s::interval | s::int | s::jsonb | s::money | n::money
s::regclass | (j ->> 'a')::timestamptz | (j ->> 'a')::int | j -> 'a' | j || '{}' | s || 'x'
s || s | s || v | s || at | 'x' || at | 'x' || v | v || 'x' | at AT TIME ZONE 'UTC'
plain AT TIME ZONE 'UTC' | (at AT TIME ZONE 'UTC' + interval '1 day') AT TIME ZONE 'UTC'
date_trunc('day', at) | date_trunc('day', at, 'UTC') | date_trunc('day', plain)
date_trunc('day', day) | date_trunc('day', now()) | extract(year from at) | date_part('year', at)
extract(year from plain) | extract(epoch from day) | extract(epoch from at - now())
extract(epoch from plain - now()) | date_bin('1 hour', at, timestamptz 'epoch')
to_char(at, 'YYYY') | to_char(plain, 'YYYY') | to_char(v, '999') | to_char(now(), 'YYYY')
to_timestamp(s, 'YYYY') | to_timestamp(v) | to_date(s, 'YYYY') | to_number(s, '9')
make_timestamptz(v, 1, 1, 0, 0, 0) | make_date(v, 1, 1) | make_interval(days => v)
at + make_interval(days => v) | age(at) | age(plain) | age(at, at) | age(now(), at)
concat(s, 'x') | concat_ws(',', s, v) | format('%%s', s) | upper(s) | left(at::text, 3) | md5(s)
md5(at::text) | length(s) | to_jsonb(v) | jsonb_build_object('a', v) | to_jsonb(d)
row_to_json(d) | jsonb_set(j, '{a}', to_jsonb(v)) | array_to_string(ARRAY[s], ',')
convert_to(s, 'UTF8') | pg_typeof(s) | quote_literal(s) | quote_literal(v) | quote_ident(s)
to_tsvector(s) | to_tsvector('english', s) | nullif(s, '') | coalesce(s, 'x') | greatest(at, now())
greatest(at, plain) | least(day, plain) | coalesce(s, at::text) | coalesce(at, now())
CASE WHEN v > 1 THEN 'a' END | CASE WHEN at::date = day THEN 'a' END | at < now() | at < plain
at < day | at = day | plain < now() | day < current_date | day < now() | at > '2026-01-01'
at > '2026-01-01'::date | plain > '2026-01-01'::timestamptz | at BETWEEN plain AND plain
at BETWEEN now() - interval '1 day' AND now() | at IN (day) | at IS DISTINCT FROM plain
at = ANY (ARRAY[plain]) | (SELECT max(at)::text FROM r)
EXISTS (SELECT FROM r WHERE r.at::date = day)
now() | current_date | localtimestamp | current_user | now() + interval '1 day' | txid_current()
isfinite(at) | hashtext(s) | date(at) | date(plain) | timezone('UTC', plain)
"""
SETS = """
at = plain | at = day | at = at | plain = at | day = at | day = plain | plain = day | at = now()
s = at | s = v | s = day | s = clock | day = current_date | plain = now() | k = k + 1
k = 5 | k = k
"""
ALTERS = """
INHERIT lone | NO INHERIT lone | SET WITHOUT CLUSTER | SET TABLESPACE pg_default
ALTER v SET STATISTICS 10 | ALTER v SET (n_distinct = 5) | ALTER v RESET (n_distinct)
ALTER v SET STORAGE PLAIN | ALTER v SET DEFAULT 3 | ALTER v DROP DEFAULT | ALTER v DROP NOT NULL
ALTER v SET DEFAULT nextval('numbers'), ADD COLUMN x int | ALTER v SET DEFAULT 3, ADD COLUMN x int
ALTER v TYPE bigint, ALTER v SET DEFAULT 3 | REPLICA IDENTITY FULL | NOT OF | SET (fillfactor = 70)
ENABLE ROW LEVEL SECURITY | ADD CHECK (v > 0) | ADD CONSTRAINT c CHECK (v > 0) NOT VALID
ADD COLUMN x int CHECK (x > 0) | ADD COLUMN x int CONSTRAINT q CHECK (x > 0)
ADD COLUMN x int, ADD COLUMN y int | ADD COLUMN x int NOT NULL DEFAULT 1 | DROP COLUMN v
ADD COLUMN x int, ADD CONSTRAINT q CHECK (v > 0) | ADD COLUMN x int DEFAULT 1, DROP COLUMN v
ADD COLUMN x int CONSTRAINT q CHECK (x > 0), ADD COLUMN y int
ADD COLUMN x bigint REFERENCES r | ADD COLUMN x bigint CONSTRAINT q REFERENCES r (id)
ADD COLUMN x bigint REFERENCES r, ADD COLUMN y int | ADD COLUMN x bigserial
ADD COLUMN x bigint DEFAULT nextval('numbers') | ADD COLUMN x bigint GENERATED ALWAYS AS IDENTITY
ADD COLUMN x int GENERATED ALWAYS AS (v + 1) STORED | SET UNLOGGED
"""
STATEMENTS = """
INSERT INTO tied VALUES (NULL, 1); ALTER TABLE tied ADD COLUMN x bigint DEFAULT nextval('numbers')
ALTER TABLE d ALTER big ADD GENERATED ALWAYS AS IDENTITY
ALTER TABLE d ALTER k TYPE numeric
ALTER TABLE d RENAME CONSTRAINT d_pkey TO x
ALTER TABLE tied RENAME CONSTRAINT positive TO x
ALTER TABLE lone RENAME COLUMN v TO w
ALTER TABLE tied DROP CONSTRAINT positive, ADD CONSTRAINT positive CHECK (v > 1)
ALTER TABLE tied DROP CONSTRAINT positive, ADD COLUMN x int
ALTER TABLE r ADD COLUMN x int UNIQUE
ALTER TABLE r ADD COLUMN x int UNIQUE, ADD COLUMN y int
CREATE TABLE x () INHERITS (d)
CREATE TABLE x () INHERITS (r)
CREATE TABLE x () INHERITS (tied)
CREATE TABLE x () INHERITS (lone)
CREATE TABLE x (LIKE d)
CREATE TABLE x () INHERITS (lone); SELECT create_distributed_table('lone', 'k')
CREATE TABLE x () INHERITS (lone); SELECT create_reference_table('x')
CREATE TABLE x () INHERITS (lone); ALTER TABLE x ADD FOREIGN KEY (k) REFERENCES r (id)
CREATE TABLE x () INHERITS (lone); DROP TABLE x; SELECT create_reference_table('lone')
CREATE TABLE x () INHERITS (lone); ALTER TABLE x NO INHERIT lone; SELECT create_reference_table('lone')
CREATE TABLE x (k bigint, v int); ALTER TABLE x INHERIT lone; SELECT create_reference_table('lone')
CREATE TABLE x (k bigint, v int); ALTER TABLE x INHERIT lone; ALTER TABLE lone RENAME TO y; SELECT create_reference_table('y')
CREATE TABLE x (k bigint, t date) PARTITION BY RANGE (t); SELECT create_reference_table('x')
CREATE TABLE x (k bigint, t date) PARTITION BY RANGE (t); SELECT alter_table_set_access_method('x', 'columnar')
CREATE TABLE x (k bigint, t date) PARTITION BY RANGE (t) USING columnar
CREATE INDEX x ON c USING gin (a)
CREATE INDEX x ON c USING brin (k)
CREATE INDEX x ON c USING hash (k)
CREATE INDEX x ON c (k)
CREATE INDEX x ON d USING gin (j)
CREATE TABLE x (p int4range, EXCLUDE USING gist (p WITH &&)) USING columnar
CREATE TABLE x (p int4range, EXCLUDE USING gist (p WITH &&))
CREATE TABLE x (k bigint REFERENCES r) USING columnar
CREATE TABLE x (k bigint REFERENCES c)
CREATE TABLE x (k bigint UNIQUE) USING columnar
ALTER TABLE c ADD CONSTRAINT x FOREIGN KEY (k) REFERENCES r (id)
CREATE TABLE x (k bigint REFERENCES r); SELECT alter_table_set_access_method('x', 'columnar')
CREATE TABLE x (k bigint PRIMARY KEY); CREATE TABLE y (k bigint REFERENCES x); SELECT alter_table_set_access_method('x', 'columnar')
SELECT alter_table_set_access_method('c', 'heap'); UPDATE c SET v = 1
UPDATE c SET v = 1
DELETE FROM c
INSERT INTO c VALUES (1) ON CONFLICT (k) DO NOTHING
INSERT INTO c VALUES (1) ON CONFLICT (k) DO UPDATE SET v = 2
INSERT INTO loose VALUES (1)
MERGE INTO c USING lone ON c.k = lone.k WHEN MATCHED THEN DELETE
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER t AFTER INSERT ON c FOR EACH ROW EXECUTE FUNCTION f()
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER t BEFORE INSERT ON c FOR EACH ROW EXECUTE FUNCTION f()
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER t AFTER INSERT ON c FOR EACH STATEMENT EXECUTE FUNCTION f()
UPDATE d SET v = 1 FROM r WHERE r.id = d.k AND r.at::date = '2026-01-01'
UPDATE d SET v = 1 FROM r WHERE r.id = d.k AND r.at < now()
UPDATE d SET v = 1 WHERE k IN (SELECT id FROM r WHERE r.at::date = '2026-01-01')
UPDATE r SET at = at + interval '1 day'
UPDATE tied SET v = 1 WHERE now()::date = current_date
DELETE FROM d WHERE at::date < current_date
DELETE FROM d WHERE at < now() - interval '1 day'
DELETE FROM d USING r WHERE r.id = d.k AND d.plain < r.at
INSERT INTO d (k, big) VALUES (1, 2) ON CONFLICT (k) DO UPDATE SET at = d.at + interval '1 day'
INSERT INTO d (k, big) VALUES (1, 2) ON CONFLICT (k) DO UPDATE SET s = concat(d.s, excluded.s)
INSERT INTO d (k, big) VALUES (1, 2) ON CONFLICT (k) DO UPDATE SET v = 2 WHERE d.at::date < excluded.day
INSERT INTO d (k, big) VALUES (1, 2) ON CONFLICT (k) DO UPDATE SET s = d.s || excluded.s
"""  # noqa: E501


def listed(block: str) -> list[str]:
    return [one.strip() for line in block.strip().splitlines() for one in line.split(" | ")]


def statements() -> Iterator[str]:
    for value in listed(VALUES):
        yield f"UPDATE d SET v = 1 WHERE ({value}) IS NOT NULL"
    yield from (f"UPDATE d SET {one}" for one in listed(SETS))
    for table in ("d", "tied", "lone"):
        for one in listed(ALTERS):
            # PostgreSQL refuses some itself.
            if table != "lone" or ("INHERIT" not in one and one != "NOT OF"):
                yield f"ALTER TABLE {table} {one}"
    yield from STATEMENTS.strip().splitlines()


@pytest.fixture(scope="module")
def engine(citus: DatabaseServer) -> Iterator[Engine]:
    with citus.database("empty") as url:
        engine = create_engine(url, poolclass=NullPool)
        with engine.begin() as connection:
            connection.execute(SEQUENTIAL)
            for statement in TABLES.split(";\n"):
                connection.execute(text(statement))
        yield engine


def refusal(engine: Engine, statement: str) -> str | None:
    with engine.connect() as connection:
        connection.execute(SEQUENTIAL)
        try:
            for part in re.split(r"; (?=[A-Z])(?!END)", statement):
                connection.exec_driver_sql(part)
        except DBAPIError as error:
            return str(error.orig)
    return None


@pytest.mark.endurance
def test_the_linter_and_the_server_agree(engine: Engine, tmp_path: Path) -> None:
    differ = []
    for number, statement in enumerate(statements()):
        said = refusal(engine, statement)
        found = codes(
            tmp_path / str(number),
            f"op.execute({TABLES!r})",
            f"op.execute({statement.replace('%%', '%')!r})",
        )
        refused = {one for one in found if one not in ("CA012", "CA013", "CA102", "CA103")}
        if bool(refused) != (said is not None):
            differ.append((statement, sorted(refused), said))
    assert not differ, "\n".join(map(str, differ))
