"""Where a statement goes: the connection behind a session, and the schema that it finds there."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sqlalchemy import Connection

if TYPE_CHECKING:
    from sqlalchemy import ClauseElement, Table
    from sqlalchemy.orm import Session


def flushed_connection(session: Session | Connection, clause: ClauseElement) -> Connection:
    """Return the connection on which a session would execute a statement about `clause`.

    What the session holds is flushed first, as before any query on mapped classes.
    """
    # A scoped session is no Session, but does what one does.
    if isinstance(session, Connection):
        return session
    if session.autoflush:
        session.flush()
    # The connection that Session.execute would choose, without its work for mapped classes.
    return session.connection(bind_arguments={"clause": clause})


def schema_of(connection: Connection, table: Table) -> str | None:
    """Return the schema in which a connection finds a table: `schema_translate_map` counts."""
    translated = connection.get_execution_options().get("schema_translate_map") or {}
    return cast("str | None", translated.get(table.schema, table.schema))
