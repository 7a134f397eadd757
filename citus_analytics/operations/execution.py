"""How an operation's SQL reaches the server, or the script of `--sql`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from citus_analytics.errors import OperationError
from citus_analytics.sql import literal, on_citus, sequential

if TYPE_CHECKING:
    from alembic.operations import Operations

Policy: TypeAlias = Literal["auto", "require", "skip"]

# An SQLSTATE of our own, so that the refusal is told apart from every error of the server's.
_REFUSED = "CA001"


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


def execute(operations: Operations, statement: str) -> None:
    """Run one statement, or write it to the script.

    Raises:
        OperationError: The statement found no Citus where the policy requires it.
    """
    # A colon would start a bound parameter, also in the body of a function.
    clause = text(statement.replace(":", "\\:"))
    try:
        operations.migration_context.impl.execute(clause)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _REFUSED:
            raise
        message = error.orig.diag.message_primary  # type: ignore[union-attr]
        raise OperationError(message) from error


def execute_on_citus(operations: Operations, body: str, *, what: str) -> None:
    """Run PL/pgSQL where Citus is installed; elsewhere do as the policy says.

    `what` says what is not done where Citus is missing, such as "table clicks stays local".
    """
    policy = policy_of(operations)
    if policy == "skip":
        return
    if policy == "auto":
        message = literal(f"Citus is not installed in this database: {what}.")
        otherwise = f"RAISE NOTICE USING MESSAGE = {message};"
    else:
        message = literal(
            f"Citus is required, but it is not installed in this database, so {what}. Run CREATE "
            "EXTENSION citus, or migrate with the policy auto."
        )
        otherwise = f"RAISE EXCEPTION USING MESSAGE = {message}, ERRCODE = '{_REFUSED}';"
    execute(operations, on_citus(f"{sequential()}\n{body}", otherwise=otherwise))


def require_transaction(operations: Operations, what: str) -> None:
    """Refuse an operation of several statements where they cannot be all or nothing.

    Raises:
        OperationError: The migration runs outside of a transaction.
    """
    context = operations.migration_context
    if context.as_sql:
        atomic = bool(context.impl.transactional_ddl)
    else:
        assert context.connection is not None  # noqa: S101 - only `--sql` has none
        driver = context.connection.connection.driver_connection
        atomic = not getattr(driver, "autocommit", False)
    if not atomic:
        raise OperationError(
            f"{what} needs a transaction, but this migration runs without one. Take it out of "
            "autocommit_block(), and leave transactional_ddl and the isolation level as they are."
        )
