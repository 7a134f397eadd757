"""SQL text: quoted names, quoted values, and blocks that act on Citus alone.

Statements that cannot be built from SQLAlchemy's constructs (functions, triggers, calls that
depend on whether Citus is there) are text. The decision whether Citus is there is left to the
server, inside a `DO` block, so that the same text serves `alembic upgrade` and `--sql`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

if TYPE_CHECKING:
    from sqlalchemy import Dialect

# With named parameters a per cent sign in a name stays single.
DIALECT: Dialect = PGDialect_psycopg(paramstyle="named")  # type: ignore[no-untyped-call]

# An SQLSTATE of our own, so that a refusal is told apart from every error of the server's.
REFUSED = "CAREF"

LONGEST_NAME: Final = 63
"""How many bytes a name may have: PostgreSQL's NAMEDATALEN, less one."""

_COPY_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
_HAS_CITUS = "EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus')"


def quote(name: str) -> str:
    """Return `name` as an SQL identifier.

    Always in quotes: which names need none differs with the version of PostgreSQL, and with the
    place in a statement.
    """
    return DIALECT.identifier_preparer.quote_identifier(name)


def qualify(name: str, schema: str | None) -> str:
    """Return the quoted name of a relation or function, with its schema if there is one."""
    return quote(name) if schema is None else f"{quote(schema)}.{quote(name)}"


def literal(value: str) -> str:
    """Return `value` as an SQL string of one line, whatever `standard_conforming_strings` is."""
    text = value.replace("'", "''")
    if "\\" not in text and "\n" not in text:
        return f"'{text}'"
    return " E'" + text.replace("\\", "\\\\").replace("\n", "\\n") + "'"


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
    block = f"\nBEGIN\n  IF {_HAS_CITUS} THEN\n{indented(body)}\n  {alternative}END IF;\nEND\n"
    return f"DO {dollar_quote(block, 'citus')}"


def do_block(body: str, *, declare: tuple[str, ...] = ()) -> str:
    """Return a block that runs `body`, PL/pgSQL statements, with the variables of `declare`."""
    variables = "".join(f"  {variable};\n" for variable in declare)
    declared = f"DECLARE\n{variables}" if variables else ""
    block = f"\n{declared}BEGIN\n{indented(body)}\nEND\n"
    return f"DO {dollar_quote(block, 'citus')}"


def sequential() -> str:
    """Return the PL/pgSQL statement that makes Citus keep to one connection a node.

    Citus refuses to create functions, triggers or further tables in a transaction in which it
    has used several connections to a node in parallel.
    """
    return "PERFORM set_config('citus.multi_shard_modify_mode', 'sequential', true);"


def indented(lines: str) -> str:
    """Return `lines` four spaces further to the right."""
    # Unlike `textwrap.indent`, this takes nothing but a line feed for the end of a line: names,
    # which stand in literals here, may contain all the others.
    return "    " + lines.strip().replace("\n", "\n    ")


def refusal(message: str) -> str:
    """Return the PL/pgSQL statement whose error becomes an `OperationError`.

    `message` is an SQL expression.
    """
    return f"RAISE EXCEPTION USING MESSAGE = {message}, ERRCODE = '{REFUSED}';"
