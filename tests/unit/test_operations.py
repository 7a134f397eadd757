"""Operations as data: what undoes them, what they say, and the Python that they are written as."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from alembic.autogenerate import render_python_code
from alembic.autogenerate.api import AutogenContext
from alembic.migration import MigrationContext
from alembic.operations import MigrateOperation, Operations
from alembic.operations.ops import ModifyTableOps, UpgradeOps
from hypothesis import given, settings
from hypothesis import strategies as st

from citus_analytics.distribution import Distributed, Local, Reference
from citus_analytics.errors import OperationError
from citus_analytics.models import GITHUB_ROLLUP_1MIN
from citus_analytics.operations import (
    AddLocalTableToMetadataOp,
    AlterDistributedTableOp,
    AlterTableSetAccessMethodOp,
    CitusOperation,
    CreateDistributedFunctionOp,
    CreateDistributedTableConcurrentlyOp,
    CreateDistributedTableOp,
    CreateReferenceTableOp,
    CreateRollupFunctionOp,
    CreateTimePartitionsOp,
    DiscardDistributionOp,
    DistributeSchemaOp,
    DropOldTimePartitionsOp,
    DropRollupFunctionOp,
    IsolateTenantToNewShardOp,
    Job,
    ReplaceRollupFunctionOp,
    RollupSpec,
    ScheduleOp,
    UndistributeFunctionOp,
    UndistributeSchemaOp,
    UndistributeTableOp,
    UnscheduleOp,
    UpdateDistributedTableColocationOp,
)
from tests.operations import CASES, IRREVERSIBLE

if TYPE_CHECKING:
    from collections.abc import Callable

SPEC = RollupSpec.of(GITHUB_ROLLUP_1MIN)
