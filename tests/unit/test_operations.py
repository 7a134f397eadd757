"""Operations as data: what undoes them, what they say, and the Python that they are written as."""

from __future__ import annotations

import io
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import alembic.op
import pytest
from alembic.autogenerate import render_op_text, render_python_code
from alembic.autogenerate.api import AutogenContext
from alembic.migration import MigrationContext
from alembic.operations import MigrateOperation, Operations
from alembic.operations.ops import UpgradeOps
from hypothesis import given, settings
from hypothesis import strategies as st

from citus_analytics.errors import OperationError
from citus_analytics.github.models import GITHUB_ROLLUP_1MIN
from citus_analytics.migrations import CitusOperation, Job, RollupSpec
from citus_analytics.migrations import operations as ours
from citus_analytics.schema import Distributed, Local, Reference
from tests.operations import CASES, IRREVERSIBLE

SPEC = RollupSpec.of(GITHUB_ROLLUP_1MIN)
BY_ID = Distributed(column="id", shard_count=4)

# An identifier may be anything but NUL; the fragments are what text can be torn apart by.
FRAGMENTS = ['"', "'", '"""', "\\", "%", "%(x)s", ":b", "{x}", "(", "#", ": #", "\n", "\r", "a"]
FRAGMENTS += ["\u2028", "B", "é", " ", "$citus$", "none", "default"]
CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
NAMES = st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=5).map("".join) | st.text(
    CHARACTERS, min_size=1, max_size=20
)
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
    st.builds(Distributed, column=NAMES, distribution_type=st.sampled_from(["append", "range"])),
)
WAS = DISTRIBUTED | st.just(Reference()) | st.just(Local()) | st.none()
SPECS = st.builds(
    replace,
    st.just(SPEC),
    function=NAMES,
    time_column=NAMES,
    bucket=st.timedeltas(timedelta(microseconds=1), timedelta(days=9)),
    dimensions=st.lists(NAMES, max_size=3).map(tuple),
    measures=st.dictionaries(NAMES, NAMES.map("sum({})".format), min_size=1, max_size=2),
)
FUNCTION = (NAMES, MAYBE, MAYBE, MAYBE, st.none() | BOOLEANS)
VERSIONS = st.integers(1, 9)
OPERATIONS: st.SearchStrategy[CitusOperation] = st.one_of(
    st.builds(ours.CreateDistributedTableOp, NAMES, DISTRIBUTED, MAYBE, BOOLEANS),
    st.builds(ours.CreateDistributedTableConcurrentlyOp, NAMES, BY_HASH, MAYBE),
    st.builds(ours.CreateReferenceTableOp, NAMES, MAYBE, BOOLEANS),
    st.builds(ours.AddLocalTableToMetadataOp, NAMES, MAYBE, BOOLEANS),
    st.builds(ours.UndistributeTableOp, NAMES, WAS, MAYBE, BOOLEANS),
    st.builds(
        ours.AlterDistributedTableOp,
        NAMES,
        MAYBE,
        st.none() | COUNTS,
        MAYBE,
        MAYBE,
        st.none() | BOOLEANS,
        st.none() | DISTRIBUTED,
        MAYBE,
    ),
    st.builds(ours.AlterTableSetAccessMethodOp, NAMES, NAMES, MAYBE, MAYBE),
    st.builds(ours.UpdateDistributedTableColocationOp, NAMES, NAMES, MAYBE, MAYBE, MAYBE, MAYBE),
    st.builds(ours.IsolateTenantToNewShardOp, NAMES, NAMES | st.integers(), BOOLEANS, MAYBE),
    st.builds(ours.CreateTimePartitionsOp, NAMES, WIDTHS, MOMENTS, st.just(None), MAYBE),
    st.builds(ours.DropOldTimePartitionsOp, NAMES, MOMENTS, MAYBE),
    st.builds(ours.CreateDistributedFunctionOp, *FUNCTION),
    st.builds(ours.UndistributeFunctionOp, *FUNCTION),
    st.builds(ours.DistributeSchemaOp, NAMES),
    st.builds(ours.UndistributeSchemaOp, NAMES),
    st.builds(ours.ScheduleOp, NAMES, NAMES, NAMES),
    st.builds(ours.UnscheduleOp, NAMES, st.none() | st.builds(Job, NAMES, NAMES)),
    st.builds(ours.CreateRollupFunctionOp, SPECS, VERSIONS),
    st.builds(ours.DropRollupFunctionOp, SPECS, VERSIONS),
    st.builds(ours.ReplaceRollupFunctionOp, SPECS, VERSIONS, SPECS, VERSIONS),
)


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
    assert recorder.seen == operations


@settings(deadline=None)
@given(OPERATIONS)
def test_an_operation_has_its_name_and_its_subject_first_in_a_check(
    operation: CitusOperation,
) -> None:
    function, subject, *_ = operation.to_diff_tuple()
    assert hasattr(ours.op, function)
    assert subject == operation.subject


def test_every_operation_is_written_and_read() -> None:
    known = {value for value in vars(ours).values() if isinstance(value, type)}
    concrete = {kind for kind in known if issubclass(kind, CitusOperation)} - {CitusOperation}
    built = {type(case.operation) for case in CASES.values()}
    built |= {ours.ScheduleOp, ours.UnscheduleOp}
    built |= {ours.CreateRollupFunctionOp, ours.DropRollupFunctionOp, ours.ReplaceRollupFunctionOp}
    assert concrete - built == {ours.DiscardOp, ours.SetMultiShardModifyModeOp}


def test_op_is_alembics() -> None:
    """A migration may say `from alembic import op` as well."""
    op: object = ours.op
    assert alembic.op is op


def test_it_is_written_readably() -> None:
    code = written(
        ours.CreateDistributedTableOp("clicks", Distributed(column="id", colocate_with="users")),
        ours.CreateDistributedTableConcurrentlyOp("views", BY_ID, "shop"),
        ours.UndistributeTableOp("users", BY_ID),
        ours.CreateTimePartitionsOp("days", timedelta(hours=36), datetime(2026, 1, 1, tzinfo=UTC)),
        ours.DropRollupFunctionOp(SPEC, 1),
    )
    assert code == WRITTEN


WRITTEN = """\
from citus_analytics.schema import Distributed
from citus_analytics.migrations import RollupSpec
from datetime import UTC, datetime
from datetime import timedelta


def upgrade() -> None:
    # ### commands auto generated by Alembic - please adjust! ###
    op.create_distributed_table('clicks', 'id', colocate_with='users')
    with op.get_context().autocommit_block():
        op.create_distributed_table_concurrently('views', 'id', shard_count=4, schema='shop')

    op.undistribute_table('users', was=Distributed(column='id', shard_count=4))
    op.create_time_partitions('days', timedelta(hours=36), datetime(2026, 1, 1, 0, 0, tzinfo=UTC))
    op.drop_rollup_function(
        RollupSpec(
            function='rollup_http_request',
            source='github_events',
            target='github_rollup_1min',
            state='latest_rollup',
            state_column='minute',
            key='user_id',
            key_type='BIGINT',
            time_column='created_at',
            bucket=timedelta(minutes=1),
            bucket_column='ingest_time',
            dimensions=('event_type', 'repo_id', 'user_id'),
            measures={'total_events': 'count(*)'},
        ),
        version=1,
    )
    # ### end Alembic commands ###
"""


@pytest.mark.parametrize("name", sorted(set(CASES) - IRREVERSIBLE))
def test_the_reverse_of_the_reverse(name: str) -> None:
    operation = CASES[name].operation
    expected: object = operation
    if isinstance(operation, ours.CreateDistributedTableConcurrentlyOp):
        expected = ours.CreateDistributedTableOp(
            operation.table_name, operation.distribution, operation.schema
        )
    assert operation.reverse().reverse() == expected


@pytest.mark.parametrize(
    "operation",
    [
        ours.CreateDistributedTableOp("t", BY_ID, "s", new=True),
        ours.CreateReferenceTableOp("t", "s", new=True),
    ],
)
def test_a_table_that_the_same_migration_creates(
    operation: ours.CreateDistributedTableOp | ours.CreateReferenceTableOp,
) -> None:
    discard = operation.reverse()
    assert isinstance(discard, ours.DiscardOp)
    assert discard.reverse() is operation
    assert operation == replace(operation, new=False)
    assert "pass" in written(discard)
    recorder = Recorder()
    Operations(recorder.migration_context).invoke(discard)
    buffer = recorder.migration_context.output_buffer
    assert isinstance(buffer, io.StringIO)
    assert buffer.getvalue() == ""


def test_what_alembic_check_prints() -> None:
    created = ours.CreateDistributedTableOp("clicks", BY_ID, "shop")
    assert created.to_diff_tuple() == ("create_distributed_table", "shop.clicks", BY_ID)
    altered = ours.AlterDistributedTableOp("clicks", shard_count=6, was=BY_ID)
    expected = ("alter_distributed_table", "clicks", "shard_count=6", BY_ID)
    assert altered.to_diff_tuple() == expected
    discarded = ours.DiscardOp(created)
    assert discarded.to_diff_tuple() == ("discard", "shop.clicks", "create_distributed_table")


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
        ours.UndistributeTableOp("t", BY_ID, None, cascade=True),
        ours.AlterTableSetAccessMethodOp("t", "columnar"),
        ours.UpdateDistributedTableColocationOp("t", "u"),
    ):
        with pytest.raises(OperationError, match="cannot be reversed: it does not say"):
            operation.reverse()


@pytest.mark.parametrize(
    "distribution", [Distributed(column=None), Distributed(column="c", distribution_type="range")]
)
def test_what_cannot_be_distributed_under_writers(distribution: Distributed) -> None:
    with pytest.raises(OperationError, match=r"needs a distribution column and its hash, got Dist"):
        ours.CreateDistributedTableConcurrentlyOp("t", distribution)


def test_operations_are_frozen() -> None:
    operation = ours.CreateReferenceTableOp("t")
    with pytest.raises(FrozenInstanceError):
        operation.table_name = "u"  # type: ignore[misc]
    assert hash(operation) == hash(ours.CreateReferenceTableOp("t"))
