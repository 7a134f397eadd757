"""The rules about migrations alone: what breaks them, and what does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from citus_analytics.lint import lint_migrations
from tests.lint_pages import write_migrations
from tests.lint_sources import CLICKS, DISTRIBUTED, LATE, codes, migration

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ('op.create_index("i", "clicks", ["v"], postgresql_concurrently=True)', ["CA101"]),
        ('op.drop_index("i", "clicks", postgresql_concurrently=True)', ["CA101"]),
        ('op.execute("create index concurrently i on clicks (v)")', ["CA101"]),
        ('op.execute("DROP INDEX CONCURRENTLY i")', ["CA101"]),
        ('op.execute("REINDEX TABLE CONCURRENTLY clicks")', ["CA101"]),
        ('op.create_distributed_table_concurrently("clicks", "k")', ["CA101"]),
        ('op.execute("CREATE INDEX i ON clicks (v) -- not CONCURRENTLY")', []),
        ("op.execute(\"COMMENT ON TABLE clicks IS 'CREATE INDEX CONCURRENTLY'\")", []),
    ],
)
def test_what_works_concurrently(tmp_path: Path, statement: str, found: list[str]) -> None:
    assert codes(tmp_path / "in", f"{CLICKS}\n{statement}") == found
    block = f"with op.get_context().autocommit_block():\n    {statement}"
    assert codes(tmp_path / "out", f"{CLICKS}\n{block}") == []


@pytest.mark.parametrize(
    "fill",
    [
        'op.execute("INSERT INTO clicks VALUES (1, 2)")',
        "op.execute(\"COPY clicks FROM '/tmp/clicks'\")",
        't = sa.table("clicks")\nop.bulk_insert(t, [{}])',
        'op.execute(sa.table("clicks", sa.column("k")).insert().values(k=1))',
    ],
)
def test_rows_that_are_there_before(tmp_path: Path, fill: str) -> None:
    assert codes(tmp_path / "same", f"{CLICKS}\n{fill}\n{LATE}") == ["CA102"]
    assert codes(tmp_path / "earlier", f"{CLICKS}\n{fill}", LATE) == ["CA102"]
    assert codes(tmp_path / "after", f"{CLICKS}\n{LATE}\n{fill}") == []
    call = 'op.create_distributed_table_concurrently("clicks", "k")'
    block = f"with op.get_context().autocommit_block():\n    {call}"
    assert codes(tmp_path / "concurrently", f"{CLICKS}\n{fill}\n{block}") == []


def test_rows_of_a_table_that_create_table_returned(tmp_path: Path) -> None:
    source = f'clicks = {CLICKS}\nop.bulk_insert(clicks, [{{"k": 1}}])\n'
    assert codes(tmp_path, source + 'op.create_distributed_table("clicks", "k")') == ["CA102"]


@pytest.mark.parametrize(
    ("downgrade", "found"),
    [
        ("pass", ["CA104"]),
        ('"""Nothing."""', ["CA104"]),
        ("...", ["CA104"]),
        ("return", ["CA104"]),
        ("raise NotImplementedError", []),
        ('op.drop_table("clicks")', []),
    ],
)
def test_ways_back(tmp_path: Path, downgrade: str, found: list[str]) -> None:
    source = migration(CLICKS, downgrade=downgrade)
    assert [one.code for one in lint_migrations(write_migrations(tmp_path, source))] == found


def test_a_merge_has_nothing_to_undo(tmp_path: Path) -> None:
    source = migration("pass", downgrade="pass")
    assert lint_migrations(write_migrations(tmp_path, source)) == []


def test_a_downgrade_that_is_not_there(tmp_path: Path) -> None:
    source = migration(CLICKS).partition("def downgrade")[0]
    assert [one.code for one in lint_migrations(write_migrations(tmp_path, source))] == ["CA104"]


def test_the_way_back_is_judged_too(tmp_path: Path) -> None:
    source = migration(
        DISTRIBUTED,
        downgrade='op.undistribute_table("clicks")\nop.execute("SELECT undistribute_table(\'x\')")',
    )
    # It has no way back of its own, so that it need not say what was.
    assert [one.code for one in lint_migrations(write_migrations(tmp_path, source))] == ["CA103"]


def test_reference_tables_have_the_same_limits(tmp_path: Path) -> None:
    sql = "INSERT INTO clicks VALUES (1) ON CONFLICT (k) DO UPDATE SET v = now()"
    reference = f'{CLICKS}\nop.create_reference_table("clicks")\nop.execute({sql!r})'
    assert codes(tmp_path, reference) == ["CA106"]


def test_a_trigger_that_is_there_before(tmp_path: Path) -> None:
    trigger = (
        f'{CLICKS}\nop.execute("CREATE TRIGGER t AFTER INSERT ON clicks EXECUTE FUNCTION f()")'
    )
    assert codes(tmp_path / "a", trigger, LATE) == ["CA110"]
    setting = 'op.execute("SET LOCAL citus.enable_unsafe_triggers TO on")'
    assert codes(tmp_path / "b", trigger, f"{setting}\n{LATE}") == []
    # The setting ends with its migration.
    assert codes(tmp_path / "c", f"{trigger}\n{setting}", LATE) == ["CA110"]


def test_tables_of_a_single_shard(tmp_path: Path) -> None:
    single = DISTRIBUTED.replace('"k")', "None)").replace(
        "sa.Integer()", "sa.Integer(), unique=True"
    )
    folder = write_migrations(tmp_path, migration(single))
    assert lint_migrations(folder) == []
    assert [one.code for one in lint_migrations(folder, citus=(11, 3))] == ["CA019"]
