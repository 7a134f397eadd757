"""Operations as data: what undoes them, what they say, and the Python that they are written as."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import alembic.op
import pytest
from alembic.autogenerate import render_op_text, render_python_code
from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.rewriter import Rewriter
from alembic.migration import MigrationContext
from alembic.operations import MigrateOperation, Operations
from alembic.operations.ops import DowngradeOps, MigrationScript, UpgradeOps
from hypothesis import given, settings
from hypothesis import strategies as st

from citus_analytics import migrations as ours
from citus_analytics.errors import OperationError
from citus_analytics.github.models import GITHUB_ROLLUP_1MIN
from citus_analytics.migrations import CitusOperation, Job, RollupSpec, TargetSpec
from citus_analytics.schema import Distributed, Local, Reference
from tests.operations import CASES, IRREVERSIBLE, values

SPEC = replace(
    GITHUB_ROLLUP_1MIN.spec(), columns={"event_type": "r.event_type", "repo_id": "r.repo_id"}
)
BY_ID = Distributed(column="id", shard_count=4)

# An identifier may be anything but NUL; the fragments are what text can be torn apart by.
FRAGMENTS = ['"', "'", '"""', "\\", "%", "%(x)s", ":b", "{x}", "(", "#", ": #", "\n", "\r", "a"]
FRAGMENTS += ["\u2028", "B", "é", " ", "$citus$", "none", "default"]
CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
NAMES = (
    st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=5).map("".join)
    # Of four bytes each, as many as the name of a source may have.
    | st.text(CHARACTERS, min_size=1, max_size=11)
    # A few names with an underscore in front are refused for tables of rollups.
).filter(lambda name: not name.startswith("_"))
MAYBE = st.none() | NAMES
COUNTS = st.integers(1, 99)
BOOLEANS = st.booleans()
MOMENTS = st.datetimes(
    min_value=datetime(1970, 1, 2),  # noqa: DTZ001 - the strategy adds the time zone
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
)
WIDTHS = st.timedeltas(timedelta(microseconds=1), timedelta(days=9999)) | NAMES

BY_HASH = st.one_of(
    st.builds(Distributed, column=NAMES, shard_count=st.none() | COUNTS),
    st.builds(Distributed, column=NAMES, colocate_with=NAMES, colocate_schema=MAYBE),
)
DISTRIBUTED = st.one_of(
    BY_HASH,
    st.builds(Distributed, column=st.none()),
)
WAS = DISTRIBUTED | st.just(Reference()) | st.just(Local()) | st.none()
NAMED = st.dictionaries(NAMES, NAMES, max_size=2)
TARGETS = st.builds(
    TargetSpec,
    rollup=NAMES,
    table=NAMES,
    every=st.none() | st.just("1 day at Europe/Berlin"),
    bucket=MAYBE,
    by=NAMED,
    rows=NAMES,
    sums=NAMED,
    extremes=st.dictionaries(NAMES, st.tuples(st.sampled_from(["min", "max"]), NAMES), max_size=2),
    visible=NAMED,
    where=MAYBE,
    undated=BOOLEANS,
    keyed=BOOLEANS,
)
SPECS = st.builds(
    RollupSpec,
    source=NAMES,
    schema=MAYBE,
    key=MAYBE,
    time=MAYBE,
    columns=NAMED,
    targets=st.lists(TARGETS, min_size=1, max_size=2).map(tuple),
    functions=st.lists(NAMES, max_size=2).map(tuple),
    states=NAMED,
)
FUNCTION: dict[str, st.SearchStrategy[Any]] = {
    "distribution_argument": MAYBE,
    "colocate_with": MAYBE,
    "colocate_schema": MAYBE,
    "force_delegation": st.none() | BOOLEANS,
}
OF_EACH_KIND: dict[type[CitusOperation], st.SearchStrategy[CitusOperation]] = {
    ours.CreateDistributedTableOp: st.builds(
        ours.CreateDistributedTableOp.of, NAMES, DISTRIBUTED, MAYBE, new=BOOLEANS
    ),
    ours.CreateDistributedTableConcurrentlyOp: st.builds(
        ours.CreateDistributedTableConcurrentlyOp,
        NAMES,
        NAMES,
        colocate_with=MAYBE,
        colocate_schema=MAYBE,
        shard_count=st.none() | COUNTS,
        schema=MAYBE,
    ),
    ours.CreateReferenceTableOp: st.builds(
        ours.CreateReferenceTableOp, NAMES, schema=MAYBE, new=BOOLEANS
    ),
    ours.AddLocalTableToMetadataOp: st.builds(
        ours.AddLocalTableToMetadataOp, NAMES, schema=MAYBE, cascade=BOOLEANS
    ),
    ours.UndistributeTableOp: st.builds(
        ours.UndistributeTableOp, NAMES, was=WAS, schema=MAYBE, cascade=BOOLEANS
    ),
    ours.AlterDistributedTableOp: st.builds(
        ours.AlterDistributedTableOp,
        NAMES,
        column=MAYBE,
        shard_count=st.none() | COUNTS,
        colocate_with=MAYBE,
        colocate_schema=MAYBE,
        cascade_to_colocated=st.none() | BOOLEANS,
        was=st.none() | DISTRIBUTED,
        schema=MAYBE,
    ),
    ours.AlterTableSetAccessMethodOp: st.builds(
        ours.AlterTableSetAccessMethodOp, NAMES, NAMES, was=MAYBE, schema=MAYBE
    ),
    ours.UpdateDistributedTableColocationOp: st.builds(
        ours.UpdateDistributedTableColocationOp,
        NAMES,
        NAMES,
        colocate_schema=MAYBE,
        was=MAYBE,
        was_schema=MAYBE,
        schema=MAYBE,
    ),
    ours.IsolateTenantToNewShardOp: st.builds(
        ours.IsolateTenantToNewShardOp,
        NAMES,
        NAMES | st.integers(),
        cascade=BOOLEANS,
        schema=MAYBE,
    ),
    ours.CreateTimePartitionsOp: st.builds(
        ours.CreateTimePartitionsOp, NAMES, WIDTHS, MOMENTS, schema=MAYBE
    ),
    ours.DropOldTimePartitionsOp: st.builds(
        ours.DropOldTimePartitionsOp, NAMES, MOMENTS, schema=MAYBE
    ),
    ours.CreateDistributedFunctionOp: st.builds(
        ours.CreateDistributedFunctionOp, NAMES, **FUNCTION
    ),
    ours.UndistributeFunctionOp: st.builds(ours.UndistributeFunctionOp, NAMES, **FUNCTION),
    ours.DistributeSchemaOp: st.builds(ours.DistributeSchemaOp, NAMES),
    ours.UndistributeSchemaOp: st.builds(ours.UndistributeSchemaOp, NAMES),
    ours.SetMultiShardModifyModeOp: st.builds(
        ours.SetMultiShardModifyModeOp, st.sampled_from(["sequential", "parallel"])
    ),
    ours.ScheduleOp: st.builds(ours.ScheduleOp, NAMES, NAMES, NAMES),
    ours.UnscheduleOp: st.builds(
        ours.UnscheduleOp, NAMES, was=st.none() | st.builds(Job, NAMES, NAMES)
    ),
    ours.CreateRollupsOp: st.builds(ours.CreateRollupsOp, SPECS),
    ours.DropRollupsOp: st.builds(
        ours.DropRollupsOp,
        SPECS,
        keep_state=BOOLEANS,
        clear=st.lists(NAMES, max_size=2).map(tuple),
    ),
}
OPERATIONS = st.one_of(list(OF_EACH_KIND.values()))
KINDS = {kind for kind in vars(ours).values() if isinstance(kind, type)}
KINDS = {kind for kind in KINDS if issubclass(kind, CitusOperation)} - {CitusOperation}


class Recorder(Operations):
    """An `op` that notes what it is told to do."""

    def __init__(self) -> None:
        opts = {"as_sql": True, "output_buffer": io.StringIO()}
        super().__init__(MigrationContext.configure(dialect_name="postgresql", opts=opts))
        self.seen: list[MigrateOperation] = []

    def invoke(self, operation: MigrateOperation) -> Any:
        """Note an operation."""
        self.seen.append(operation)


def written(*operations: CitusOperation) -> str:
    """Return the migration that autogenerate writes: its imports, and an `upgrade`."""
    context = MigrationContext.configure(dialect_name="postgresql")
    noting = AutogenContext(context, autogenerate=False)
    noting.imports = set()
    for operation in operations:
        render_op_text(noting, operation)
    body = render_python_code(UpgradeOps(list(operations)), migration_context=context)
    return "\n".join([*sorted(noting.imports), "", "", "def upgrade() -> None:", f"    {body}", ""])


@settings(deadline=None)
@given(st.lists(OPERATIONS, min_size=1, max_size=3))
def test_what_is_written_is_what_is_read(operations: list[CitusOperation]) -> None:
    recorder = Recorder()
    migration: dict[str, Any] = {"op": recorder}
    exec(compile(written(*operations), "migration.py", "exec"), migration)
    migration["upgrade"]()
    assert list(map(values, recorder.seen)) == list(map(values, operations))


@settings(deadline=None)
@given(OPERATIONS)
def test_an_operation_has_its_name_and_its_subject_first_in_a_check(
    operation: CitusOperation,
) -> None:
    function, subject, *_ = operation.to_diff_tuple()
    assert hasattr(ours.op, function)
    assert subject == operation.subject


@pytest.mark.parametrize("kind", sorted(KINDS, key=str))
def test_op_has_every_operation_with_its_types(kind: type[CitusOperation]) -> None:
    assert hasattr(alembic.op, kind.function)
    assert kind.function in vars(ours.CitusOperations)


@pytest.mark.parametrize("kind", sorted(KINDS, key=str))
@settings(deadline=None, max_examples=5)
@given(data=st.data())
def test_a_rewriter_may_look_at_every_operation_and_change_it(
    kind: type[CitusOperation], data: st.DataObject
) -> None:
    operation = data.draw(OF_EACH_KIND[kind])
    writer = Rewriter()

    @writer.rewrites(kind)
    def leave(context: object, revision: object, found: Any) -> Any:
        found.seen = True
        return found

    script = MigrationScript("1", UpgradeOps([operation]), DowngradeOps([]))
    writer(MigrationContext.configure(dialect_name="postgresql"), "1", [script])
    assert script.upgrade_ops is not None
    (rewritten,) = script.upgrade_ops.ops
    assert rewritten is operation
    assert rewritten.seen  # type: ignore[attr-defined]


def test_a_rewriter_may_set_the_number_of_shards() -> None:
    operation = ours.CreateDistributedTableOp("clicks", "user_id")
    operation.shard_count = 64
    assert "op.create_distributed_table('clicks', 'user_id', shard_count=64)" in written(operation)


def test_op_is_alembics() -> None:
    """A migration may say `from alembic import op` as well."""
    op: object = ours.op
    assert alembic.op is op


def test_it_is_written_readably() -> None:
    code = written(
        ours.CreateDistributedTableOp("clicks", "id", colocate_with="users"),
        ours.CreateDistributedTableConcurrentlyOp("views", "id", shard_count=4, schema="shop"),
        ours.UndistributeTableOp("users", was=BY_ID),
        ours.CreateTimePartitionsOp("days", timedelta(hours=36), datetime(2026, 1, 1, tzinfo=UTC)),
        ours.DropRollupsOp(SPEC),
    )
    assert code == WRITTEN


WRITTEN = """\
from citus_analytics.migrations import RollupSpec
from citus_analytics.migrations import TargetSpec
from citus_analytics.schema import Distributed
from datetime import UTC, datetime
from datetime import timedelta


def upgrade() -> None:
    # ### commands auto generated by Alembic - please adjust! ###
    op.create_distributed_table('clicks', 'id', colocate_with='users')
    with op.get_context().autocommit_block():
        op.create_distributed_table_concurrently('views', 'id', shard_count=4, schema='shop')

    op.undistribute_table('users', was=Distributed('id', shard_count=4))
    op.create_time_partitions('days', timedelta(hours=36), datetime(2026, 1, 1, 0, 0, tzinfo=UTC))
    op.drop_rollups(
        RollupSpec(
            source='github_events',
            key='user_id',
            time='created_at',
            columns={'event_type': 'r.event_type', 'repo_id': 'r.repo_id'},
            targets=(
                TargetSpec(
                    rollup='github_rollup_1min',
                    table='github_rollup_1min',
                    every='1 minute',
                    bucket='ingest_time',
                    by={'event_type': 'event_type', 'repo_id': 'repo_id', 'user_id': 'key'},
                    rows='total_events',
                    visible={'total_events': '"total_events"::bigint'},
                ),
            ),
            functions=('rollup_http_request',),
            states={'latest_rollup': 'minute'},
        ),
    )
    # ### end Alembic commands ###
"""


@pytest.mark.parametrize("name", sorted(set(CASES) - IRREVERSIBLE))
def test_the_reverse_of_the_reverse(name: str) -> None:
    operation = CASES[name].operation
    expected: MigrateOperation = operation
    if isinstance(operation, ours.CreateDistributedTableConcurrentlyOp):
        expected = ours.CreateDistributedTableOp.of(
            operation.table_name, operation.distribution, operation.schema
        )
    assert values(operation.reverse().reverse()) == values(expected)


@pytest.mark.parametrize(
    "operation",
    [
        ours.CreateDistributedTableOp("t", "id", schema="s", new=True),
        ours.CreateReferenceTableOp("t", schema="s", new=True),
        ours.AlterTableSetAccessMethodOp("t", "columnar", schema="s", new=True),
        ours.SetMultiShardModifyModeOp("sequential"),
    ],
)
def test_what_the_drop_of_a_table_undoes_is_not_written_and_comes_back(
    operation: CitusOperation,
) -> None:
    reverse = operation.reverse()
    assert isinstance(reverse, CitusOperation)
    assert "pass" in written(reverse)
    recorder = Recorder()
    Operations(recorder.migration_context).invoke(reverse)
    buffer = recorder.migration_context.output_buffer
    assert isinstance(buffer, io.StringIO)
    assert buffer.getvalue() == ""
    back = reverse.reverse()
    assert values(back) == values(operation)


def test_what_alembic_check_prints() -> None:
    created = ours.CreateDistributedTableOp("clicks", "id", shard_count=4, schema="shop")
    assert created.to_diff_tuple() == (
        "create_distributed_table",
        "shop.clicks",
        "id",
        "shard_count=4",
    )
    altered = ours.AlterDistributedTableOp("clicks", shard_count=6, was=BY_ID)
    assert altered.to_diff_tuple() == (
        "alter_distributed_table",
        "clicks",
        "shard_count=6",
        "was=Distributed('id', shard_count=4)",
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard_count": 6}, r"was=Distributed\(\.\.\.\)"),
        ({"shard_count": 6, "was": Distributed(column="id")}, r"was=Distributed\(.*shard_count="),
        ({"colocate_with": "u", "was": Distributed(column="id")}, "shard_count="),
        ({"column": "id", "was": Distributed(column=None)}, r"was=Distributed\(\.\.\.\)"),
    ],
)
def test_a_change_that_does_not_say_what_it_changes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OperationError, match=rf"\('s\.t'\) cannot be reversed: .*{message}"):
        ours.AlterDistributedTableOp("t", **change, schema="s").reverse()


def test_what_else_cannot_be_reversed() -> None:
    for operation in (
        ours.UndistributeTableOp("t"),
        ours.UndistributeTableOp("t", was=BY_ID, cascade=True),
        ours.AlterTableSetAccessMethodOp("t", "columnar"),
        ours.UpdateDistributedTableColocationOp("t", "u"),
    ):
        with pytest.raises(OperationError, match="cannot be reversed: it does not say"):
            operation.reverse()


def test_a_single_shard_is_not_distributed_under_writers() -> None:
    operation = ours.CreateDistributedTableConcurrentlyOp("t", None)
    with pytest.raises(OperationError, match="needs a distribution column"):
        operation.steps()
