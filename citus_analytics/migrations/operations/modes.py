"""The operation that says how the rest of a transaction reaches the nodes.

Definition: Citus documentation, "Configuration Reference" (`citus.multi_shard_modify_mode`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, get_args

from alembic.operations import Operations

from citus_analytics.errors import OperationError
from citus_analytics.migrations.operations.base import Arguments, CitusOperation, DiscardOp
from citus_analytics.sql import literal, on_citus

if TYPE_CHECKING:
    from citus_analytics.migrations.operations.base import Step

ModifyMode: TypeAlias = Literal["sequential", "parallel"]


@Operations.register_operation("set_multi_shard_modify_mode")
@dataclass(frozen=True, slots=True)
class SetMultiShardModifyModeOp(CitusOperation):
    """Use one connection to each node, or several, until the transaction ends."""

    function: ClassVar = "set_multi_shard_modify_mode"
    # `alembic check` looks into what has operations, and finds nothing that differs.
    ops: ClassVar[tuple[()]] = ()

    mode: ModifyMode

    def __post_init__(self) -> None:
        if self.mode not in get_args(ModifyMode):
            raise OperationError(
                f"set_multi_shard_modify_mode({self.mode!r}) knows "
                f"{' and '.join(get_args(ModifyMode))} only."
            )

    @classmethod
    def set_multi_shard_modify_mode(cls, operations: Operations, mode: ModifyMode) -> None:
        """Use one connection to each node (`sequential`), or several, until the transaction ends.

        Alembic's own operations, such as `op.drop_constraint`, work on the shards of a table in
        parallel, and Citus then refuses others in the same transaction: on foreign keys to
        reference tables, on functions and on triggers. The operations of this package switch by
        themselves; before Alembic's own, this does. Without Citus it does nothing.

        Args:
            operations: Filled in by Alembic.
            mode: `sequential`, or `parallel` for the server's default.

        Raises:
            OperationError: It is another mode.
        """
        operations.invoke(cls(mode))

    @property
    def subject(self) -> str:
        """The mode."""
        return self.mode

    def arguments(self) -> Arguments:
        """Return what the function is called with."""
        return Arguments((self.mode,), {})

    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed."""
        setting = f"'citus.multi_shard_modify_mode', {literal(self.mode)}, true"
        return (on_citus(f"PERFORM set_config({setting});"),)

    def reverse(self) -> DiscardOp:
        """Return what comes last in a migration, so that this comes first in its downgrade."""
        return DiscardOp(self)
