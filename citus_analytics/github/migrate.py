"""The built-in migrations, run from Python.

They live in `alembic/` at the top of the repository and travel inside the package, as
`citus_analytics:_alembic`, so that an installed package can migrate a database without a checkout.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from sqlalchemy import Connection

from citus_analytics.errors import OperationError
from citus_analytics.migrations import database_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL

    from citus_analytics.migrations import Policy

__all__ = ["configuration", "downgrade", "upgrade"]


def configuration(target: str | URL | Connection, *, citus: Policy = "auto") -> Config:
    """Return the Alembic configuration of the built-in migrations, for `alembic.command`.

    Args:
        target: The database, or a connection to it whose transaction the migrations join.
        citus: What happens on a server without Citus; see `citus_analytics.migrations`.
    """
    scripts = Path(__file__).parents[1] / "_alembic"
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["citus"] = citus
    if isinstance(target, Connection):
        config.attributes["connection"] = target
    else:
        config.attributes["url"] = database_url(target)
    return config


def upgrade(
    target: str | URL | Connection, revision: str = "head", *, citus: Policy = "auto"
) -> None:
    """Migrate a database up to `revision`, in one transaction.

    Given a connection, the migrations run in the caller's transaction and nothing is committed.

    Raises:
        ArgumentError: `target` is not the URL of a PostgreSQL.
        OperationError: `citus` is `require` and the server has no Citus; or the database, or the
            caller, names a revision that is not one of ours.
    """
    with _explained():
        command.upgrade(configuration(target, citus=citus), revision)


def downgrade(
    target: str | URL | Connection, revision: str = "base", *, citus: Policy = "auto"
) -> None:
    """Migrate a database down to `revision`, in one transaction; `base` leaves nothing.

    Given a connection, the migrations run in the caller's transaction and nothing is committed.

    Raises:
        ArgumentError: `target` is not the URL of a PostgreSQL.
        OperationError: The database, or the caller, names a revision that is not one of ours.
    """
    with _explained():
        command.downgrade(configuration(target, citus=citus), revision)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except CommandError as error:
        if not isinstance(error.__cause__, ResolutionError):
            raise
        raise OperationError(
            f"{error}: it is not one of the built-in migrations. If the database's own revision is "
            "meant, the table alembic_version is that of another application: let its Alembic "
            "environment run the built-in migrations too, through version_locations."
        ) from error
