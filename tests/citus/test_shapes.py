"""What `explain_shape` says of statements, and that it is what Citus does."""

from __future__ import annotations

import asyncio
import json
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import psycopg
import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Engine,
    MetaData,
    NullPool,
    Table,
    Text,
    bindparam,
    create_engine,
    delete,
    event,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    ORMExecuteState,
    Session,
    mapped_column,
    sessionmaker,
    with_loader_criteria,
)

from citus_analytics import (
    ArgumentError,
    Distributed,
    Rollup,
    average,
    count,
    distinct,
    explain_shape,
    maximum,
    minimum,
    percentiles,
    run_rollup,
)
from citus_analytics.__main__ import main
from citus_analytics.rollups.declare import specs_of
from citus_analytics.testing import assert_exact, assert_pushdown, assert_router
from tests.rollup_lab import build
from tests.servers import ON_CITUS_ONLY, ON_EVERY_SERVER, ON_POSTGRESQL_ONLY, SHARD_COUNT, execute

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

    from citus_analytics import ShapeKind
    from tests.servers import DatabaseServer, Prepared


class Base(DeclarativeBase):
    type_annotation_map: ClassVar = {int: BigInteger, str: Text}


class Order(Base):
    __tablename__ = "orders"

    tenant_id: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True)
    product_id: Mapped[int]
    amount: Mapped[int]


class Item(Base):
    __tablename__ = "items"

    tenant_id: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int]


class Product(Base):
    __tablename__ = "Products of ours"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Note(Base):
    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)


elsewhere = Table("visits", MetaData(), Column("id", BigInteger), Column("of", BigInteger))
setting = Table("settings", MetaData(), Column("id", BigInteger), Column("value", Text))


@pytest.fixture
def engine(server: DatabaseServer, prepared: Prepared) -> Engine:
    def prepare(engine: Engine) -> None:
        Base.metadata.create_all(engine)
        for table in (elsewhere, setting):
            table.create(engine)
        if server.kind == "citus":
            execute(
                engine.url,
                "SELECT create_distributed_table('orders', 'tenant_id')",
                "SELECT create_distributed_table('items', 'tenant_id', colocate_with => 'orders')",
                "SELECT create_reference_table('\"Products of ours\"')",
                "SELECT create_distributed_table('visits', 'id', colocate_with => 'none')",
                "SELECT create_distributed_table('settings', NULL)",
            )

    return prepared("shapes", prepare)


JOINED = select(Order.amount, Item.id).join(Item, Item.tenant_id == Order.tenant_id)

CASES: dict[str, tuple[Any, ShapeKind]] = {
    "one tenant": (select(Order).where(Order.tenant_id == 7), "router"),
    "one tenant, joined": (JOINED.where(Order.tenant_id == 7), "router"),
    "no row": (select(Order).where(Order.tenant_id == 1, Order.tenant_id == 2), "router"),
    "a table of one shard": (select(setting), "router"),
    "one row": (insert(Order).values(tenant_id=1, id=1, product_id=1, amount=1), "router"),
    "a class": (Order, "pushdown"),
    "a table": (Order.__table__, "pushdown"),
    "a total": (select(func.sum(Order.amount)), "pushdown"),
    "groups": (select(Order.amount, func.count()).group_by(Order.amount), "pushdown"),
    "colocated": (JOINED, "pushdown"),
    "with a reference table": (
        select(Order.id).join(Product, Product.id == Order.product_id),
        "pushdown",
    ),
    "distinct values": (select(func.count(Order.amount.distinct())), "pushdown"),
    "the greatest": (select(Order).order_by(Order.amount).limit(3), "pushdown"),
    "a rank within shards": (
        select(func.rank().over(partition_by=Order.tenant_id, order_by=Order.amount)),
        "pushdown",
    ),
    "a rank of groups": (
        select(Order.amount, func.rank().over(order_by=func.count())).group_by(Order.amount),
        "pushdown",
    ),
    "an update": (update(Order).values(amount=1), "pushdown"),
    "a delete": (delete(Order).where(Order.amount == 1), "pushdown"),
    "some rows": (
        insert(Order).values(
            [{"tenant_id": n, "id": 1, "product_id": 1, "amount": 1} for n in range(20)]
        ),
        "pushdown",
    ),
    "selected beside": (
        insert(Item).from_select(
            ["tenant_id", "id", "order_id"], select(Order.tenant_id, Order.id, Order.id)
        ),
        "pushdown",
    ),
    "selected elsewhere": (
        insert(Item).from_select(
            ["tenant_id", "id", "order_id"], select(Order.id, Order.id, Order.id)
        ),
        "repartition",
    ),
    "selected through here": (
        insert(Item).from_select(
            ["tenant_id", "id", "order_id"], select(Order.tenant_id, Order.id, Order.id).limit(3)
        ),
        "pull",
    ),
    "into a local table": (insert(Note).from_select(["id"], select(Order.id)), "pull"),
    "a percentile": (
        select(func.percentile_disc(0.5).within_group(Order.amount)),
        "pull",
    ),
    "a percentile of groups": (
        select(func.percentile_disc(0.5).within_group(Order.amount)).group_by(Order.product_id),
        "pull",
    ),
    "a rank over all": (select(func.rank().over(order_by=Order.amount)), "pull"),
    "a subquery": (
        select(Order).where(Order.amount.in_(select(Item.id).order_by(Item.id).limit(3))),
        "pull",
    ),
    "a local table": (select(Order).join(Note, Note.id == Order.amount), "pull"),
    "a union": (select(Order.amount).union(select(Item.order_id)), "pull"),
    "a reference table": (select(Product), "reference"),
    "a row of it": (insert(Product).values(id=1, name=""), "reference"),
    "only local": (select(Note), "local"),
    "nothing": (select(1), "local"),
    "locked": (select(Order).with_for_update(), "refused"),
    "not colocated": (select(Order.id).join(elsewhere, elsewhere.c.of == Order.amount), "refused"),
}


@ON_CITUS_ONLY
def test_shapes(engine: Engine) -> None:
    with Session(engine) as session:
        found = {
            name: explain_shape(session, statement).kind for name, (statement, _) in CASES.items()
        }
        assert found == {name: kind for name, (_, kind) in CASES.items()}
        # Nothing of it was executed, and the session can go on.
        assert session.scalar(select(func.count()).select_from(Order)) == 0
        assert session.scalar(select(func.count()).select_from(Product)) == 0


READINGS = MetaData()
readings = Table(
    "readings",
    READINGS,
    Column("tenant", BigInteger, primary_key=True),
    Column("id", BigInteger, primary_key=True),
    Column("kind", Text),
    Column("value", BigInteger),
    Column("at", DateTime(timezone=True)),
    Distributed("tenant"),
)
# What each has, and the shapes of its fresh view: of all of it, and of one tenant.
ROLLUPS: dict[str, tuple[dict[str, Any], str, str]] = {
    "plain": ({"mean": average("value")}, "pushdown", "router"),
    "extremes": ({"least": minimum("value")}, "pushdown", "pushdown"),
    "kept": ({"ids": distinct("id"), "p": percentiles("value")}, "pushdown", "router"),
    "both": ({"least": minimum("value"), "ids": distinct("id")}, "pull", "pull"),
    "both_too": ({"most": maximum("value"), "p": percentiles("value")}, "pull", "pull"),
}
BY_TENANT = {
    name: Rollup(
        name,
        readings,
        time="at",
        every="1 hour",
        by=["tenant", "kind"],
        measures={"n": count(), **measures},
    )
    for name, (measures, _, _) in ROLLUPS.items()
}
COPIED = Rollup("copied", readings, time="at", every="1 hour", by=["kind"], measures={"n": count()})
GREATEST = Rollup("greatest", readings, by=["tenant"], measures={"n": count()}, ranked="n")


@ON_CITUS_ONLY
def test_rollups_are_read_as_documented(empty_database: URL) -> None:
    engine = create_engine(empty_database, poolclass=NullPool)
    (spec,) = specs_of(READINGS)
    build(engine, citus=True, tables=READINGS, spec=spec)
    later = text(
        "UPDATE readings SET at = (at AT TIME ZONE 'UTC' + interval '1 hour') AT TIME ZONE 'UTC'"
    )
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO readings SELECT n %% 7, n, 'k', n, '2026-01-01Z' FROM "
            "generate_series(1, 50) AS n"
        )
        run_rollup(connection, COPIED)
        connection.execute(later)
        assert_exact(connection, BY_TENANT["plain"])
        for name, (_, everything, of_one) in ROLLUPS.items():
            rollup = BY_TENANT[name]
            fresh = rollup.fresh()
            assert (name, explain_shape(connection, fresh).kind) == (name, everything)
            of_tenant = select(fresh).where(fresh.c.tenant == 3)
            assert (name, explain_shape(connection, of_tenant).kind) == (name, of_one)
            assert explain_shape(connection, rollup.table()).kind == "pushdown"
        shape = explain_shape(connection, COPIED.fresh())
        assert (shape.kind, "functions" in shape.reason) == ("local", True)
        assert explain_shape(connection, GREATEST.best(3)).kind == "pull"


@ON_CITUS_ONLY
def test_repartition_joins(engine: Engine) -> None:
    joined = select(Order.id).join(elsewhere, elsewhere.c.of == Order.amount)
    with engine.connect() as connection:
        assert "citus.enable_repartition_joins" in explain_shape(connection, joined).reason
        connection.exec_driver_sql("SET citus.enable_repartition_joins = on")
        assert explain_shape(connection, joined).kind == "repartition"
        # Merged on this node, but joined elsewhere.
        total = joined.with_only_columns(func.count())
        assert explain_shape(connection, total).kind == "repartition"
        within = explain_shape(connection, select(func.count()).select_from(joined.subquery()))
        assert [within.kind, *(each.kind for each in within.subplans)] == ["pull", "repartition"]


@ON_CITUS_ONLY
def test_what_a_shape_says(engine: Engine) -> None:
    with engine.connect() as connection:
        total = explain_shape(connection, select(func.sum(Order.amount)))
        assert total.task_count == SHARD_COUNT
        assert (total.tables, total.merged, total.node) == (
            ('"public"."orders"',),
            ("Aggregate",),
            None,
        )
        joined = explain_shape(connection, JOINED.where(Order.tenant_id == 7))
        shard = connection.scalar(text("SELECT get_shard_id_for_distribution_column('orders', 7)"))
        node = connection.execute(
            text(
                "SELECT nodename || ':' || nodeport FROM pg_dist_placement "
                "JOIN pg_dist_node USING (groupid) WHERE shardid = :shard"
            ),
            {"shard": shard},
        ).scalar_one()
        assert joined.node == node
        assert f"orders_{shard}" in joined.tasks[0].query
        assert set(joined.tables) == {'"public"."orders"', '"public"."items"'}
        quoted = explain_shape(connection, select(Product))
        assert quoted.tables == ('"public"."Products of ours"',)
        nested = explain_shape(
            connection, select(Order).where(Order.amount.in_(select(Item.id).limit(3)))
        )
        assert [each.kind for each in nested.subplans] == ["pushdown"]
        assert set(nested.tables) == {'"public"."orders"', '"public"."items"'}
        assert nested.node is None
        # What looks like a shard within a string is none.
        mere = f"_{shard} "
        assert explain_shape(connection, select(Product).where(Product.name == mere)).kind == (
            "reference"
        )


@ON_CITUS_ONLY
def test_what_is_not_known_is_not_guessed(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql("SET citus.explain_distributed_queries = off")
        shape = explain_shape(connection, Order)
        assert shape.kind == "unknown"
        assert "citus.explain_distributed_queries" in shape.reason
        connection.rollback()
        connection.exec_driver_sql("SET citus.explain_distributed_queries = on")
        connection.exec_driver_sql("SET citus.explain_all_tasks = on")
        assert len(explain_shape(connection, Order).tasks) == SHARD_COUNT


@ON_CITUS_ONLY
def test_the_command(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    statement = "SELECT count(*) FROM orders WHERE tenant_id = 7 AND amount % 2 = 0"
    assert main(["explain", statement, "--database-url", url]) == 0
    assert capsys.readouterr().out.startswith("router: one node has all the shards")
    assert main(["explain", statement, "--json", "--database-url", url]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "router"
    assert main(["explain", "SELECT nonesuch", "--database-url", url]) == 2
    said = capsys.readouterr().err
    assert 'column "nonesuch" does not exist' in said
    assert "EXPLAIN" not in said


@ON_CITUS_ONLY
def test_long_names(engine: Engine) -> None:
    name = "a" * 60
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"CREATE TABLE {name} (id bigint)")
        connection.exec_driver_sql(f"SELECT create_distributed_table('{name}', 'id')")
        assert explain_shape(connection, f"SELECT * FROM {name} WHERE id = 1").tables == (
            f'"public"."{name}"',
        )


@ON_CITUS_ONLY
def test_through_a_worker(server: DatabaseServer, engine: Engine) -> None:
    assert engine.url.database is not None
    worker = create_engine(server.nodes[1].url_for(engine.url.database), poolclass=NullPool)
    with worker.connect() as connection:
        assert explain_shape(connection, Order).kind == "pushdown"
        assert explain_shape(connection, select(Order).where(Order.tenant_id == 7)).kind == "router"
        assert explain_shape(connection, Product).kind == "reference"


@ON_EVERY_SERVER
def test_parameters_and_text(server: DatabaseServer, engine: Engine) -> None:
    kind = "router" if server.kind == "citus" else "not_distributed"
    statement = text("SELECT '%' || :text, * FROM orders WHERE tenant_id = :tenant")
    with engine.connect() as connection:
        for _ in range(12):
            # The driver prepares what it has seen five times.
            shape = explain_shape(connection, statement, {"tenant": 7, "text": "a:b"})
            assert shape.kind == kind
        assert shape.tables == ('"public"."orders"',)
        bound = select(Order).where(Order.tenant_id == bindparam("tenant"))
        assert explain_shape(connection, bound, {"tenant": 7}).kind == kind
        raw = "SELECT '%', ':b' FROM orders WHERE tenant_id = 7"
        assert explain_shape(connection, raw).kind == kind
        with pytest.raises(ArgumentError, match="has no parameters"):
            explain_shape(connection, raw, {"b": 1})


@ON_EVERY_SERVER
def test_the_session_s_own_filters_and_objects(server: DatabaseServer, engine: Engine) -> None:
    """A shape is that of what the session sends, with the filter of a tenant."""
    Tenants = sessionmaker(engine)  # noqa: N806

    @event.listens_for(Tenants, "do_orm_execute")
    def only_the_tenant(state: ORMExecuteState) -> None:
        # A statement of the hook's own is not the one that is explained.
        state.session.connection().exec_driver_sql("SELECT 1")
        state.statement = state.statement.options(with_loader_criteria(Order, Order.tenant_id == 7))

    with Tenants() as session:
        session.add(Order(tenant_id=7, id=1, product_id=1, amount=1))
        shape = explain_shape(session, select(func.sum(Order.amount)))
        assert shape.kind == ("router" if server.kind == "citus" else "not_distributed")
        assert not session.new
    with engine.connect() as connection:
        translated = connection.execution_options(schema_translate_map={None: "nonesuch"})
        with pytest.raises(ArgumentError, match="nonesuch"):
            explain_shape(translated, select(Order))


@ON_EVERY_SERVER
def test_asyncio(server: DatabaseServer, engine: Engine) -> None:
    async def explain() -> list[str]:
        statement = select(Order).where(Order.tenant_id == 7)
        async_engine = create_async_engine(engine.url, poolclass=NullPool)
        async with AsyncSession(async_engine) as session:
            of_session = await session.run_sync(explain_shape, statement)
        async with async_engine.connect() as connection:
            of_connection = await connection.run_sync(explain_shape, statement)
        await async_engine.dispose()
        return [of_session.kind, of_connection.kind]

    kind = "router" if server.kind == "citus" else "not_distributed"
    assert asyncio.run(explain()) == [kind, kind]


@ON_EVERY_SERVER
def test_nothing_is_executed(engine: Engine) -> None:
    change = "UPDATE orders SET amount = 7"
    with engine.begin() as connection:
        connection.execute(insert(Order).values(tenant_id=1, id=1, product_id=1, amount=1))
    # One of them binds values on the client, and then sends several statements at once.
    cursors: tuple[dict[str, Any], ...] = ({}, {"cursor_factory": psycopg.ClientCursor})
    for level, cursor in product(("AUTOCOMMIT", "READ COMMITTED"), cursors):
        with create_engine(
            engine.url, connect_args=cursor, isolation_level=level, poolclass=NullPool
        ).connect() as connection:
            explain_shape(connection, change)
            explain_shape(connection, f"WITH changed AS ({change} RETURNING *) TABLE changed")
            for both in (f"SELECT 1; COMMIT; {change}; COMMIT", f"{change}; {change}"):
                for statement in (both, text(both)):
                    with pytest.raises(ArgumentError, match="multiple commands"):
                        explain_shape(connection, statement)
    with engine.connect() as connection:
        assert connection.scalar(select(Order.amount)) == 1


@ON_EVERY_SERVER
def test_errors_leave_the_transaction_usable(engine: Engine) -> None:
    with engine.connect() as connection:
        for statement, said in (
            ("SELECT * FROM nonesuch", 'relation "nonesuch" does not exist'),
            ("SELECT nothing FROM orders", 'column "nothing" does not exist'),
            ("nonsense", 'syntax error at or near "nonsense"'),
            ("DROP TABLE orders", 'syntax error at or near "DROP"'),
            ("", "syntax error at end of input"),
            ("SELECT 1; SELECT 2", "multiple commands"),
            (text("SELECT 'x'::integer"), "invalid input syntax for type integer"),
            (
                select(Order.id).where(text("nowhere.id = 1")),
                'FROM-clause entry for table "nowhere',
            ),
        ):
            with pytest.raises(ArgumentError, match="cannot be explained") as failed:
                explain_shape(connection, statement)
            words = str(failed.value)
            assert said in words
            # In words about the statement that was given, and no other.
            assert "EXPLAIN" not in words
            assert "/*" not in words
            if isinstance(statement, str):
                assert words.endswith(f"It is: {statement}")
            assert connection.scalar(select(1)) == 1
        with pytest.raises(ArgumentError, match="a statement of SQLAlchemy's"):
            explain_shape(connection, 5)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="not through Engine"):
            explain_shape(engine, select(1))  # type: ignore[arg-type]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        assert explain_shape(connection, select(Order)).tables == ('"public"."orders"',)


@ON_POSTGRESQL_ONLY
def test_without_citus(connection: Connection, engine: Engine) -> None:
    shape = explain_shape(connection, select(Order.id).join(Note, Note.id == Order.id))
    assert shape.kind == "not_distributed"
    assert set(shape.tables) == {'"public"."orders"', '"public"."notes"'}
    with pytest.raises(pytest.skip.Exception, match="does not have Citus"):
        assert_pushdown(connection, select(Order))


@ON_CITUS_ONLY
def test_assertions(engine: Engine) -> None:
    with Session(engine) as session:
        assert assert_pushdown(session, Order).task_count == SHARD_COUNT
        assert assert_pushdown(session, Product).kind == "reference"
        assert_router(session, select(Order).where(Order.tenant_id == 7))
        with pytest.raises(AssertionError, match="not sent to one node"):
            assert_router(session, Order)
        for statement, said in (
            (select(Note), "no table that Citus knows of"),
            (CASES["a percentile"][0], "rows are aggregated on this node"),
            (CASES["locked"][0], "Citus says"),
        ):
            with pytest.raises(AssertionError, match="not pushed down") as failed:
                assert_pushdown(session, statement)
            assert said in str(failed.value)
        assert "Aggregate\n    Custom Scan (Citus Adaptive)\n" in str(
            _failure(session, CASES["a percentile"][0])
        )


def _failure(session: Session, statement: Any) -> BaseException:
    with pytest.raises(AssertionError) as failed:
        assert_pushdown(session, statement)
    return failed.value
