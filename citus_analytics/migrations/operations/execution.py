"""How the steps of an operation reach the server, or the script of `--sql`.

Every decision is the server's: whether an extension is there, whether it is new enough, whether
there is a transaction. So a script decides at the time at which it is run as `upgrade` does.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import psycopg
from alembic.operations import Operations
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from citus_analytics.errors import OperationError
from citus_analytics.migrations.operations.base import CitusOperation, Guarded, Transaction
from citus_analytics.sql import REFUSED, do_block, indented, literal, logger, refusal, sequential

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg.errors import Diagnostic

    from citus_analytics.migrations.operations.base import Extension

Policy: TypeAlias = Literal["auto", "require", "skip"]


_NAMES = {"citus": "Citus"}
_MARK = "PERFORM set_config('citus_analytics.transaction', 'open', true);"
_IS_MARKED = "current_setting('citus_analytics.transaction', true) IS NOT DISTINCT FROM 'open'"


def policy_of(operations: Operations) -> Policy:
    """Return what the environment wants done on servers without Citus.

    Raises:
        OperationError: `context.configure(citus=...)` was given something else.
    """
    policy: object = operations.migration_context.opts.get("citus", "auto")
    for known in get_args(Policy):
        if policy == known:
            return known  # type: ignore[no-any-return]
    raise OperationError(
        f"the Citus policy must be one of {', '.join(get_args(Policy))}; "
        f"context.configure(citus={policy!r}) is none of them."
    )


@Operations.implementation_for(CitusOperation)
def _run(operations: Operations, operation: CitusOperation) -> None:
    """Execute an operation, whichever it is."""
    policy = policy_of(operations)
    with _notices_told(operations):
        for statement in _transaction_check(operation):
            _execute(operations, statement)
        for step in operation.steps():
            if isinstance(step, str):
                _execute(operations, step)
            elif policy != "skip":
                _execute(operations, _guarded(step, policy, operation.transaction))


@contextmanager
def _notices_told(operations: Operations) -> Iterator[None]:
    """Log what the server says meanwhile, such as that a table stays local."""
    connection: object = operations.migration_context.connection
    # With `--sql` there is none, or one that only writes.
    driver = connection.connection.driver_connection if isinstance(connection, Connection) else None
    if not isinstance(driver, psycopg.Connection):
        yield
        return
    driver.add_notice_handler(_log_notice)
    try:
        yield
    finally:
        driver.remove_notice_handler(_log_notice)


def _log_notice(notice: Diagnostic) -> None:
    logger().warning("%s", notice.message_primary)


def _execute(operations: Operations, statement: str) -> None:
    # A colon would start a bound parameter, also in the body of a function.
    clause = text(statement.replace(":", "\\:"))
    try:
        operations.migration_context.impl.execute(clause)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != REFUSED:
            raise
        message = error.orig.diag.message_primary  # type: ignore[union-attr]
        raise OperationError(message) from error


def _transaction_check(operation: CitusOperation) -> tuple[str, ...]:
    """Return the statements that refuse an operation where the transaction does not suit it.

    A setting that ends with the transaction is still there for the next statement if, and only
    if, there is a transaction around both.
    """
    what = f"{operation.function}({operation.subject!r})"
    if operation.transaction is Transaction.REQUIRED:
        wrong = f"NOT {_IS_MARKED}"
        message = (
            f"{what} needs a transaction, but this migration runs without one. Take it out of "
            "autocommit_block(), and leave transactional_ddl and the isolation level as they are."
        )
    elif operation.transaction is Transaction.FORBIDDEN:
        wrong = _IS_MARKED
        message = (
            f"{what} commits on its way, so it cannot run inside of a transaction. Put it into "
            "`with op.get_context().autocommit_block():`, which commits what comes before it."
        )
    else:
        return ()
    check = f"IF {wrong} THEN\n{indented(refusal(literal(message)))}\nEND IF;"
    return (do_block(_MARK), do_block(check))


def _guarded(step: Guarded, policy: Policy, transaction: Transaction) -> str:
    setting = f"{sequential()}\n" if transaction is Transaction.SEQUENTIAL else ""
    checks = "".join(_check(extension, step, policy) for extension in step.needs)
    return do_block(f"{checks}{setting}{step.body}", declare=("installed text",))


def _check(extension: Extension, step: Guarded, policy: Policy) -> str:
    """Return the statements that leave a block, or refuse, where an extension does not do."""
    name = _NAMES.get(extension.name, extension.name)
    if policy == "auto":
        message = f"{name} is not installed in this database: {step.otherwise}."
        missing = f"RAISE NOTICE USING MESSAGE = {literal(message)};\nRETURN;"
    else:
        missing = refusal(
            literal(
                f"{name} is required, but it is not installed in this database, so "
                f"{step.otherwise}. Run CREATE EXTENSION {extension.name}, or migrate with the "
                "policy auto."
            )
        )
    needed = ".".join(map(str, extension.since))
    old = literal(f"{step.call} needs {name} {needed}, this server has ")
    return (
        "installed := (SELECT split_part(extversion, '-', 1) FROM pg_catalog.pg_extension "
        f"WHERE extname = {literal(extension.name)});\n"
        f"IF installed IS NULL THEN\n{indented(missing)}\n"
        f"ELSIF string_to_array(installed, '.')::int[] < '{{{needed.replace('.', ',')}}}'::int[]"
        f" THEN\n{indented(refusal(f'{old} || installed'))}\nEND IF;\n"
    )
