"""The linter on migrations: what it reads out of their source, in which order, and what not."""

from __future__ import annotations

import cProfile
from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from benchmarks import linting
from citus_analytics.errors import ArgumentError
from citus_analytics.lint import lint_migrations
from tests.lint_pages import write_migrations
from tests.lint_sources import CLICKS, DISTRIBUTED, LATE, codes, lint, migration

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    "statement",
    [
        'op.create_unique_constraint("u", "clicks", ["v"])',
        'op.create_primary_key("p", "clicks", ["v"])',
        'op.create_index("i", "clicks", ["v"], unique=True)',
        'op.create_index("i", "clicks", [sa.text("lower(k)"), "v"], unique=True)',
        'op.add_column("clicks", sa.Column("w", sa.Integer(), unique=True))',
        'with op.batch_alter_table("clicks") as b:\n    b.create_unique_constraint("u", ["v"])',
        'with op.batch_alter_table("clicks") as b:\n    b.create_index("i", ["v"], unique=True)',
    ],
)
def test_keys_of_all_kinds(tmp_path: Path, statement: str) -> None:
    """Whether a key comes after the distribution or before, in the same migration or not."""
    assert codes(tmp_path / "same", f"{DISTRIBUTED}\n{statement}") == ["CA001"]
    assert codes(tmp_path / "next", DISTRIBUTED, statement) == ["CA001"]
    assert codes(tmp_path / "late", f"{CLICKS}\n{statement}", LATE) == ["CA001"]
    assert codes(tmp_path / "local", f"{CLICKS}\n{statement}") == []


def test_a_finding_points_to_the_line(tmp_path: Path) -> None:
    source = """\
    op.create_table(
        "clicks",
        sa.Column("k", sa.BigInteger()),
        sa.UniqueConstraint("k"),
        sa.Column("v", sa.BigInteger(), unique=True),
    )
    op.create_distributed_table("clicks", "k")
    """
    (finding,) = lint(tmp_path, source)
    assert finding.path == str(tmp_path / "versions" / "0001.py")
    assert (tmp_path / "versions" / "0001.py").read_text().splitlines()[
        (finding.line or 0) - 1
    ] == ('        sa.Column("v", sa.BigInteger(), unique=True),')
    assert (finding.code, finding.subject, finding.severity) == ("CA001", "clicks", "error")


@pytest.mark.parametrize(
    "back",
    [
        'op.drop_constraint("u", "clicks")',
        'op.drop_constraint("u", "clicks", type_="unique")',
        'op.drop_constraint(op.f("u"), "clicks", type_="unique")',
        'with op.batch_alter_table("clicks") as b:\n    b.drop_constraint(b.f("u"))',
        'op.drop_column("clicks", "v")',
        'op.drop_table("clicks")',
    ],
)
def test_what_is_gone_is_not_judged(tmp_path: Path, back: str) -> None:
    unique = 'op.create_unique_constraint("u", "clicks", ["v"])'
    assert codes(tmp_path / "a", f"{CLICKS}\n{unique}", f"{back}\n{LATE}") == []
    unique = unique.replace('"u"', 'op.f("u")')
    assert codes(tmp_path / "b", f"{CLICKS}\n{unique}", f"{back}\n{LATE}") == []


@pytest.mark.parametrize(
    "back",
    ['op.drop_index("i")', 'op.drop_index(op.f("i"), "clicks")', 'op.execute("DROP INDEX i")'],
)
def test_an_index_that_is_gone_is_not_judged(tmp_path: Path, back: str) -> None:
    unique = 'op.create_index(op.f("i"), "clicks", ["v"], unique=True)'
    rename = 'op.rename_table("clicks", "taps")\nop.rename_table("taps", "clicks")'
    assert codes(tmp_path, f"{CLICKS}\n{unique}\n{rename}", f"{back}\n{LATE}") == []


def test_constraints_have_the_names_that_postgresql_gives_them(tmp_path: Path) -> None:
    table = CLICKS.replace("sa.Integer()", "sa.Integer(), unique=True")
    assert codes(tmp_path / "a", table, LATE) == ["CA001"]
    drop = 'op.drop_constraint("clicks_v_key", "clicks")'
    assert codes(tmp_path / "b", table, f"{drop}\n{LATE}") == []


def test_renamed_tables_and_columns(tmp_path: Path) -> None:
    renamed = (
        'op.rename_table("clicks", "taps")\n'
        'op.alter_column("taps", "k", new_column_name="tenant")\n'
    )
    good = renamed + 'op.create_unique_constraint("u", "taps", ["tenant", "v"])'
    assert codes(tmp_path / "good", DISTRIBUTED, good) == []
    bad = renamed + 'op.create_unique_constraint("u", "taps", ["v"])'
    assert codes(tmp_path / "bad", DISTRIBUTED, bad) == ["CA001"]


def test_the_order_of_distributions_matters(tmp_path: Path) -> None:
    tables = (
        'op.create_table("a", sa.Column("k", sa.BigInteger(), primary_key=True))\n'
        'op.create_table("b", sa.Column("k", sa.BigInteger(), sa.ForeignKey("a.k")))\n'
    )
    one, other = (
        'op.create_distributed_table("a", "k")\n',
        'op.create_distributed_table("b", "k")\n',
    )
    assert codes(tmp_path / "good", tables + one + other) == []
    assert codes(tmp_path / "bad", tables + other + one) == ["CA004"]
    # What only does harm is judged when the migration is over.
    assert codes(tmp_path / "half", tables + one) == ["CA008"]


def test_foreign_keys_that_are_added(tmp_path: Path) -> None:
    tables = f'{DISTRIBUTED}\nop.create_table("users", sa.Column("id", sa.BigInteger()))\n'
    key = 'op.create_foreign_key("f", "clicks", "users", ["k"], ["id"], ondelete="SET NULL")'
    assert codes(tmp_path / "a", tables + key) == ["CA004", "CA010"]
    reference = 'op.create_reference_table("users")\n'
    assert codes(tmp_path / "b", tables + reference + key) == ["CA010"]


@pytest.mark.parametrize(
    ("top", "upgrade"),
    [
        ('NAME = "clicks"', f'{CLICKS}\nop.create_distributed_table(NAME, "k")'),
        ("", f'{CLICKS}\nname = "clicks"\nop.create_distributed_table(name, column="k")'),
        ("", f'{CLICKS}\nfor name in ("clicks",):\n    op.create_distributed_table(name, "k")'),
        (
            "def spread(name, by):\n    op.create_distributed_table(name, by)\n",
            f'{CLICKS}\nspread("clicks", by="k")',
        ),
        ("", f'{CLICKS}\nif sa:\n    pass\nelse:\n    op.create_distributed_table("clicks", "k")'),
        ("", f"{CLICKS}\nop.execute(\"SELECT create_distributed_table('clicks', 'k')\")"),
        (
            "",
            f"{CLICKS}\nop.get_bind().execute(sa.text("
            "\"SELECT create_distributed_table('clicks', 'k', colocate_with => 'none')\"))",
        ),
        (
            'NAME = "clicks"',
            f"{CLICKS}\nop.execute(f\"SELECT create_distributed_table('{{NAME}}', 'k')\")",
        ),
        (
            "from citus_analytics.migrations import op as o",
            f'{CLICKS}\no.create_distributed_table("clicks", "k")',
        ),
    ],
)
def test_what_is_followed(tmp_path: Path, top: str, upgrade: str) -> None:
    unique = 'op.create_unique_constraint("u", "clicks", ["v"])'
    source = migration(f"{upgrade}\n{unique}", top=top)
    found = {finding.code for finding in lint_migrations(write_migrations(tmp_path, source))}
    assert found - {"CA103"} == {"CA001"}


def test_what_only_a_run_could_tell_is_left_alone(tmp_path: Path) -> None:
    source = f"""\
    import os
    {CLICKS}
    op.create_distributed_table(os.environ["TABLE"], "k")
    op.create_distributed_table("clicks", os.environ["COLUMN"])
    op.create_unique_constraint("u", "clicks", ["v"])
    op.create_table(*[], **dict())
    op.add_column("clicks", sa.Column("x", Unknown()))
    op.frobnicate(1)
    """
    assert codes(tmp_path, source) == []


def test_nothing_is_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    source = migration(
        f'{CLICKS}\nopen({str(trap)!r}, "w")\nsa.create_engine("sqlite://").connect()',
        top=f'open({str(trap)!r}, "w")\nraise SystemExit',
    )
    assert lint_migrations(write_migrations(tmp_path, source)) == []
    assert not trap.exists()


def test_migrations_are_read_in_their_order(tmp_path: Path) -> None:
    first = migration(CLICKS.replace("sa.Integer()", "sa.Integer(), unique=True"))
    second = migration('op.drop_constraint("clicks_v_key", "clicks")', number=2)
    third = migration(LATE, number=3)
    for number, order in enumerate(permutations((first, second, third))):
        assert lint_migrations(write_migrations(tmp_path / str(number), *order)) == []
    # Without the one between, it is not known any longer which of the two comes first.
    assert lint_migrations(write_migrations(tmp_path / "two", first, third)) != []


def test_folders_without_migrations(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="there is no folder"):
        lint_migrations(tmp_path / "nowhere")
    (tmp_path / "models.py").write_text("x = 1")
    with pytest.raises(ArgumentError, match=r"has no migrations: no file .* sets `revision`"):
        lint_migrations(tmp_path)
    (tmp_path / "0001.py").write_text("revision = '1'\ndef upgrade(:\n")
    with pytest.raises(ArgumentError, match=r"0001\.py cannot be read as Python"):
        lint_migrations(tmp_path)


@pytest.mark.parametrize("upgrade", [linting.own_table, linting.shared_table])
def test_work_grows_with_the_number_of_migrations_alone(
    upgrade: Callable[[int], str], tmp_path: Path
) -> None:
    """Counted are calls of functions, which are the same on every machine."""

    def calls(count: int) -> int:
        folder = tmp_path / str(count)
        linting.write(folder, count, upgrade)
        profile = cProfile.Profile(builtins=False)
        profile.runcall(lint_migrations, folder)
        return sum(entry.callcount for entry in profile.getstats())

    calls(5)  # SQLAlchemy prepares much at its first use.
    # A table with more columns takes a bit longer to judge. Square growth would be 16.
    assert calls(160) < 5 * calls(40)


def test_arguments_that_are_gathered_elsewhere(tmp_path: Path) -> None:
    source = """\
    op.create_table(**arguments())
    t = op.create_table(*arguments())
    op.create_table(**{"table_name": "clicks"})
    columns = [sa.Column("k", sa.BigInteger()), sa.Column("v", sa.Integer(), unique=True)]
    op.create_table("clicks", *columns)
    op.create_table("taps", *columns)
    op.create_distributed_table(**{"table_name": "taps", "column": "k"})
    """
    assert codes(tmp_path, source) == ["CA001"]


@pytest.mark.parametrize("part", ["'k'", "sa.text('k DESC')", "sa.literal_column('k')"])
def test_indexes_as_alembic_renders_them(tmp_path: Path, part: str) -> None:
    index = f'op.create_index("i", "clicks", ["v", {part}], unique=True)'
    assert codes(tmp_path, f"{DISTRIBUTED}\n{index}") == []


def test_tables_with_a_dot_in_their_name(tmp_path: Path) -> None:
    table = CLICKS.replace("clicks", "a.b")
    distribute = 'op.create_distributed_table("a.b", "k")'
    other = CLICKS + '\nop.create_distributed_table("clicks", "k", colocate_with="a.b")'
    assert codes(tmp_path, f"{table}\n{distribute}", other) == []


@pytest.mark.parametrize("column", ['"k"', 'sa.column("k")', 'sa.column("k").collate("C")'])
def test_exclusion_constraints_as_alembic_renders_them(tmp_path: Path, column: str) -> None:
    top = "from sqlalchemy.dialects import postgresql"
    table = CLICKS.removesuffix(")") + f", postgresql.ExcludeConstraint(({column}, '='), name='x'))"
    source = migration(f"{table}\n{LATE}", top=top)
    assert lint_migrations(write_migrations(tmp_path, source)) == []


def test_tables_of_other_folders_are_not_known(tmp_path: Path) -> None:
    """What only changes a table tells nothing of where its rows are."""
    fill = 'op.add_column("users", sa.Column("v", sa.Text()))\nop.execute("COPY users FROM \'/x\'")'
    key = 'op.create_foreign_key("f", "clicks", "users", ["k"], ["id"])'
    assert codes(tmp_path, f"{DISTRIBUTED}\n{fill}\n{key}") == []


def test_a_partner_may_go(tmp_path: Path) -> None:
    """A table stays where it is, whatever becomes of the one that it was colocated with."""
    partner = DISTRIBUTED.replace("clicks", "partner")
    follower = f'{CLICKS}\nop.create_distributed_table("clicks", "k", colocate_with="partner")'
    touch = 'op.drop_table("partner")\nop.add_column("clicks", sa.Column("w", sa.Text()))'
    assert codes(tmp_path, partner, follower, touch) == []


def test_a_way_back_by_way_of_a_local_table(tmp_path: Path) -> None:
    back = 'op.undistribute_table("clicks")\nop.drop_column("clicks", "k")'
    folder = write_migrations(tmp_path, migration(DISTRIBUTED, downgrade=back))
    assert lint_migrations(folder) == []


@pytest.mark.parametrize(
    "step",
    [
        'op.create_index("i{n}", "clicks", ["c{n}"])\n'
        'op.create_unique_constraint("u{n}", "clicks", ["k", "c{n}"])',
        'op.create_foreign_key("f{n}", "clicks", "users", ["c{n}"], ["id"])',
        'op.create_unique_constraint("u{n}", "clicks", ["k", "c{n}"])\n'
        'op.alter_column("clicks", "c{n}", new_column_name="d{n}")',
        'op.create_foreign_key("f{n}", "clicks", "users", ["c{n}"], ["id"])\n'
        'op.drop_constraint("f{n}", "clicks")',
        'op.create_table("t{n}", sa.Column("id", sa.BigInteger(), sa.ForeignKey("users.id")))\n'
        'op.alter_column("users", "id", nullable=False)',
    ],
)
def test_the_work_grows_with_the_number_of_migrations(tmp_path: Path, step: str) -> None:
    """Also where all of them change one table: each looks at what it changes."""
    users = 'op.create_table("users", sa.Column("id", sa.BigInteger(), primary_key=True))'
    first = f'{DISTRIBUTED}\n{users}\nop.create_reference_table("users")'
    column = 'op.add_column("clicks", sa.Column("c{n}", sa.BigInteger()))\n'

    def calls(count: int) -> int:
        steps = [(column + step).format(n=number) for number in range(count)]
        profile = cProfile.Profile()
        found = profile.runcall(codes, tmp_path / str(count), first, *steps)
        assert found == []
        return sum(entry.callcount for entry in profile.getstats())

    calls(2)
    assert calls(320) < 8 * 1.4 * calls(40)
