"""What SQL text says, as far as regular expressions can tell.

This is no parser. It finds what people write in `op.execute`, and rather misses something than
take it for what it is not: literals and comments are blanked out first.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = r"(?:\"[^\"]+\"|\w+)(?:\.(?:\"[^\"]+\"|\w+))?"
_COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_LITERALS = re.compile(r"'(?:[^']|'')*'")
_CITUS_FUNCTION = re.compile(
    r"\b(?P<name>create_distributed_table_concurrently|create_distributed_table"
    r"|create_reference_table|undistribute_table)\s*\(\s*'(?P<table>[^']+)'"
    r"(?:\s*,\s*(?:distribution_column\s*=>\s*)?(?:'(?P<column>[^']+)'|NULL))?(?P<rest>[^)]*)\)",
    re.IGNORECASE,
)
_COLOCATE_WITH = re.compile(r"colocate_with\s*(?:=>|:=)\s*'([^']+)'", re.IGNORECASE)
_SHARD_COUNT = re.compile(r"shard_count\s*(?:=>|:=)\s*(\d+)", re.IGNORECASE)
_CONCURRENTLY = re.compile(
    r"\b(?:CREATE\s+(?:UNIQUE\s+)?INDEX|DROP\s+INDEX|REINDEX[^;]*?)\s+CONCURRENTLY\b"
    r"|\bcreate_distributed_table_concurrently\s*\(",
    re.IGNORECASE,
)
_INSERT = re.compile(rf"\bINSERT\s+INTO\s+({_NAME})", re.IGNORECASE)
_COPY = re.compile(rf"\bCOPY\s+({_NAME})[^;]*?\bFROM\b", re.IGNORECASE)
_UPSERT = re.compile(
    rf"\bINSERT\s+INTO\s+(?P<table>{_NAME})(?:(?!\bINSERT\b)[^;])*?\bDO\s+UPDATE\s+SET\b(?P<set>"
    r"(?:(?!\bRETURNING\b)[^;])*)",
    re.IGNORECASE,
)
_UPDATE = re.compile(
    rf"\bUPDATE\s+(?:ONLY\s+)?(?P<table>{_NAME})(?:\s+(?:AS\s+)?\w+)?\s+SET\b"
    r"(?P<set>(?:(?!\b(?:FROM|WHERE|RETURNING)\b)[^;])*)(?P<rest>[^;]*)",
    re.IGNORECASE,
)
_ASSIGNMENT = re.compile(
    rf"(?:^|[,(])\s*(?P<name>\"[^\"]+\"|\w+)\s*=\s*(?P<value>{_NAME})?(?=\s*(?:[,)]|$|WHERE\b)|.)",
    re.IGNORECASE | re.DOTALL,
)
_UNNAMED_EXCLUSION = re.compile(
    rf"\bALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?({_NAME})[^;]*?\bADD\s+EXCLUDE\b"
    r"[^(;]*\((?:(?!\bWHERE\b)[^;)])*\(",
    re.IGNORECASE,
)
_TRIGGER = re.compile(
    rf"\bCREATE\s+(?:OR\s+REPLACE\s+)?(?:CONSTRAINT\s+)?TRIGGER\b[^;]*?\bON\s+({_NAME})",
    re.IGNORECASE,
)
_UNSAFE_TRIGGERS = re.compile(r"citus\.enable_unsafe_triggers", re.IGNORECASE)
_NUMBERED_COLUMN = re.compile(
    rf"\bALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?({_NAME})[^;]*?\bADD\s+(?:COLUMN\s+)?"
    rf"(?:IF\s+NOT\s+EXISTS\s+)?(?:{_NAME})\s+"
    r"(?:(?:small|big)?serial\b|[^;,]*?\bGENERATED\s+(?:ALWAYS|BY\s+DEFAULT)\s+AS\s+IDENTITY\b)",
    re.IGNORECASE,
)
# Functions that no version of PostgreSQL has as IMMUTABLE, whatever their arguments.
_VOLATILE = (
    r"random|clock_timestamp|timeofday|gen_random_uuid|uuid_generate_v4|uuid_generate_v1|nextval"
)
_CHANGING = re.compile(
    rf"\b(?:now|statement_timestamp|transaction_timestamp|{_VOLATILE})\s*\("
    r"|\b(?:current_timestamp|current_date|current_time|localtimestamp|localtime)\b",
    re.IGNORECASE,
)
_VOLATILE_CALL = re.compile(rf"\b(?:{_VOLATILE})\s*\(", re.IGNORECASE)


def raw_distributions(sql: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the Citus functions that are called, as our operations with their arguments."""
    for found in _CITUS_FUNCTION.finditer(_COMMENTS.sub(" ", sql)):
        schema, _, name = key_of(found["table"]).rpartition(".")
        arguments: dict[str, object] = {"table_name": name, "schema": schema or None}
        if found["name"].lower().startswith("create_distributed"):
            partner = _COLOCATE_WITH.search(found["rest"])
            count = _SHARD_COUNT.search(found["rest"])
            partner_schema, _, partner_name = key_of(partner[1] if partner else "").rpartition(".")
            arguments["colocate_with"] = partner_name or None
            arguments["colocate_schema"] = partner_schema or None
            arguments["column"] = found["column"]
            arguments["shard_count"] = int(count[1]) if count else None
        yield found["name"].lower(), arguments


def runs_concurrently(sql: str) -> bool:
    """Return whether SQL cannot run in a transaction, because it works CONCURRENTLY."""
    return _CONCURRENTLY.search(_blanked(sql)) is not None


def filled_tables(sql: str) -> list[str]:
    """Return the keys of tables that get rows."""
    text = _blanked(sql)
    return [key_of(found[1]) for one in (_INSERT, _COPY) for found in one.finditer(text)]


def changing_upserts(sql: str) -> Iterator[tuple[str, str]]:
    """Yield tables, each with a function in DO UPDATE that is not IMMUTABLE."""
    for found in _UPSERT.finditer(_blanked(sql)):
        if called := _CHANGING.search(found["set"]):
            yield key_of(found["table"]), called[0].rstrip("( \n")


def volatile_updates(sql: str) -> Iterator[tuple[str, str]]:
    """Yield tables, each with a function in UPDATE that is VOLATILE."""
    for found in _UPDATE.finditer(_blanked(sql)):
        if called := _VOLATILE_CALL.search(found["set"] + found["rest"]):
            yield key_of(found["table"]), called[0].rstrip("( \n")


def updated_columns(sql: str) -> Iterator[tuple[str, str]]:
    """Yield tables, each with a column that an UPDATE or a DO UPDATE sets to something else."""
    for pattern in (_UPDATE, _UPSERT):
        for found in pattern.finditer(_blanked(sql)):
            for column in _ASSIGNMENT.finditer(found["set"]):
                # What is set to itself, or to what could not be inserted elsewhere, stays.
                if key_of(column["value"] or "").rpartition(".")[2] != key_of(column["name"]):
                    yield key_of(found["table"]), key_of(column["name"])


def triggers(sql: str) -> list[str]:
    """Return the keys of tables that get triggers."""
    return [key_of(found[1]) for found in _TRIGGER.finditer(_blanked(sql))]


def allows_triggers(sql: str) -> bool:
    """Return whether SQL sets `citus.enable_unsafe_triggers`."""
    return _UNSAFE_TRIGGERS.search(sql) is not None


def numbered_columns(sql: str) -> list[str]:
    """Return the keys of tables that get a serial or identity column."""
    return [key_of(found[1]) for found in _NUMBERED_COLUMN.finditer(_blanked(sql))]


def unnamed_exclusions(sql: str) -> list[str]:
    """Return the keys of tables that get an exclusion constraint on an expression, unnamed."""
    return [key_of(found[1]) for found in _UNNAMED_EXCLUSION.finditer(_blanked(sql))]


def key_of(name: str) -> str:
    """Return the key under which the metadata knows a name of SQL."""
    parts = re.findall(r"\"([^\"]+)\"|(\w+)", name)
    return ".".join(quoted or plain.lower() for quoted, plain in parts)


def _blanked(sql: str) -> str:
    return _LITERALS.sub("''", _COMMENTS.sub(" ", sql))
