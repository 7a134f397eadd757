"""SQL text, where a session sends it, and where the library logs.

Statements that cannot be built from SQLAlchemy's constructs (functions, triggers, calls that
depend on whether Citus is there) are text. The decision whether Citus is there is left to the
server, inside a `DO` block, so that the same text serves `alembic upgrade` and `--sql`.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.orm import Session, scoped_session

from citus_analytics.errors import ArgumentError

if TYPE_CHECKING:
    from sqlalchemy import Dialect, Table

Executor: TypeAlias = Connection | Session | scoped_session[Session]
"""What executes a statement, in a transaction that the caller controls."""

# With named parameters a per cent sign in a name stays single.
DIALECT: Dialect = PGDialect_psycopg(paramstyle="named")  # type: ignore[no-untyped-call]

SNAPSHOT: Final = "citus_analytics_snapshot"
"""The execution option of a connection that reads all nodes as of one moment."""

# An SQLSTATE of our own, which distinguishes a refusal from every error of the server.
REFUSED = "CAREF"

LONGEST_NAME: Final = 63
"""How many bytes a name may have: PostgreSQL's NAMEDATALEN, less one."""

_COPY_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
HAS_CITUS = "EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus')"


def quote(name: str) -> str:
    """Return `name` as an SQL identifier.

    It is always quoted: which names need quotes depends on the version of PostgreSQL, and on the
    place in a statement.
    """
    return DIALECT.identifier_preparer.quote_identifier(name)


def qualify(name: str, schema: str | None) -> str:
    """Return the quoted name of a relation or function, with its schema if there is one."""
    return quote(name) if schema is None else f"{quote(schema)}.{quote(name)}"


def literal(value: str) -> str:
    """Return `value` as an SQL string of one line, whatever `standard_conforming_strings` is."""
    inner = value.replace("'", "''")
    if "\\" not in inner and "\n" not in inner:
        return f"'{inner}'"
    return " E'" + inner.replace("\\", "\\\\").replace("\n", "\\n") + "'"


def copy_field(value: str | None) -> bytes:
    """Return `value` as a field of COPY's text format."""
    return b"\\N" if value is None else value.translate(_COPY_ESCAPES).encode()


def dollar_quote(body: str, tag: str) -> str:
    """Return `body` between dollar quotes; the tag grows until the body does not contain it."""
    while f"${tag}$" in body:
        tag += "_"
    return f"${tag}${body}${tag}$"


def on_citus(body: str, *, otherwise: str = "") -> str:
    """Return a block that runs `body` where Citus is installed, else `otherwise`.

    Both are PL/pgSQL statements.
    """
    alternative = f"ELSE\n{indented(otherwise)}\n  " if otherwise else ""
    block = f"\nBEGIN\n  IF {HAS_CITUS} THEN\n{indented(body)}\n  {alternative}END IF;\nEND\n"
    return f"DO {dollar_quote(block, 'citus')}"


_QUOTED_OR_LINE_FEED: Final = re.compile(r""""(?:[^"]|"")*"|'(?:[^']|'')*'|\n""")


def do_block(body: str, *, declare: tuple[str, ...] = ()) -> str:
    """Return a block that runs `body`, PL/pgSQL statements, with the variables of `declare`."""
    variables = "".join(f"  {variable};\n" for variable in declare)
    declared = f"DECLARE\n{variables}" if variables else ""
    block = f"\n{declared}BEGIN\n{indented(body)}\nEND\n"
    return f"DO {dollar_quote(block, 'citus')}"


def sequential() -> str:
    """Return the PL/pgSQL statement that makes Citus use one connection to each node.

    Citus refuses to create functions, triggers or further tables in a transaction in which it
    has used several connections to a node in parallel.
    """
    return "PERFORM set_config('citus.multi_shard_modify_mode', 'sequential', true);"


def indented(lines: str) -> str:
    """Return `lines` four spaces further to the right."""
    # A line feed within quotes belongs to a name or a value.
    return "    " + _QUOTED_OR_LINE_FEED.sub(
        lambda found: "\n    " if found[0] == "\n" else found[0], lines.strip()
    )


def refusal(message: str) -> str:
    """Return the PL/pgSQL statement whose error becomes an `OperationError`.

    `message` is an SQL expression.
    """
    return f"RAISE EXCEPTION USING MESSAGE = {message}, ERRCODE = '{REFUSED}';"


def colocation_of(connection: Connection, table: str) -> int | None:
    """Return the colocation group of a table, None if Citus does not know the table.

    The table is named as by `qualify`.
    """
    if not connection.scalar(text(f"SELECT {HAS_CITUS}")):
        return None
    found: int | None = connection.scalar(_COLOCATION, {"table": table})
    return found


_COLOCATION: Final = text(
    "SELECT colocationid FROM pg_catalog.pg_dist_partition WHERE logicalrelid = to_regclass(:table)"
)


def is_sharded(connection: Connection, table: str) -> bool:
    """Whether Citus keeps a table on the nodes; it is named as by `qualify`."""
    return colocation_of(connection, table) is not None


def is_snapshot(connection: Connection) -> bool:
    """Whether a connection reads all nodes as of one moment."""
    return SNAPSHOT in connection.get_execution_options()


def executor_of(session: Executor) -> Executor:
    """Return what executes a statement, if it is one of the types that do.

    Raises:
        ArgumentError: It is something else, such as an `AsyncSession`, an engine or an address.
    """
    if isinstance(session, Connection | Session | scoped_session):
        return session
    # An address is not shown: it may have a password.
    raise ArgumentError(
        "statements are executed through a Connection or a Session of SQLAlchemy, not through "
        f"{type(session).__name__}; with asyncio, through run_sync of an AsyncSession or an "
        "AsyncConnection"
    )


def flushed_connection(session: Executor, table: Table, entity: type | None = None) -> Connection:
    """Return the connection on which a session would execute a statement about `table`.

    The rule for flushing: what goes through a session flushes its pending objects first, if
    `session.autoflush` is on. `Session.execute` does so for statements on mapped classes; whatever
    sends SQL text or COPY has to get its connection here. `entity` is the class that is mapped to
    the table, if it is known: a session may have binds for base classes.

    Raises:
        ArgumentError: It is neither a session nor a connection.
    """
    session = executor_of(session)
    if isinstance(session, Connection):
        return session
    if session.autoflush:
        session.flush()
    if entity is not None:
        return session.connection(bind_arguments={"mapper": entity, "clause": table})
    return session.connection(bind_arguments={"clause": table})


def schema_of(connection: Connection, table: Table) -> str | None:
    """Return the schema in which a connection finds a table, by its `schema_translate_map`."""
    translated = connection.get_execution_options().get("schema_translate_map") or {}
    return cast("str | None", translated.get(table.schema, table.schema))


def transaction_token(connection: Connection) -> str:
    """Return what stands for the current transaction of a connection, which gets a number by it."""
    return str(connection.exec_driver_sql("SELECT pg_current_xact_id()::text").scalar_one())


def logger() -> logging.Logger:
    """Return the logger `citus_analytics`, or a child of Alembic's logger if that is disabled.

    The `env.py` that `alembic init` makes configures logging from a file, which disables every
    logger that the file does not name; it does name Alembic's.
    """
    own = logging.getLogger("citus_analytics")
    return logging.getLogger("alembic.citus_analytics") if own.disabled else own
