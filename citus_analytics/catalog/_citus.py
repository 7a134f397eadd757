"""Whether there is a Citus here, and how to ask all of its nodes at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy import Connection

_VERSION: Final = text("SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'citus'")

# Each node runs the command in a connection of its own, all at the same time, and a node that
# cannot be reached is a row, not an error. Public, and the same since Citus 11.0.
_ON_ALL_NODES: Final = text(
    "SELECT nodeid, success, result FROM pg_catalog.run_command_on_all_nodes(:command)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a node answers to a command.

    Attributes:
        value: The JSON object that the command returned; empty if the node did not answer.
        error: Why it did not answer, in Citus's words; None if it did.
    """

    value: dict[str, Any]
    error: str | None


def citus_version(connection: Connection) -> tuple[int, int] | None:
    """Return the version of Citus in this database, such as (13, 2).

    Returns:
        The major and minor version of the extension, or None if this database does not have it,
        whatever is installed on the server.
    """
    version = connection.execute(_VERSION).scalar_one_or_none()
    if version is None:
        return None
    # What follows the minus counts the scripts within a version: 13.2-1.
    major, minor = version.partition("-")[0].split(".")[:2]
    return int(major), int(minor)


def ask_all_nodes(connection: Connection, command: str) -> dict[int, Answer]:
    """Return the answer of every active primary node, by its id.

    A coordinator that is not in the metadata has the id 0. The nodes do not see what the
    transaction of `connection` has not yet committed. Waits for a node that does not answer for
    as long as `citus.node_connection_timeout` says.

    Args:
        connection: A connection to a database with Citus.
        command: A query for one JSON object.
    """
    rows = connection.execute(_ON_ALL_NODES, {"command": command})
    return {row.nodeid: _answer(success=row.success, result=row.result) for row in rows}


def _answer(*, success: bool, result: str) -> Answer:
    if success:
        return Answer(value=json.loads(result), error=None)
    return Answer(value={}, error=" ".join(result.split()))
