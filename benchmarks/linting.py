"""How the linter's time grows with the number of migrations."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from textwrap import indent
from time import process_time
from typing import TYPE_CHECKING

from benchmarks.harness import Figure, alternate, median_ratio, say
from citus_analytics.lint import lint_migrations

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

FEW, MANY = 100, 800
TURNS = 5


def own_table(number: int) -> str:
    """A distributed table with an index, and a row in SQL."""
    return f"""
op.create_table(
    "t{number}",
    sa.Column("tenant", sa.BigInteger(), nullable=False),
    sa.Column("id", sa.BigInteger(), nullable=False),
    sa.Column("note", sa.Text()),
    sa.Column("at", sa.DateTime(timezone=True)),
    sa.PrimaryKeyConstraint("tenant", "id"),
)
op.create_distributed_table("t{number}", "tenant")
op.create_index("t{number}_note", "t{number}", ["note"])
op.execute("INSERT INTO t{number} (tenant, id, note) VALUES (1, {number}, 'a -- b')")
"""


def shared_table(number: int) -> str:
    """A table that refers to one that all share, and a column of that one."""
    first = """
op.create_table("shared", sa.Column("id", sa.BigInteger(), primary_key=True))
op.create_reference_table("shared")
"""
    return f"""{first if number == 0 else ""}
op.create_table("t{number}", sa.Column("id", sa.BigInteger(), sa.ForeignKey("shared.id")))
op.create_distributed_table("t{number}", "id")
op.execute("ALTER TABLE shared ADD COLUMN c{number} int")
"""


def one_table(number: int) -> str:
    """A column of one table, with an index and a foreign key."""
    first = """
op.create_table("users", sa.Column("id", sa.BigInteger(), primary_key=True))
op.create_reference_table("users")
op.create_table("clicks", sa.Column("id", sa.BigInteger()))
op.create_distributed_table("clicks", "id")
"""
    return f"""{first if number == 0 else ""}
op.add_column("clicks", sa.Column("c{number}", sa.BigInteger()))
op.create_index("clicks_c{number}", "clicks", ["c{number}"])
op.create_foreign_key("clicks_f{number}", "clicks", "users", ["c{number}"], ["id"])
"""


def measure(_: Engine, __: int) -> list[Figure]:
    """Lint folders of 100 and of 800 migrations, in turns.

    Measured: the time that `lint_migrations` takes of the processor, per migration, of the large
    folder over the small one; for tables on their own, for tables that all
    refer to one, and for columns of one table.

    Promised: at most 1.5; linear growth is 1.
    """
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as place:
        for upgrade in (own_table, shared_table, one_table):
            folders = [Path(place) / f"{upgrade.__name__}_{count}" for count in (FEW, MANY)]
            for folder, count in zip(folders, (FEW, MANY), strict=True):
                write(folder, count, upgrade)
            few, many = alternate([partial(_seconds, folder) for folder in folders], TURNS)
            kind = upgrade.__name__.replace("_", " ")
            say(f"{kind}: {FEW} in {median(few):.2f} s, {MANY} in {median(many):.2f} s")
            growth = median_ratio(many, few) * FEW / MANY
            figures.append(Figure(f"{MANY} migrations / {FEW}, {kind}", growth, "at most", 1.5))
    return figures


def write(folder: Path, count: int, upgrade: Callable[[int], str]) -> None:
    """Write a chain of migrations."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:04}.py").write_text(
            "import sqlalchemy as sa\nfrom citus_analytics.migrations import op\n"
            f'revision = "{number}"\ndown_revision = {str(number - 1) if number else None!r}\n'
            f"def upgrade():\n{indent(upgrade(number), '    ')}\n"
            f'def downgrade():\n    op.drop_table("t{number}")\n'
        )


def _seconds(folder: Path) -> float:
    start = process_time()
    lint_migrations(folder)
    return process_time() - start
