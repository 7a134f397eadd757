"""Migrations: Citus's operations for Alembic, their autogeneration, and the environment.

Importing this package registers the operations; from then on every migration has them:

    from citus_analytics.migrations import op

    def upgrade() -> None:
        op.create_table("clicks", ...)
        op.create_distributed_table("clicks", "user_id")

`op` is `alembic.op` itself under a type that knows the operations. `from alembic import op` has
them too, but not the types.

What happens on a server without Citus is the policy of the environment,
`context.configure(..., citus="auto")`:

- `auto`: tables stay local, and a notice says so;
- `require`: the migration fails before it changes anything;
- `skip`: nothing is distributed, whether Citus is there or not.

The same policy is for jobs where pg_cron is missing, and for columnar tables where citus_columnar
is. Each operation also knows what it needs of its transaction, `Transaction`, and refuses to run
where it does not get that.

An `env.py` is one call of `run_environment`; or it says
`context.configure(..., autogenerate_plugins=plugins())`, and `sequential_transactions(connection)`
before it.
"""

from __future__ import annotations

from citus_analytics.migrations import render as _  # noqa: F401 - registers the renderers
from citus_analytics.migrations.blocks import Policy, Transaction
from citus_analytics.migrations.compare import plugins
from citus_analytics.migrations.env import (
    database_url,
    run_environment,
    sequential_transactions,
)
from citus_analytics.migrations.ops import (
    AddLocalTableToMetadataOp,
    AlterDistributedTableOp,
    AlterTableSetAccessMethodOp,
    CitusOperation,
    CitusOperations,
    CreateDistributedFunctionOp,
    CreateDistributedTableConcurrentlyOp,
    CreateDistributedTableOp,
    CreateReferenceTableOp,
    CreateRollupsOp,
    CreateTimePartitionsOp,
    DistributeSchemaOp,
    DropOldTimePartitionsOp,
    DropRollupsOp,
    IsolateTenantToNewShardOp,
    Job,
    ScheduleOp,
    SetMultiShardModifyModeOp,
    UndistributeFunctionOp,
    UndistributeSchemaOp,
    UndistributeTableOp,
    UnscheduleOp,
    UpdateDistributedTableColocationOp,
    op,
)
from citus_analytics.rollups.sql import RollupSpec, TargetSpec

__all__ = [
    "AddLocalTableToMetadataOp",
    "AlterDistributedTableOp",
    "AlterTableSetAccessMethodOp",
    "CitusOperation",
    "CitusOperations",
    "CreateDistributedFunctionOp",
    "CreateDistributedTableConcurrentlyOp",
    "CreateDistributedTableOp",
    "CreateReferenceTableOp",
    "CreateRollupsOp",
    "CreateTimePartitionsOp",
    "DistributeSchemaOp",
    "DropOldTimePartitionsOp",
    "DropRollupsOp",
    "IsolateTenantToNewShardOp",
    "Job",
    "Policy",
    "RollupSpec",
    "ScheduleOp",
    "SetMultiShardModifyModeOp",
    "TargetSpec",
    "Transaction",
    "UndistributeFunctionOp",
    "UndistributeSchemaOp",
    "UndistributeTableOp",
    "UnscheduleOp",
    "UpdateDistributedTableColocationOp",
    "database_url",
    "op",
    "plugins",
    "run_environment",
    "sequential_transactions",
]
