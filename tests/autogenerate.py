"""An application of somebody else's: its own metadata, its own folder of migrations."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic import command
from alembic.autogenerate import compare_metadata, produce_migrations
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.operations.ops import OpContainer
from sqlalchemy import URL, NullPool, create_engine

from citus_analytics.migrations import plugins

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic.operations import MigrateOperation
    from sqlalchemy import Connection, MetaData

_ENVIRONMENT = """
from alembic import context
from citus_analytics.migrations import run_environment
attributes = context.config.attributes
run_environment(
    attributes.get("metadata"), include_schemas=True, **attributes.get("options", {})
)
"""
_CONFIGURATION = """
[alembic]
script_location = %(here)s
path_separator = os
"""
_TEMPLATE = Path(__file__).parents[1] / "alembic" / "script.py.mako"


@dataclass(frozen=True, slots=True)
class Application:
    """An application whose tables change from revision to revision.

    Attributes:
        url: Its database.
        folder: Its folder of migrations.
    """

    url: URL
    folder: Path

    def __post_init__(self) -> None:
        (self.folder / "versions").mkdir(parents=True)
        (self.folder / "env.py").write_text(_ENVIRONMENT)
        (self.folder / "alembic.ini").write_text(_CONFIGURATION)
        (self.folder / "script.py.mako").write_text(_TEMPLATE.read_text())

    def revise(self, metadata: MetaData, **options: Any) -> str:
        """Generate a revision that brings the database to the metadata; return its text."""
        config = self._config(metadata)
        config.attributes["options"] = options
        script = command.revision(config, "change", autogenerate=True)
        assert not isinstance(script, list)
        assert script is not None
        return Path(script.path).read_text()

    def upgrade(self) -> None:
        """Run the revisions that have not been run, in one transaction."""
        command.upgrade(self._config(), "head")

    def upgrade_in_a_process(self) -> None:
        """Do the same in a process of its own."""
        url = self.url.render_as_string(hide_password=False)
        subprocess.run(
            [sys.executable, "-m", "alembic", "-x", f"url={url}", "upgrade", "head"],
            check=True,
            cwd=self.folder,
            capture_output=True,
        )

    def downgrade(self, revision: str = "-1") -> None:
        """Go back, in one transaction."""
        command.downgrade(self._config(), revision)

    def _config(self, metadata: MetaData | None = None) -> Config:
        config = Config()
        config.set_main_option("script_location", str(self.folder))
        config.set_main_option("path_separator", "os")
        config.attributes |= {"url": self.url, "metadata": metadata}
        return config


def repair(url: URL, metadata: MetaData) -> None:
    """Do at once what autogenerate would write into a migration."""
    with create_engine(url, poolclass=NullPool).begin() as connection:
        context = _context(connection)
        operations = Operations(context)
        script = produce_migrations(context, metadata)
        assert script.upgrade_ops is not None
        for operation in _each(script.upgrade_ops):
            operations.invoke(operation)


def migrated(application: Application, metadata: MetaData) -> str:
    """Generate a revision, run it, and see that nothing is left to do; return its text."""
    source = application.revise(metadata)
    application.upgrade()
    assert differences(application.url, metadata) == []
    return source


def differences(url: URL, metadata: MetaData, **options: Any) -> list[Any]:
    """Return what `alembic check` finds."""
    with create_engine(url, poolclass=NullPool).connect() as connection:
        return list(compare_metadata(_context(connection, **options), metadata))


def found(url: URL, metadata: MetaData) -> list[tuple[Any, ...]]:
    """Return what `alembic check` finds, without what stands behind the names."""
    return [difference[:2] for difference in differences(url, metadata)]


def _each(container: OpContainer) -> Iterator[MigrateOperation]:
    for operation in container.ops:
        if isinstance(operation, OpContainer):
            yield from _each(operation)
        else:
            yield operation


def _context(connection: Connection, **options: Any) -> MigrationContext:
    return MigrationContext.configure(
        connection,
        opts={"autogenerate_plugins": plugins(), "include_schemas": True, **options},
    )
