"""SQL text: quoted names, quoted values, and blocks that act on Citus alone.

Statements that cannot be built from SQLAlchemy's constructs (functions, triggers, calls that
depend on whether Citus is there) are text. The decision whether Citus is there is left to the
server, inside a `DO` block, so that the same text serves `alembic upgrade` and `--sql`.
"""

from __future__ import annotations

from textwrap import indent
from typing import TYPE_CHECKING

from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

if TYPE_CHECKING:
    from sqlalchemy import Dialect

# With named parameters a per cent sign in a name stays single.
DIALECT: Dialect = PGDialect_psycopg(paramstyle="named")  # type: ignore[no-untyped-call]

_HAS_CITUS = "EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus')"


def quote(name: str) -> str:
    """Return `name` as an SQL identifier, in quotes where it needs them."""
    return DIALECT.identifier_preparer.quote(name)


def qualify(name: str, schema: str | None) -> str:
    """Return the quoted name of a relation or function, with its schema if there is one."""
    return quote(name) if schema is None else f"{quote(schema)}.{quote(name)}"


def literal(value: str) -> str:
    """Return `value` as an SQL string, whatever `standard_conforming_strings` is."""
    text = value.replace("'", "''")
    return f"'{text}'" if "\\" not in text else " E'" + text.replace("\\", "\\\\") + "'"


def on_citus(body: str, *, otherwise: str = "") -> str:
    """Return a block that runs `body` where Citus is installed, else `otherwise`.

    Both are PL/pgSQL statements.
    """
    alternative = f"ELSE\n{indent(otherwise.strip(), '    ')}\n  " if otherwise else ""
    return (
        f"DO $citus$\nBEGIN\n  IF {_HAS_CITUS} THEN\n"
        f"{indent(body.strip(), '    ')}\n  {alternative}END IF;\nEND\n$citus$"
    )


def sequential() -> str:
    """Return the PL/pgSQL statement that makes Citus keep to one connection a node.

    Citus refuses to create functions, triggers or further tables in a transaction in which it
    has used several connections to a node in parallel.
    """
    return "PERFORM set_config('citus.multi_shard_modify_mode', 'sequential', true);"
