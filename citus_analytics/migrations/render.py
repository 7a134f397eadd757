"""Renders operations as lines of a migration, for `alembic revision --autogenerate`.

A line calls the operation's function on `op` with plain values; arguments that have their default
are left out.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from alembic.autogenerate import renderers
from alembic.operations.ops import CreatePrimaryKeyOp

from citus_analytics.migrations.blocks import Transaction
from citus_analytics.migrations.ops import CitusOperation, CreateRollupsOp, Job
from citus_analytics.rollups.sql import RollupSpec, TargetSpec
from citus_analytics.schema import Distributed, Local, Reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alembic.autogenerate.api import AutogenContext


@renderers.dispatch_for(CitusOperation)
def _render(context: AutogenContext, operation: CitusOperation) -> str | list[str]:
    if operation.implied:
        return []
    arguments = [
        _value(context, value) if name is None else f"{name}={_value(context, value)}"
        for name, value in operation.arguments()
    ]
    # Whatever module the template calls `op`.
    prefix = context.opts.get("alembic_module_prefix", "op.")
    call = _call(f"{prefix}{operation.function}", arguments)
    if isinstance(operation, CreateRollupsOp) and operation.faults:
        return [*(f"# Repairs: {' '.join(fault.split())}." for fault in operation.faults), call]
    if operation.transaction is Transaction.FORBIDDEN:
        # The empty line tells Alembic's printer that the block ends.
        return [f"with {prefix}get_context().autocommit_block():", call, ""]
    return call


@renderers.dispatch_for(CreatePrimaryKeyOp, replace=True)
def _render_primary_key(context: AutogenContext, operation: CreatePrimaryKeyOp) -> str:
    # Alembic itself never writes one, since it does not compare primary keys.
    prefix = context.opts.get("alembic_module_prefix", "op.")
    name = operation.constraint_name
    arguments = [
        # Without op.f() a naming convention would make another name of it.
        repr(name) if name is None else f"{prefix}f({str(name)!r})",
        repr(operation.table_name),
        repr([str(column) for column in operation.columns]),
    ]
    if operation.schema is not None:
        arguments.append(f"schema={operation.schema!r}")
    return _call(f"{prefix}create_primary_key", arguments)


def _value(context: AutogenContext, value: object) -> str:
    """Return a value as a Python expression, and record the imports that it needs."""
    match value:
        case timedelta():
            context.imports.add("from datetime import timedelta")
            # `timedelta(minutes=1)` rather than `timedelta(seconds=60)`.
            units = (("days", 86_400), ("hours", 3_600), ("minutes", 60), ("seconds", 1))
            for unit, seconds in units:
                width = timedelta(seconds=seconds)
                if value and value % width == timedelta(0):
                    return f"timedelta({unit}={value // width})"
            return repr(value).removeprefix("datetime.")
        case datetime():
            context.imports.add("from datetime import UTC, datetime")
            moment = value.astimezone(UTC).replace(tzinfo=None)
            return f"{repr(moment).removeprefix('datetime.').removesuffix(')')}, tzinfo=UTC)"
        case Distributed() | Reference() | Local():
            context.imports.add(f"from citus_analytics.schema import {type(value).__name__}")
            return repr(value)
        case Job() | RollupSpec() | TargetSpec():
            name = type(value).__name__
            context.imports.add(f"from citus_analytics.migrations import {name}")
            arguments = []
            for field in fields(value):
                found = getattr(value, field.name)
                factory = field.default_factory
                if found != (field.default if factory is MISSING else factory()):
                    arguments.append(f"{field.name}={_value(context, found)}")
            return _call(name, arguments, over_lines=not isinstance(value, Job))
        case tuple() if any(isinstance(each, TargetSpec) for each in value):
            return _call("", [_value(context, each) for each in value], over_lines=True)
        case _:
            return repr(value)


def _call(name: str, arguments: Sequence[str], *, over_lines: bool = False) -> str:
    if not over_lines and not any("\n" in argument for argument in arguments):
        return f"{name}({', '.join(arguments)})"
    lines = "".join(f"{argument},\n" for argument in arguments).rstrip("\n").split("\n")
    return f"{name}(\n" + "".join(f"    {line}\n" for line in lines) + ")"
