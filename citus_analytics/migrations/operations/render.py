"""Operations as the lines of a migration, which `alembic revision --autogenerate` writes.

A line is a call of the operation's function on `op`, frozen and readable: plain values, arguments
that have their default left out, and the imports that the migration needs for the rest.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from alembic.autogenerate import renderers

from citus_analytics.migrations.operations.base import CitusOperation, DiscardOp, Transaction
from citus_analytics.migrations.operations.jobs import Job
from citus_analytics.migrations.operations.rollup import ReplaceRollupFunctionOp
from citus_analytics.rollups.sql import RollupSpec
from citus_analytics.schema import Distributed, Local, Reference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from alembic.autogenerate.api import AutogenContext

_INDENT: Final = "    "
_MODULES: Final[Mapping[type, str]] = {
    Distributed: "citus_analytics.schema",
    Reference: "citus_analytics.schema",
    Local: "citus_analytics.schema",
    Job: "citus_analytics.migrations",
    RollupSpec: "citus_analytics.migrations",
}


@renderers.dispatch_for(CitusOperation)
def _render(context: AutogenContext, operation: CitusOperation) -> str | list[str]:
    given = operation.given()
    parts = [_value(context, value) for value in given.positional]
    parts += [f"{name}={_value(context, value)}" for name, value in given.named.items()]
    # Whatever module the template calls `op`.
    prefix = context.opts.get("alembic_module_prefix", "op.")
    call = _call(f"{prefix}{operation.function}", parts)
    if isinstance(operation, ReplaceRollupFunctionOp) and operation.faults:
        return [*(f"# Repairs: {' '.join(fault.split())}." for fault in operation.faults), call]
    if operation.transaction is Transaction.FORBIDDEN:
        # The empty line tells Alembic's printer that the block ends.
        return [f"with {prefix}get_context().autocommit_block():", call, ""]
    return call


@renderers.dispatch_for(DiscardOp)
def _render_nothing(context: AutogenContext, operation: DiscardOp) -> list[str]:  # noqa: ARG001
    return []


def _value(context: AutogenContext, value: object) -> str:
    """Return the Python expression of a value, and note what it needs to be imported."""
    if isinstance(value, timedelta):
        context.imports.add("from datetime import timedelta")
        return _timedelta(value)
    if isinstance(value, datetime):
        context.imports.add("from datetime import UTC, datetime")
        moment = value.astimezone(UTC).replace(tzinfo=None)
        return f"{repr(moment).removeprefix('datetime.').removesuffix(')')}, tzinfo=UTC)"
    if isinstance(value, Distributed | Reference | Local | Job | RollupSpec):
        context.imports.add(f"from {_MODULES[type(value)]} import {type(value).__name__}")
        return _dataclass(context, value)
    return repr(value)


def _dataclass(
    context: AutogenContext, value: Distributed | Reference | Local | Job | RollupSpec
) -> str:
    given = ((f, getattr(value, f.name)) for f in fields(value))
    parts = [
        f"{field.name}={_value(context, found)}"
        for field, found in given
        if field.default is MISSING or found != field.default
    ]
    name = type(value).__name__
    return _call(name, parts, over_lines=isinstance(value, RollupSpec))


def _timedelta(value: timedelta) -> str:
    """Return `timedelta(minutes=1)` rather than `timedelta(seconds=60)`."""
    units = (("days", 86_400), ("hours", 3_600), ("minutes", 60), ("seconds", 1))
    for unit, seconds in units:
        width = timedelta(seconds=seconds)
        if value and value % width == timedelta(0):
            return f"timedelta({unit}={value // width})"
    return repr(value).removeprefix("datetime.")


def _call(name: str, arguments: Sequence[str], *, over_lines: bool = False) -> str:
    if not over_lines and not any("\n" in argument for argument in arguments):
        return f"{name}({', '.join(arguments)})"
    lines = "".join(f"{argument},\n" for argument in arguments)
    indented = "".join(f"{_INDENT}{line}\n" for line in lines.rstrip("\n").split("\n"))
    return f"{name}(\n{indented})"
