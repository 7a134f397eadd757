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


@pytest.mark.parametrize(
    ("upgrade", "downgrade", "found"),
    [
        # The distribution moves to another column, whose type changes too.
        (
            'op.alter_column("clicks", "v", type_=sa.BigInteger())\n'
            'op.alter_distributed_table("clicks", column="v")',
            'op.alter_distributed_table("clicks", column="k")\n'
            'op.alter_column("clicks", "v", type_=sa.Integer())',
            [],
        ),
        (
            'op.alter_distributed_table("clicks", column="v")',
            'op.alter_column("clicks", "v", type_=sa.Integer())\n'
            'op.alter_distributed_table("clicks", column="k")',
            ["CA108"],
        ),
        (
            'op.alter_distributed_table("clicks", column="v")',
            'op.alter_distributed_table("clicks", column="k")\nop.drop_column("clicks", "k")',
            ["CA108"],
        ),
        # Every change of the distribution column goes by a local table.
        (
            'op.undistribute_table("clicks", schema="public", was=1)\n'
            'op.alter_column("clicks", "k", type_=sa.Integer())\n'
            'op.create_distributed_table("clicks", "k")',
            'op.undistribute_table("clicks", schema="public")\n'
            'op.alter_column("clicks", "k", type_=sa.BigInteger())\n'
            'op.create_distributed_table("clicks", "k")',
            [],
        ),
        (
            'op.undistribute_table("clicks", was=1)\nop.create_distributed_table("clicks", "v")',
            'op.undistribute_table("clicks")\nop.create_distributed_table("clicks", "k")\n'
            'op.alter_column("clicks", "k", type_=sa.BigInteger())',
            ["CA108"],
        ),
        (
            'op.alter_table_set_access_method("clicks", "columnar")',
            'op.alter_table_set_access_method("clicks", "heap")\nop.execute("DELETE FROM clicks")',
            [],
        ),
    ],
)
def test_the_way_back_changes_tables_too(
    tmp_path: Path, upgrade: str, downgrade: str, found: list[str]
) -> None:
    sources = [migration(DISTRIBUTED), migration(upgrade, downgrade=downgrade, number=2)]
    folder = write_migrations(tmp_path, *sources)
    assert [one.code for one in lint_migrations(folder)] == found
    # And only on the way back.
    third = migration('op.execute("UPDATE clicks SET v = 1, k = 2")', number=3)
    codes_after = [one.code for one in lint_migrations(write_migrations(tmp_path, *sources, third))]
    assert codes_after[len(found) :] != []


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


ROLLUPS = """
from citus_analytics.migrations import RollupSpec, TargetSpec

ROLLUPS = RollupSpec(
    source="clicks", key="k", time="at", columns={"page": 'r."page" || r.host'},
    targets=(
        TargetSpec(
            rollup="h", table="hourly", every="1 hour", bucket="hour", by={"page": "page"},
            keyed=False, rows="n", sums={"total": "l.n"}, extremes={"last": ("max", "page")},
        ),
    ),
)
"""
SOURCE = """
op.create_table(
    "clicks", sa.Column("k", sa.BigInteger()), sa.Column("at", sa.DateTime(timezone=True)),
    sa.Column("page", sa.Text()), sa.Column("host", sa.Text()), sa.Column("other", sa.Text()),
)
op.create_distributed_table("clicks", "k")
"""
TARGET = """
op.create_table(
    "hourly", sa.Column("page", sa.Text()), sa.Column("hour", sa.DateTime(timezone=True)),
    sa.Column("n", sa.BigInteger()), sa.Column("total", sa.BigInteger()),
    sa.Column("last", sa.Text()), sa.Column("free", sa.Text()),
    sa.UniqueConstraint("page", "hour"),
)
op.create_reference_table("hourly")
"""


def rolled_up(folder: Path, upgrade: str, downgrade: str = "op.drop_rollups(ROLLUPS)") -> list[str]:
    source = migration(upgrade, downgrade=downgrade, top=ROLLUPS)
    return [one.code for one in lint_migrations(write_migrations(folder, source))]


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ('op.alter_column("clicks", "page", new_column_name="url")', ["CA118"]),
        ('op.alter_column("clicks", "host", new_column_name="site")', ["CA118"]),
        ('op.alter_column("clicks", "page", type_=sa.String(9))', ["CA118"]),
        ('op.alter_column("clicks", "at", nullable=False)', []),
        ('op.drop_column("clicks", "at")', ["CA118"]),
        ('op.alter_column("clicks", "k", new_column_name="key")', ["CA118"]),
        ('op.drop_column("clicks", "other")', []),
        ('op.add_column("clicks", sa.Column("new", sa.Text()))', []),
        ('op.execute("ALTER TABLE clicks RENAME COLUMN page TO url")', ["CA118"]),
        ('op.rename_table("clicks", "hits")', ["CA118"]),
        ('op.drop_table("clicks")', ["CA118"]),
        ('op.drop_table("hourly")', ["CA118"]),
        ('op.execute("ALTER TABLE hourly RENAME TO daily")', ["CA118"]),
        *(
            (f'op.alter_column("hourly", "{column}", new_column_name="new")', ["CA118"])
            for column in ("page", "hour", "n", "total", "last")
        ),
        ('op.alter_column("hourly", "free", new_column_name="new")', []),
        ('op.undistribute_table("clicks", was=1)', ["CA118"]),
        ('op.alter_distributed_table("clicks", column="other")', ["CA118"]),
        ('op.alter_distributed_table("clicks", shard_count=5)', []),
        ('op.drop_rollups(ROLLUPS)\nop.drop_column("clicks", "page")', []),
        (
            "op.drop_rollups(ROLLUPS)\nop.create_rollups(ROLLUPS)\n"
            'op.drop_column("clicks", "page")',
            ["CA118"],
        ),
    ],
)
def test_what_rollups_use(tmp_path: Path, statement: str, found: list[str]) -> None:
    created = f"{SOURCE}{TARGET}op.create_rollups(ROLLUPS)\n"
    assert rolled_up(tmp_path / "with", created + statement) == found
    without = rolled_up(tmp_path / "without", SOURCE + TARGET + statement)
    assert without == (["CA118"] if "op.create_rollups" in statement else [])


def test_the_way_back_of_rollups(tmp_path: Path) -> None:
    created = f"{SOURCE}{TARGET}op.create_rollups(ROLLUPS)"
    dropped = 'op.drop_table("hourly")\nop.drop_table("clicks")'
    assert rolled_up(tmp_path / "a", created, dropped) == ["CA118", "CA118"]
    assert rolled_up(tmp_path / "b", created, f"op.drop_rollups(ROLLUPS)\n{dropped}") == []
    # What the way back drops is still there for the next migration.
    first = migration(created, downgrade="op.drop_rollups(ROLLUPS)", top=ROLLUPS)
    second = migration('op.drop_column("clicks", "page")', number=2)
    folder = write_migrations(tmp_path / "c", first, second)
    assert [one.code for one in lint_migrations(folder)] == ["CA118"]


@pytest.mark.parametrize(
    ("created", "found"),
    [
        (SOURCE + TARGET, []),
        (SOURCE.replace("timezone=True", "timezone=False") + TARGET, ["CA119"]),
        (SOURCE + TARGET.replace("timezone=True", "timezone=False"), ["CA119"]),
        (SOURCE.replace('"host"', '"site"') + TARGET, ["CA119"]),
        (SOURCE + TARGET.replace('"total"', '"sum"'), ["CA119"]),
        (SOURCE + TARGET.replace('sa.UniqueConstraint("page", "hour"),', ""), ["CA119"]),
        (SOURCE + TARGET.replace('("page", "hour")', '("hour", "page")'), []),
        (SOURCE + TARGET.replace('("page", "hour")', '("page", "hour", "n")'), ["CA119"]),
        # Where they are.
        (SOURCE.replace("op.create_distributed", "#") + TARGET, []),
        (SOURCE + TARGET.replace("op.create_reference", "#"), ["CA119"]),
        (SOURCE.replace('clicks", "k")', 'clicks", "other")') + TARGET, ["CA119"]),
        (
            SOURCE.replace('distributed_table("clicks", "k")', 'reference_table("clicks")')
            + TARGET,
            ["CA119"],
        ),
        # What a run could not write.
        (
            SOURCE
            + TARGET.replace('"hourly", ', '"hourly", postgresql_using="columnar", *[', 1).replace(
                "\n)", "\n])", 1
            ),
            ["CA119"],
        ),
        (
            SOURCE
            + TARGET.replace('"n", sa.BigInteger()', '"n", sa.BigInteger(), sa.Computed("1")'),
            ["CA119"],
        ),
        (
            SOURCE + TARGET + 'op.create_table("p", sa.Column("id", sa.Text(), primary_key=True))\n'
            'op.create_reference_table("p")\n'
            'op.create_foreign_key("f", "hourly", "p", ["page"], ["id"])',
            ["CA119"],
        ),
        # Tables of other migrations.
        (SOURCE, []),
        (TARGET, []),
        (SOURCE + 'op.add_column("hourly", sa.Column("n", sa.BigInteger()))', []),
    ],
)
def test_what_rollups_need(tmp_path: Path, created: str, found: list[str]) -> None:
    assert rolled_up(tmp_path, f"{created}\nop.create_rollups(ROLLUPS)") == found


def test_rollups_that_cannot_be_declared_are_left_to_the_run(tmp_path: Path) -> None:
    for top in (
        ROLLUPS.replace('source="clicks"', f'source="{"c" * 60}"'),
        ROLLUPS.replace("targets=(", "nonesuch=1, targets=("),
        ROLLUPS.replace("ROLLUPS = ", "ROLLUPS = unknown() or "),
    ):
        source = migration(f"{SOURCE}\nop.create_rollups(ROLLUPS)", top=top)
        assert lint_migrations(write_migrations(tmp_path, source)) == []


OWN = """\
from alembic import context
from citus_analytics.migrations import plugins

context.configure(autogenerate_plugins=plugins())
"""


def test_an_environment_of_ones_own(tmp_path: Path) -> None:
    def found(environment: str, upgrade: str = DISTRIBUTED, *, versions: bool = False) -> list[str]:
        folder = write_migrations(tmp_path, migration(upgrade), environment=environment)
        target = folder / "versions" if versions else folder
        return [f"{one.code} {one.line}" for one in lint_migrations(target)]

    assert found(OWN) == ["CA116 4"]
    assert found(OWN, versions=True) == ["CA116 4"]
    assert found(OWN, CLICKS) == []
    assert found(f"{OWN}# citus: ignore[CA116]: one migration a transaction\n") == []
    assert found(f"{OWN}# citus: ignore[CA116]\n", CLICKS) == ["CA000 5"]
    assert found(OWN.replace("context.conf", "sequential_transactions(c)\ncontext.conf")) == []


COLUMNAR = f'{CLICKS[:-1]}, postgresql_using="columnar")'


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ('op.create_index("i", "clicks", ["v"], postgresql_using="gin")', ["CA023"]),
        ('op.create_index("i", "clicks", ["v"])', []),
        ('op.create_exclude_constraint("e", "clicks", ("k", "="))', ["CA023"]),
        ('op.create_exclude_constraint("e", "clicks", ("k", "="), using="btree")', []),
        ('op.create_foreign_key("f", "clicks", "o", ["k"], ["k"])', ["CA022"]),
        ('op.create_foreign_key("f", "o", "clicks", ["k"], ["k"])', ["CA022"]),
        ('op.execute("UPDATE clicks SET v = 1")', ["CA115"]),
        ('op.execute("INSERT INTO clicks VALUES (1) ON CONFLICT (k) DO NOTHING")', ["CA115"]),
        ('op.execute("INSERT INTO clicks VALUES (1)")', []),
    ],
)
@pytest.mark.parametrize("way", ["created", "altered", "sql", "statement"])
def test_columnar_tables(tmp_path: Path, statement: str, found: list[str], way: str) -> None:
    table = {
        "created": COLUMNAR,
        "altered": f'{CLICKS}\nop.alter_table_set_access_method("clicks", "columnar")',
        "sql": "op.execute('CREATE TABLE clicks (k bigint, v int) USING columnar')",
        "statement": f"{CLICKS}\nop.execute('ALTER TABLE clicks SET ACCESS METHOD columnar')",
    }[way]
    other = 'op.create_table("o", sa.Column("k", sa.BigInteger(), primary_key=True))'
    assert codes(tmp_path / "columnar", f"{other}\n{table}\n{statement}") == found
    assert codes(tmp_path / "heap", f"{other}\n{CLICKS}\n{statement}") == []
    if way == "altered" and found != ["CA115"]:
        before = f"{other}\n{CLICKS}\n{statement}\n{table.partition(chr(10))[2]}"
        assert codes(tmp_path / "before", before) == found
        back = f'{table}\nop.alter_table_set_access_method("clicks", "heap")\n{statement}'
        assert codes(tmp_path / "back", f"{other}\n{back}") == []


def test_indexes_that_are_dropped_before(tmp_path: Path) -> None:
    index = 'op.create_index("i", "clicks", ["v"], postgresql_using="gin")'
    columnar = 'op.alter_table_set_access_method("clicks", "columnar")'
    assert codes(tmp_path / "a", f"{CLICKS}\n{index}\n{columnar}") == ["CA023"]
    dropped = 'op.drop_index("i", "clicks")'
    assert codes(tmp_path / "b", f"{CLICKS}\n{index}\n{dropped}\n{columnar}") == []


@pytest.mark.parametrize("inherits", ['"o"', '("o",)', '"public.o"'])
def test_inheritance(tmp_path: Path, inherits: str) -> None:
    other = 'op.create_table("o", sa.Column("k", sa.BigInteger()))'
    child = f'op.create_table("clicks", sa.Column("v", sa.Text()), postgresql_inherits={inherits})'
    assert codes(tmp_path / "a", f"{other}\n{child}") == []
    assert codes(tmp_path / "b", f'{other}\nop.create_reference_table("o")\n{child}') == ["CA025"]
    assert codes(tmp_path / "c", f'{other}\n{child}\nop.create_reference_table("o")') == ["CA025"]
    assert codes(tmp_path / "d", f"{other}\n{child}\n{LATE}") == ["CA025"]


def test_identities_of_operations(tmp_path: Path) -> None:
    added = 'op.alter_column("clicks", "k", server_default=sa.Identity())'
    assert codes(tmp_path / "a", DISTRIBUTED, added) == ["CA012", "CA117"]
    assert codes(tmp_path / "b", CLICKS, added) == []
