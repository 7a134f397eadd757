"""Table distribution and rollup functions as Alembic operations.

Importing this package registers the operations; from then on every migration has them:

    from citus_analytics.operations import op

    def upgrade() -> None:
        op.create_table("clicks", ...)
        op.create_distributed_table("clicks", "user_id")

`op` is `alembic.op` itself under a type that knows the operations. `from alembic import op` has
them too, but not the types.

An operation is data: frozen arguments, and in `reverse()` the operation that undoes it. Its effect
is SQL text that lets the server decide whether Citus is there, so that `--sql` writes what
`upgrade` runs, and nothing here reads the database. What happens on a server without Citus is the
policy of the environment, `context.configure(..., citus="auto")`:

- `auto`: tables stay local, and a notice says so;
- `require`: the migration fails before it changes anything;
- `skip`: nothing is distributed, whether Citus is there or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import alembic.op

from citus_analytics.operations.distribution import (
    CreateDistributedTableOp,
    CreateReferenceTableOp,
    UndistributeTableOp,
)
from citus_analytics.operations.execution import Policy
from citus_analytics.operations.rollup import CreateRollupFunctionOp, DropRollupFunctionOp
from citus_analytics.rollup_sql import RollupSpec

if TYPE_CHECKING:
    from alembic.operations import Operations

    from citus_analytics.distribution import Distributed, Reference

    class CitusOperations(Operations):
        """`alembic.op` with the operations of this package."""

        def create_distributed_table(
            self,
            table_name: str,
            column: str,
            *,
            colocate_with: str | None = None,
            shard_count: int | None = None,
            schema: str | None = None,
        ) -> None: ...

        def create_reference_table(self, table_name: str, *, schema: str | None = None) -> None: ...

        def undistribute_table(
            self,
            table_name: str,
            *,
            was: Distributed | Reference | None = None,
            schema: str | None = None,
        ) -> None: ...

        def create_rollup_function(self, spec: RollupSpec, *, version: int) -> None: ...

        def drop_rollup_function(self, spec: RollupSpec, *, version: int) -> None: ...


__all__ = [
    "CreateDistributedTableOp",
    "CreateReferenceTableOp",
    "CreateRollupFunctionOp",
    "DropRollupFunctionOp",
    "Policy",
    "RollupSpec",
    "UndistributeTableOp",
    "op",
]

op = cast("CitusOperations", alembic.op)
