"""Migrations in a few words, for the linter to judge."""

from __future__ import annotations

from textwrap import dedent, indent
from typing import TYPE_CHECKING

from citus_analytics.lint import Finding, lint_migrations
from tests.lint_pages import write_migrations

if TYPE_CHECKING:
    from pathlib import Path

# Local, and distributed by k.
CLICKS = 'op.create_table("clicks", sa.Column("k", sa.BigInteger()), sa.Column("v", sa.Integer()))'
DISTRIBUTED = f'{CLICKS}\nop.create_distributed_table("clicks", "k")'


LATE = 'op.create_distributed_table("clicks", "k")'


def migration(
    upgrade: str, *, downgrade: str = 'op.drop_table("x")', top: str = "", number: int = 1
) -> str:
    """Return the source of a migration with these statements."""
    parent = f'"{number - 1}"' if number > 1 else None
    return (
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f'revision = "{number}"\ndown_revision = {parent}\n{dedent(top)}\n'
        f"def upgrade():\n{indent(dedent(upgrade), '    ')}\n\n"
        f"def downgrade():\n{indent(dedent(downgrade), '    ')}\n"
    )


def lint(folder: Path, *upgrades: str) -> list[Finding]:
    """Return what is found in migrations that follow each other."""
    sources = [migration(one, number=number) for number, one in enumerate(upgrades, 1)]
    return lint_migrations(write_migrations(folder, *sources))


def codes(folder: Path, *upgrades: str) -> list[str]:
    """Return the codes of what is found in migrations that follow each other."""
    return [finding.code for finding in lint(folder, *upgrades)]
