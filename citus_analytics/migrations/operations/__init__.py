"""Distribution, partitions, jobs and rollup functions as Alembic operations.

Importing this package registers the operations; from then on every migration has them:

    from citus_analytics.migrations.operations import op

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

The same policy is for jobs where pg_cron is missing, and for columnar tables where citus_columnar
is. Each operation also knows what it needs of its transaction, `Transaction`, and refuses to run
where it does not get that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import alembic.op

from citus_analytics.migrations.operations import render as _  # noqa: F401 - registers the renderers
from citus_analytics.migrations.operations.alteration import AlterDistributedTableOp
from citus_analytics.migrations.operations.base import CitusOperation, DiscardOp, Transaction
from citus_analytics.migrations.operations.concurrently import CreateDistributedTableConcurrentlyOp
from citus_analytics.migrations.operations.distribution import (
    AddLocalTableToMetadataOp,
    CreateDistributedTableOp,
    CreateReferenceTableOp,
    UndistributeTableOp,
)
from citus_analytics.migrations.operations.execution import Policy
from citus_analytics.migrations.operations.functions import (
    CreateDistributedFunctionOp,
    UndistributeFunctionOp,
)
from citus_analytics.migrations.operations.jobs import Job, ScheduleOp, UnscheduleOp
from citus_analytics.migrations.operations.modes import SetMultiShardModifyModeOp
from citus_analytics.migrations.operations.partitions import (
    CreateTimePartitionsOp,
    DropOldTimePartitionsOp,
)
from citus_analytics.migrations.operations.rollup import (
    CreateRollupFunctionOp,
    DropRollupFunctionOp,
    ReplaceRollupFunctionOp,
)
from citus_analytics.migrations.operations.schemas import DistributeSchemaOp, UndistributeSchemaOp
from citus_analytics.migrations.operations.storage import (
    AlterTableSetAccessMethodOp,
    IsolateTenantToNewShardOp,
    UpdateDistributedTableColocationOp,
)
from citus_analytics.rollups.sql import RollupSpec

if TYPE_CHECKING:
    from citus_analytics.migrations.operations.typed import CitusOperations

__all__ = [
    "AddLocalTableToMetadataOp",
    "AlterDistributedTableOp",
    "AlterTableSetAccessMethodOp",
    "CitusOperation",
    "CreateDistributedFunctionOp",
    "CreateDistributedTableConcurrentlyOp",
    "CreateDistributedTableOp",
    "CreateReferenceTableOp",
    "CreateRollupFunctionOp",
    "CreateTimePartitionsOp",
    "DiscardOp",
    "DistributeSchemaOp",
    "DropOldTimePartitionsOp",
    "DropRollupFunctionOp",
    "IsolateTenantToNewShardOp",
    "Job",
    "Policy",
    "ReplaceRollupFunctionOp",
    "RollupSpec",
    "ScheduleOp",
    "SetMultiShardModifyModeOp",
    "Transaction",
    "UndistributeFunctionOp",
    "UndistributeSchemaOp",
    "UndistributeTableOp",
    "UnscheduleOp",
    "UpdateDistributedTableColocationOp",
    "op",
]

op = cast("CitusOperations", alembic.op)
