"""The type of `op`, for type checkers: Alembic's operations, and those of this package."""

# ruff: noqa: D102 - each is documented at its operation

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic.operations import Operations

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from citus_analytics.migrations.operations.jobs import Job
    from citus_analytics.migrations.operations.modes import ModifyMode
    from citus_analytics.rollups.sql import RollupSpec
    from citus_analytics.schema import Distributed, Distribution, DistributionType


class CitusOperations(Operations):
    """`alembic.op` with the operations of this package.

    It has no instances: Alembic puts the operations on `Operations` when they are registered, and
    this says their types.
    """

    def create_distributed_table(
        self,
        table_name: str,
        column: str | None,
        *,
        distribution_type: DistributionType = "hash",
        colocate_with: str | None = None,
        colocate_schema: str | None = None,
        shard_count: int | None = None,
        schema: str | None = None,
    ) -> None: ...

    def create_distributed_table_concurrently(
        self,
        table_name: str,
        column: str,
        *,
        colocate_with: str | None = None,
        colocate_schema: str | None = None,
        shard_count: int | None = None,
        schema: str | None = None,
    ) -> None: ...

    def create_reference_table(self, table_name: str, *, schema: str | None = None) -> None: ...

    def add_local_table_to_metadata(
        self, table_name: str, *, cascade: bool = False, schema: str | None = None
    ) -> None: ...

    def undistribute_table(
        self,
        table_name: str,
        *,
        was: Distribution | None = None,
        cascade: bool = False,
        schema: str | None = None,
    ) -> None: ...

    def alter_distributed_table(
        self,
        table_name: str,
        *,
        column: str | None = None,
        shard_count: int | None = None,
        colocate_with: str | None = None,
        colocate_schema: str | None = None,
        cascade_to_colocated: bool | None = None,
        was: Distributed | None = None,
        schema: str | None = None,
    ) -> None: ...

    def alter_table_set_access_method(
        self,
        table_name: str,
        access_method: str,
        *,
        was: str | None = None,
        schema: str | None = None,
    ) -> None: ...

    def update_distributed_table_colocation(
        self,
        table_name: str,
        colocate_with: str,
        *,
        colocate_schema: str | None = None,
        was: str | None = None,
        was_schema: str | None = None,
        schema: str | None = None,
    ) -> None: ...

    def isolate_tenant_to_new_shard(
        self,
        table_name: str,
        tenant_id: str | int,
        *,
        cascade: bool = False,
        schema: str | None = None,
    ) -> None: ...

    def create_time_partitions(
        self,
        table_name: str,
        partition_interval: timedelta | str,
        end_at: datetime,
        *,
        start_from: datetime | None = None,
        schema: str | None = None,
    ) -> None: ...

    def drop_old_time_partitions(
        self, table_name: str, older_than: datetime, *, schema: str | None = None
    ) -> None: ...

    def create_distributed_function(
        self,
        signature: str,
        *,
        distribution_argument: str | None = None,
        colocate_with: str | None = None,
        colocate_schema: str | None = None,
        force_delegation: bool | None = None,
    ) -> None: ...

    def undistribute_function(
        self,
        signature: str,
        *,
        distribution_argument: str | None = None,
        colocate_with: str | None = None,
        colocate_schema: str | None = None,
        force_delegation: bool | None = None,
    ) -> None: ...

    def distribute_schema(self, schema_name: str) -> None: ...

    def undistribute_schema(self, schema_name: str) -> None: ...

    def set_multi_shard_modify_mode(self, mode: ModifyMode) -> None: ...

    def schedule(self, name: str, schedule: str, command: str) -> None: ...

    def unschedule(self, name: str, *, was: Job | None = None) -> None: ...

    def create_rollup_function(self, spec: RollupSpec, *, version: int) -> None: ...

    def drop_rollup_function(self, spec: RollupSpec, *, version: int) -> None: ...

    def replace_rollup_function(
        self,
        spec: RollupSpec,
        *,
        version: int,
        was_spec: RollupSpec,
        was_version: int,
    ) -> None: ...
