"""The pages of `docs/lint/`, whose examples are the test cases of the linter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import MetaData

import citus_analytics
from citus_analytics.lint import RULES, lint_metadata, lint_migrations

if TYPE_CHECKING:
    from citus_analytics.lint import Finding, Version

FOLDER = Path(citus_analytics.__file__).parents[1] / "docs" / "lint"

_BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Page:
    """What a page shows: a code that breaks the rule, what the server says, and one that does not.

    Attributes:
        said: The words of the server; None if it says nothing.
    """

    code: str
    breaks: str
    said: str | None
    keeps: str

    @property
    def is_about_migrations(self) -> bool:
        """Whether the examples are migrations, and not metadata."""
        return "def upgrade()" in self.breaks

    @property
    def version(self) -> Version:
        """The version of Citus that has the limit."""
        until = RULES[self.code].until
        return (13, 2) if until is None else (until[0] - 1, 3)


def page(code: str) -> Page:
    text = (FOLDER / f"{code}.md").read_text("utf-8")
    found = _BLOCK.findall(text)
    breaks, keeps = (block for language, block in found if language == "python")
    said = [block.strip() for language, block in found if language == "text"]
    assert len(said) <= 1
    return Page(code, breaks, said[0] if said else None, keeps)


def metadata_of(source: str) -> MetaData:
    """Run an example, and return its `metadata`."""
    namespace: dict[str, object] = {}
    exec(source, namespace)
    metadata = namespace["metadata"]
    assert isinstance(metadata, MetaData)
    return metadata


ENVIRONMENT = """\
from sqlalchemy import MetaData
from citus_analytics.migrations import run_environment
run_environment(MetaData())
"""
# What passes one by one, and together only in sequential mode.
PAIR = (
    """\
import sqlalchemy as sa
from citus_analytics.migrations import op
revision = "1"
down_revision = None
def upgrade():
    op.create_table("users", sa.Column("id", sa.BigInteger(), primary_key=True))
    op.create_reference_table("users")
    op.create_table("clicks", sa.Column("user_id", sa.BigInteger()))
    op.create_distributed_table("clicks", "user_id")
def downgrade():
    op.drop_table("clicks")
    op.drop_table("users")
""",
    """\
from citus_analytics.migrations import op
revision = "2"
down_revision = "1"
def upgrade():
    op.create_index("i", "clicks", ["user_id"])
    op.create_foreign_key("f", "clicks", "users", ["user_id"], ["id"])
def downgrade():
    op.drop_constraint("f", "clicks")
    op.drop_index("i", "clicks")
""",
)


def write_migrations(folder: Path, *sources: str, environment: str = ENVIRONMENT) -> Path:
    """Write migrations into `versions` of a folder that Alembic can run; return the folder."""
    versions = folder / "versions"
    versions.mkdir(parents=True, exist_ok=True)
    (folder / "env.py").write_text(environment)
    for number, source in enumerate(sources, 1):
        (versions / f"{number:04}.py").write_text(source)
    return folder


def write_example(folder: Path, example: str) -> Path | None:
    """Write an example that is a migration or an environment; None if it is metadata."""
    if "def upgrade()" in example:
        return write_migrations(folder, example)
    if "context.configure" in example:
        return write_migrations(folder, *PAIR, environment=example)
    return None


def findings(example: str, folder: Path, *, citus: Version = (13, 2)) -> list[Finding]:
    """Return what the linter finds in an example."""
    if (written := write_example(folder, example)) is not None:
        return lint_migrations(written, citus=citus)
    return lint_metadata(metadata_of(example), citus=citus)
