"""What users of other engines of this kind have run into: nothing of it is a problem here."""

from __future__ import annotations

import math
import random
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Double,
    Engine,
    Integer,
    MetaData,
    NullPool,
    Table,
    Text,
    create_engine,
    select,
    text,
)

from citus_analytics.errors import ArgumentError, DeclarationError
from citus_analytics.rollups.declare import (
    Rollup,
    average,
    count,
    distinct,
    maximum,
    percentiles,
    specs_of,
    total,
)
from citus_analytics.rollups.run import run_batch, run_rollup, verify
from citus_analytics.schema import Distributed
from tests.rollup_lab import build, percentile, run_sql
from tests.servers import ON_EVERY_SERVER, ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from sqlalchemy import URL, Executable

    from tests.servers import DatabaseServer, Prepared

MARCH: Final = datetime(2026, 3, 1, tzinfo=UTC)

TABLES = MetaData()
ORDERS = Table(
    "orders",
    TABLES,
    Column("customer", BigInteger),
    Column("id", BigInteger),
    Column("product", Text),
    Column("price", Double),
    Column("note", Text),
    Column("at", DateTime(timezone=True)),
    Distributed("customer"),
)
SALES = Rollup(
    "sales",
    ORDERS,
    time="at",
    every=["1 hour", "1 day"],
    by=["customer", "product"],
    measures={
        "orders": count(),
        "value": total("price"),
        "mean": average("price"),
        "buyers": distinct("customer"),
        "p": percentiles("price"),
    },
    ranked="orders",
)
PRODUCTS = Rollup(
    "products",
    ORDERS,
    by=["product"],
    measures={
        "orders": count(),
        "value": total("price"),
        "buyers": distinct("customer"),
        "about": distinct("id", approximate=True),
        "p": percentiles("price", [0.5, 0.9, 0.99]),
    },
    ranked="value",
)
(SPEC,) = specs_of(TABLES)


@pytest.fixture
def orders(server: DatabaseServer, prepared: Prepared) -> Engine:
    """An engine on a database with the rollups."""
    citus = server.kind == "citus"
    return prepared("reports", lambda engine: build(engine, citus=citus, tables=TABLES, spec=SPEC))


def execute(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            run_sql(connection, statement)


def rows(engine: Engine, statement: str | Executable) -> list[tuple[Any, ...]]:
    query = text(statement.replace(":", "\\:")) if isinstance(statement, str) else statement
    with engine.begin() as connection:
        return [tuple(row) for row in connection.execute(query)]


def order(engine: Engine, number: int, first: int = 1) -> None:
    """Add orders whose prices are all different."""
    execute(
        engine,
        "INSERT INTO orders SELECT i % 40, i, 'product ' || i % 4, i % 1000 + i / 1e6, 'a note', "
        f"timestamptz '{MARCH}' + i % 100 * interval '11 min' "
        f"FROM generate_series({first}, {first + number - 1}) AS i",
    )


def by_product(found: list[tuple[Any, ...]]) -> dict[Any, tuple[Any, ...]]:
    return {p: (n, v if v is None else round(v, 3), buyers) for p, n, v, buyers in found}


def assert_adds_up(engine: Engine) -> None:
    """Fail unless fresh and rolled up equal raw."""
    raw = rows(
        engine,
        "SELECT product, count(*), round(sum(price::numeric), 3), count(DISTINCT customer) "
        "FROM orders GROUP BY product",
    )
    for turn in range(2):
        for rollup in (SALES, PRODUCTS):
            found = rows(
                engine, rollup.select(by=["product"], measures=["orders", "value", "buyers"])
            )
            assert by_product(found) == by_product(raw)
            with engine.begin() as connection:
                assert {each.groups for each in verify(connection, rollup)} == {0}
        if turn == 0:
            with engine.begin() as connection:
                run_rollup(connection, SALES)


# pg_ivm and triggers: statements that change more than they seem to.


STATEMENTS: Final = {
    "rows of the table itself": (
        "INSERT INTO orders SELECT customer, id, product, price, note, at FROM orders "
        "WHERE id % 3 = 1 ON CONFLICT DO NOTHING"
    ),
    "several changes by one statement": (
        "WITH gone AS (DELETE FROM orders WHERE customer = 3 AND id % 2 = 1 RETURNING *), "
        "changed AS (UPDATE orders SET product = 'other', price = -price WHERE customer = 3 "
        "AND id % 4 = 0 RETURNING *), "
        "come AS (INSERT INTO orders SELECT customer, id + 10000, product, price * 2, note, at "
        "FROM gone RETURNING *) SELECT count(*) FROM come"
    ),
    "an update that changes nothing": "UPDATE orders SET note = 'another', price = price",
    "no rows": "DELETE FROM orders WHERE customer = -1",
    "a statement by an alias of the table": "DELETE FROM ONLY orders AS o WHERE o.customer = 5",
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_statements(orders: Engine, name: str) -> None:
    order(orders, 200)
    execute(orders, "SELECT orders_run()", STATEMENTS[name])
    assert_adds_up(orders)


def test_rows_of_a_parent_that_is_deleted(server: DatabaseServer, orders: Engine) -> None:
    """ON DELETE CASCADE and SET NULL fire triggers as well, on shards too."""
    execute(orders, "CREATE TABLE customers (id bigint PRIMARY KEY)")
    if server.kind == "citus":
        execute(
            orders,
            "SELECT create_distributed_table('customers', 'id', colocate_with => 'orders')",
        )
    execute(orders, "INSERT INTO customers SELECT generate_series(0, 39)")
    order(orders, 200)
    execute(
        orders,
        "ALTER TABLE orders ADD CONSTRAINT of_customer FOREIGN KEY (customer) "
        "REFERENCES customers ON DELETE CASCADE",
    )
    execute(orders, "SELECT orders_run()", "DELETE FROM customers WHERE id IN (3, 17)")
    assert rows(orders, "SELECT count(*) FROM orders WHERE customer IN (3, 17)") == [(0,)]
    assert_adds_up(orders)


@ON_POSTGRESQL_ONLY
def test_writes_through_views_rules_and_prepared_statements(orders: Engine) -> None:
    order(orders, 100)
    execute(
        orders,
        "CREATE VIEW cheap AS SELECT * FROM orders WHERE price < 50",
        "UPDATE cheap SET product = 'cheap' WHERE customer < 10",
        "DELETE FROM cheap WHERE customer = 20",
    )
    assert_adds_up(orders)
    with orders.begin() as connection:
        run_sql(connection, "SET LOCAL plan_cache_mode = force_generic_plan")
        run_sql(
            connection, "PREPARE one AS INSERT INTO orders VALUES ($1, $2, 'p', 1, NULL, now())"
        )
        for number in range(10):
            run_sql(connection, f"EXECUTE one({number}, {number})")
            run_rollup(connection, SALES)
    assert_adds_up(orders)


def test_a_source_that_changes_its_shape(orders: Engine) -> None:
    """Columns that no rollup knows come, go and change, between writes of one session."""
    with orders.connect() as connection:
        for change in (
            "ALTER TABLE orders ADD COLUMN extra integer DEFAULT 7",
            "ALTER TABLE orders DROP COLUMN note",
            "ALTER TABLE orders ALTER COLUMN extra TYPE bigint",
            "CREATE INDEX ON orders (product)",
            "ALTER TABLE orders DROP COLUMN extra",
        ):
            run_sql(
                connection,
                "INSERT INTO orders (customer, id, product, price, at) "
                f"VALUES (1, 1, 'a', 2, '{MARCH}'), (2, 1, NULL, NULL, '{MARCH}')",
            )
            connection.commit()
            run_sql(connection, change)
            connection.commit()
            run_sql(connection, "DELETE FROM orders WHERE product = 'a'")
            connection.commit()
            assert_adds_up(orders)


# Continuous aggregates: late data, time zones of sessions, aggregates of aggregates.


def test_a_session_elsewhere(orders: Engine) -> None:
    order(orders, 100)
    query = SALES.select(by=["product"], measures=["orders"], every="1 day", since=MARCH)
    found = []
    for zone in ("UTC", "Asia/Kathmandu", "America/St_Johns"):
        with orders.connect() as connection:
            run_sql(connection, f"SET TIME ZONE '{zone}'")
            run_sql(connection, "SET datestyle = 'ISO, DMY'")
            run_sql(connection, "SET intervalstyle = 'iso_8601'")
            run_sql(connection, "SET extra_float_digits = -15")
            run_sql(connection, "SET bytea_output = 'escape'")
            run_rollup(connection, SALES)
            rows_ = connection.execute(query).all()
            found.append(sorted((b.astimezone(UTC), p, n) for b, p, n in rows_))
            connection.commit()
            assert_adds_up(orders)
            order(orders, 100)
            run_sql(connection, "DELETE FROM orders WHERE id % 2 = 0")
            connection.commit()
    assert {bucket for bucket, *_ in found[0]} == {MARCH}


def test_distinct_values_of_wider_buckets_are_no_sums(orders: Engine) -> None:
    order(orders, 1000)
    by_hour = rows(orders, SALES.select(measures=["buyers"], every="1 hour"))
    by_day = rows(orders, SALES.select(measures=["buyers"], every="1 day"))
    assert [n for _, n in by_day] == [40]
    assert sum(n for _, n in by_hour) >= 200
    prices = [i % 1000 + i / 1e6 for i in range(1, 1001)]
    ((found,),) = rows(orders, SALES.select(measures=["p12.5"], every=None))
    assert percentile(prices, "0.125").is_near(found)


def test_reads_can_be_filtered_sorted_and_joined(orders: Engine) -> None:
    order(orders, 300)
    sold = SALES.select(by=["product", "customer"], measures=["orders", "p95"]).subquery()
    query = (
        select(sold.c.product, sold.c.orders, ORDERS.c.note)
        .join(ORDERS, (ORDERS.c.customer == sold.c.customer) & (ORDERS.c.id == 5))
        .where(sold.c.product == "product 1", sold.c.p95 > 0)
        .order_by(sold.c.orders.desc())
        .limit(3)
    )
    assert rows(orders, query) == [("product 1", 8, "a note")]
    both = SALES.select(measures=["orders"]).union_all(PRODUCTS.select(measures=["orders"]))
    assert rows(orders, both) == [(300,), (300,)]
    fresh = SALES.fresh("1 day")
    query = select(fresh.c.product, fresh.c.buyers).where(fresh.c.customer == 7)
    assert len(rows(orders, query)) == 1


# HyperLogLog and t-digest: errors at scale, deletions, and the tails.


@ON_EVERY_SERVER
def test_errors_of_estimates(orders: Engine) -> None:
    for number in (3_000, 30_000):
        order(orders, number)
        for fresh in (True, False):
            found = {
                product: row
                for product, *row in rows(
                    orders,
                    PRODUCTS.select(
                        by=["product"], measures=["about", "p50", "p90", "p99", "p99.9", "p0"]
                    ),
                )
            }
            if fresh:
                with orders.begin() as connection:
                    run_rollup(connection, PRODUCTS)
        assert len(found) == 4
        for product, (about, *quantiles) in found.items():
            wanted = {i for i in range(1, number + 1) if f"product {i % 4}" == product}
            # Of the same numbers it is always the same.
            assert abs(about - len(wanted)) <= 4 * 0.023 * len(wanted)
            prices = [i % 1000 + i / 1e6 for i in wanted]
            for fraction, quantile in zip(
                ("0.5", "0.9", "0.99", "0.999", "0"), quantiles, strict=True
            ):
                assert percentile(prices, fraction).is_near(quantile)
        ((everything,),) = rows(orders, PRODUCTS.select(measures=["about"]))
        assert abs(everything - number) <= 3 * 0.023 * number
        # What is deleted was never there.
        execute(orders, "DELETE FROM orders WHERE id > 20")
        with orders.begin() as connection:
            run_rollup(connection, PRODUCTS)
        assert rows(orders, PRODUCTS.select(measures=["about", "buyers"])) == [(20, 20)]
        execute(orders, "DELETE FROM orders")


# Rankings.


@ON_EVERY_SERVER
def test_the_best_at_any_moment(orders: Engine) -> None:
    rng = random.Random(1)
    for turn in range(12):
        customer = rng.randrange(8)
        for statement in (
            f"INSERT INTO orders SELECT {customer}, i, 'p' || i % 3, i * 1.5, '', '{MARCH}' "
            f"FROM generate_series(1, {rng.randrange(1, 30)}) AS i",
            f"DELETE FROM orders WHERE customer = {rng.randrange(8)} AND id % 4 = {turn % 4}",
            "INSERT INTO orders VALUES (9, 1, NULL, NULL, '', now())",
        ):
            execute(orders, statement)
            by_product: Counter[Any] = Counter()
            for product, price in rows(orders, "SELECT product, price FROM orders"):
                by_product[product] += price or 0
            best = rows(orders, PRODUCTS.best(2))
            wanted = sorted(((v, p) for p, v in by_product.items() if p), reverse=True)
            assert [float(value) for _, value in best] == pytest.approx(
                [value for value, _ in wanted][:2]
            )
            # By size: which of equal ones comes first is open.
            numbers = Counter(
                (c, p, at.replace(minute=0, second=0, microsecond=0))
                for c, p, at in rows(orders, "SELECT customer, product, at FROM orders")
            )
            best = rows(orders, SALES.best(4))
            assert [number for *_, number in best] == sorted(numbers.values(), reverse=True)[:4]
            assert all(numbers[customer, product, at] == n for customer, product, at, n in best)
        if turn % 3 == 1:
            with orders.begin() as connection:
                run_rollup(connection, SALES)


def test_what_cannot_be_ranked() -> None:
    source = Table("s", MetaData(), Column("x", Integer))
    for measures in ({"a": maximum("x")}, {"a": distinct("x")}, {"a": percentiles("x")}):
        with pytest.raises(DeclarationError, match="which is not one of its measures that add up"):
            Rollup("r", source, measures={"n": count(), **measures}, ranked="a")
    rollup = Rollup("r", source, measures={"n": count()})
    with pytest.raises(ArgumentError, match="is not ranked"):
        rollup.best(3)


@ON_POSTGRESQL_ONLY
def test_the_log_is_rewritten_between_batches(orders: Engine) -> None:
    order(orders, 500)
    with orders.begin() as connection:
        run_batch(connection, SALES, 0)
    order(orders, 500, 1000)
    with orders.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        run_sql(connection, "VACUUM FULL orders_log")
    with orders.begin() as connection:
        assert run_batch(connection, SALES, 0).changes == 500
    assert_adds_up(orders)


def test_two_rollups_of_one_source_agree(orders: Engine) -> None:
    """At every moment, also while a session sees only its own changes."""
    order(orders, 100)
    with orders.connect() as writer, orders.connect() as other:
        for connection, number in ((writer, 1), (other, 2), (writer, 3)):
            run_sql(
                connection,
                f"INSERT INTO orders VALUES ({number}, {number}, 'x', 1, '', '{MARCH}')",
            )
            assert _of_both(connection) == {_raw(connection)}
        run_rollup(writer, SALES)
        assert _of_both(writer) == {_raw(writer)} == {102}
        assert _of_both(other) == {_raw(other)} == {101}
        writer.commit()
        assert _of_both(other) == {_raw(other)} == {103}
        other.commit()
    assert_adds_up(orders)


def _raw(connection: Connection) -> int:
    number: int = run_sql(connection, "SELECT count(*) FROM orders").scalar_one()
    return number


def _of_both(connection: Connection) -> set[int]:
    return {
        connection.execute(rollup.select(measures=["orders"], every=every)).all()[0][-1]
        for rollup, every in ((SALES, None), (SALES, "1 day"), (PRODUCTS, None))
    }


def test_values_at_the_edges_of_floats(server: DatabaseServer, empty_database: URL) -> None:
    tables = MetaData()
    source = Table("s", tables, Column("x", Double), Column("k", Integer), Distributed("k"))
    rollup = Rollup(
        "r", source, by=["k"], measures={"p": percentiles("x", [0, 0.5, 1]), "d": distinct("x")}
    )
    engine = create_engine(empty_database, poolclass=NullPool)
    build(engine, citus=server.kind == "citus", tables=tables, spec=rollup.spec())
    values = [5e-324, -5e-324, 1.7976931348623157e308, -1.7976931348623157e308, 0.0, -0.0]
    for value in (*values, math.inf, -math.inf, math.nan):
        execute(engine, f"INSERT INTO s VALUES ('{value}', 1)")
        ((low, middle, high, number),) = rows(engine, rollup.select())
        assert number == 1
        assert repr(low) == repr(middle) == repr(high)
        if math.isfinite(value) and value:
            assert math.copysign(1, low) == math.copysign(1, value)
        else:
            assert repr(low) == repr(value + 0.0)
        execute(engine, "SELECT s_run()", "DELETE FROM s", "SELECT s_run()")
        assert rows(engine, "SELECT * FROM r_p") == rows(engine, "SELECT * FROM r_d") == []
