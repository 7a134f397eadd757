"""The service of the examples, through HTTP: what is written is in the next answer, or refused."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections import defaultdict
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from alembic import command
from alembic.config import Config
from httpx import ASGITransport, AsyncClient
from sqlalchemy import NullPool, create_engine, insert, inspect, text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from citus_analytics import commit_token, run_rollup
from examples.service.app import create_app, keep_rollups
from examples.service.models import SALES, Order
from tests.database.test_examples import ROOT, python
from tests.servers import ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fastapi import FastAPI
    from sqlalchemy import URL

    Talk = Callable[[FastAPI, AsyncClient], Awaitable[None]]

ALEMBIC = ("alembic", "-c", "examples/service/alembic.ini")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PRODUCTS = ("apples", "pears", "plums")
ORDER = {
    "order_id": 1,
    "product": "apples",
    "customer": "Ada",
    "amount": Decimal(3),
    "placed_at": NOON,
}


@pytest.fixture
def address(empty_database: URL) -> str:
    """The address of a database with the tables of the service."""
    options = Namespace(x=[f"url={empty_database.render_as_string(hide_password=False)}"])
    config = Config(ROOT / ALEMBIC[2], cmd_opts=options)
    command.upgrade(config, "head")
    return empty_database.set(drivername="postgresql").render_as_string(hide_password=False)


def talk(address: str, what: Talk, *, run_every: float | None = None) -> None:
    """Start the service, and talk to it."""

    async def main() -> None:
        app = create_app(address, run_every=run_every)
        transport = ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            AsyncClient(transport=transport, base_url="http://service") as client,
        ):
            await what(app, client)

    asyncio.run(main())


def order(number: int, **changed: Any) -> dict[str, Any]:
    placed = NOON + timedelta(minutes=17 * number, seconds=number)
    return {
        "order_id": number,
        "product": PRODUCTS[number % 3],
        "customer": f"customer {number % 7}",
        "amount": f"{number % 90}.{number % 100:02}",
        "placed_at": placed.isoformat(),
        **changed,
    }


async def run(app: FastAPI) -> None:
    async with AsyncSession(app.state.engine) as session, session.begin():
        await session.run_sync(run_rollup, SALES)


def test_what_is_written_is_in_the_next_answer(address: str) -> None:
    async def work(app: FastAPI, client: AsyncClient) -> None:
        known: dict[tuple[int, int], dict[str, Any]] = {}

        async def same_everywhere(token: str, *, shop: int, freshness: str) -> None:
            """Compare answers of every kind with Python over what has been written."""
            orders = [each for (of, _), each in known.items() if of == shop]
            asked = {"at_least": token, "freshness": freshness}
            for every, zone in (("minute", "UTC"), ("hour", "UTC"), ("day", "Asia/Kolkata")):
                answer = await client.get(
                    f"/shops/{shop}/sales", params={**asked, "every": every, "time_zone": zone}
                )
                assert answer.status_code == 200, answer.text
                expected: dict[datetime, list[Decimal]] = defaultdict(list)
                for each in orders:
                    at = datetime.fromisoformat(each["placed_at"]).astimezone(ZoneInfo(zone))
                    start = at.replace(second=0, microsecond=0)
                    start = start if every == "minute" else start.replace(minute=0)
                    start = start.replace(hour=0) if every == "day" else start
                    expected[start].append(Decimal(each["amount"]))
                found = {
                    datetime.fromisoformat(row["bucket"]): (row["orders"], Decimal(row["revenue"]))
                    for row in answer.json()["rows"]
                }
                assert found == {
                    start: (len(amounts), sum(amounts)) for start, amounts in expected.items()
                }
            # Neither edge is the start of an hour or of a minute.
            since, until = NOON + timedelta(minutes=31, seconds=7), NOON + timedelta(hours=9.3)
            window = {**asked, "since": since.isoformat(), "until": until.isoformat()}
            answer = await client.get(f"/shops/{shop}/products", params=window)
            inside = [
                each
                for each in orders
                if since <= datetime.fromisoformat(each["placed_at"]) < until
            ]
            revenue: dict[str, Decimal] = defaultdict(Decimal)
            for each in inside:
                revenue[each["product"]] += Decimal(each["amount"])
            rows = [(row["product"], Decimal(row["revenue"])) for row in answer.json()["rows"]]
            assert rows == sorted(revenue.items(), key=lambda pair: (-pair[1], pair[0]))
            answer = await client.get(f"/shops/{shop}/baskets", params=asked)
            assert answer.json()["customers"] == len({each["customer"] for each in orders})
            amounts = sorted(float(each["amount"]) for each in orders)
            median = amounts[(len(amounts) - 1) // 2]
            assert answer.json()["median"] == pytest.approx(median, rel=0.011)

        for round_, shop in product(range(2), (1, 2)):
            written = [order(number) for number in range(round_ * 40 + 1, round_ * 40 + 60)]
            answer = await client.post(f"/shops/{shop}/orders", json=written)
            assert answer.status_code == 201, answer.text
            new = [each for each in written if (shop, each["order_id"]) not in known]
            # What was known is not counted twice.
            assert answer.json()["rows"] == len(new)
            known |= {(shop, each["order_id"]): each for each in new}
            await same_everywhere(answer.json()["token"], shop=shop, freshness="fresh")
            # A plain read would be that of the last run: the token makes it a fresh one.
            await same_everywhere(answer.json()["token"], shop=shop, freshness="rolled_up")
            if round_ == 0:
                await run(app)
                await same_everywhere(answer.json()["token"], shop=shop, freshness="rolled_up")
        await same_everywhere(answer.json()["token"], shop=2, freshness="raw")
        for number in (3, 50, 77):
            answer = await client.delete(f"/shops/2/orders/{number}")
            assert (answer.status_code, answer.json()["rows"]) == (200, 1)
            del known[2, number]
            await same_everywhere(answer.json()["token"], shop=2, freshness="fresh")
        basis = (await client.get("/shops/2/sales", params={"every": "day"})).json()["basis"]
        assert (basis["freshness"], basis["rollups"]) == ("fresh", ["sales"])
        assert basis["pending"] > 0
        assert basis["steps"] == ["sales_1_hour: all time"]

    talk(address, work)


def test_a_token_that_is_not_visible_yet_is_refused(address: str) -> None:
    async def work(app: FastAPI, client: AsyncClient) -> None:
        async with AsyncSession(app.state.engine) as session:
            row = order(1)
            row |= {"placed_at": NOON, "amount": Decimal(row["amount"])}
            await session.execute(insert(Order).values(shop_id=1, **row))
            token = await session.run_sync(commit_token)
            early = await client.get("/shops/1/sales", params={"at_least": token})
            assert early.status_code == 409
            assert early.headers["Retry-After"] == "1"
            assert f"transaction {token} is not visible here" in early.json()["detail"]
            assert (await client.get("/shops/1/sales")).json()["rows"] == []
            await session.commit()
        later = await client.get("/shops/1/sales", params={"at_least": token})
        assert [row["orders"] for row in later.json()["rows"]] == [1]

    talk(address, work)


@ON_POSTGRESQL_ONLY
def test_mistakes_are_explained(address: str) -> None:
    orders = "/shops/1/orders"
    wrong: list[tuple[int, str, str, str, Any]] = [
        (422, "min_length", "POST", orders, []),
        (422, "decimal_max_places", "POST", orders, [order(1, amount="1.234")]),
        (422, "timezone_aware", "POST", orders, [order(1, placed_at="2026-03-01T12:00:00")]),
        (422, "less than", "POST", orders, [order(1, placed_at="9999-12-31T23:59:59-12:00")]),
        (422, "string_pattern", "POST", orders, [order(1, product="a\0b")]),
        (422, "extra_forbidden", "POST", orders, [order(1, colour="red")]),
        (422, "less_than", "POST", f"/shops/{2**63}/orders", [order(1)]),
        (404, "shop 1 has no order 9", "DELETE", "/shops/1/orders/9", None),
        (400, "the window [since, until) is empty", "GET",
         "/shops/1/sales?since=2026-03-02T00:00Z&until=2026-03-01T00:00Z", None),
        (400, "IANA name", "GET", "/shops/1/sales?every=day&time_zone=Mars/Olympus", None),
        (400, "commit_token()", "GET", "/shops/1/sales?at_least=soon", None),
        (422, "'fresh', 'rolled_up' or 'raw'", "GET", "/shops/1/sales?freshness=stale", None),
        (422, "extra_forbidden", "GET", "/shops/1/sales?from=2026-03-01T00:00Z", None),
        (422, "timezone_aware", "GET", "/shops/1/sales?since=2026-03-01T00:00", None),
        (409, "", "GET",
         f"/shops/1/sales?at_least={2**63}", None),
    ]  # fmt: skip

    async def work(app: FastAPI, client: AsyncClient) -> None:
        for status, said, method, path, body in wrong:
            answer = await client.request(method, path, json=body)
            assert answer.status_code == status, (path, body, answer.text)
            assert said in answer.text, answer.text
        # None of them has left anything behind, nor harmed the service.
        answer = await client.get("/shops/1/sales")
        assert (answer.status_code, answer.json()["rows"]) == (200, [])
        at = NOON + timedelta(minutes=30)
        # Hours of a zone with half an hour consist of minutes.
        await client.post(orders, json=[order(1, placed_at=at.isoformat())])
        kolkata = {"every": "hour", "time_zone": "Asia/Kolkata"}
        answer = await client.get("/shops/1/sales", params=kolkata)
        assert datetime.fromisoformat(answer.json()["rows"][0]["bucket"]) == at
        assert answer.json()["basis"]["steps"] == ["sales_1_minute: all time"]

    talk(address, work)


def test_the_service_runs_its_rollups_and_says_how_far_they_are(address: str) -> None:
    async def work(_: FastAPI, client: AsyncClient) -> None:
        assert (await client.get("/health")).json() == {"status": "ok"}
        await client.post("/shops/1/orders", json=[order(number) for number in range(1, 50)])
        async with asyncio.timeout(20):
            while True:
                status = (await client.get("/status")).json()
                if all(each["last_run"] and not each["pending"] for each in status):
                    break
                await asyncio.sleep(0.05)
        assert {each["table"] for each in status} == {
            "sales_1_minute", "sales_1_hour", "baskets", "baskets_amount", "baskets_customers",
        }  # fmt: skip
        assert all(each["complete"] and each["error"] is None for each in status)
        answer = await client.get("/shops/1/products", params={"freshness": "rolled_up"})
        assert sum(row["orders"] for row in answer.json()["rows"]) == 49
        assert answer.json()["basis"]["as_of"] is not None

    talk(address, work, run_every=0.1)
    engine = create_engine(
        address.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool
    )
    with engine.connect() as connection:
        summed = connection.scalar(text("SELECT sum(orders) FROM sales_1_hour"))
    assert summed == 49


def test_the_rollups_are_kept_when_there_was_no_connection(address: str) -> None:
    async def work() -> None:
        engine = create_async_engine(
            address.replace("postgresql:", "postgresql+psycopg:"),
            pool_size=1,
            max_overflow=0,
            pool_timeout=0.05,
        )
        async with engine.connect() as connection:
            keeping = asyncio.create_task(keep_rollups(engine, 0.01))
            await asyncio.sleep(0.3)
            await connection.execute(insert(Order).values({"shop_id": 1, **ORDER}))
            await connection.commit()
        async with asyncio.timeout(20):
            orders = None
            while orders is None and not keeping.done():
                await asyncio.sleep(0.02)
                with suppress(PoolTimeoutError):
                    async with engine.connect() as connection:
                        summed = text("SELECT sum(orders) FROM sales_1_hour")
                        orders = await connection.scalar(summed)
        assert orders == 1
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
        await engine.dispose()

    asyncio.run(work())


def test_a_database_that_does_not_answer(tmp_path: Any) -> None:
    async def work(_: FastAPI, client: AsyncClient) -> None:
        for path in ("/health", "/status", "/shops/1/sales"):
            answer = await client.get(path)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
            assert answer.json() == {"detail": "the database does not answer"}

    talk(f"postgresql://nobody@/nothing?host={tmp_path}", work, run_every=0.1)


def test_the_description_says_what_every_request_may_return(tmp_path: Any) -> None:
    async def work(_: FastAPI, client: AsyncClient) -> None:
        described = (await client.get("/openapi.json")).json()
        returns = {
            (path, method): set(what["responses"])
            for path, methods in described["paths"].items()
            for method, what in methods.items()
        }
        assert returns == {
            ("/shops/{shop_id}/orders", "post"): {"201", "422", "503"},
            ("/shops/{shop_id}/orders/{order_id}", "delete"): {"200", "404", "422", "503"},
            ("/shops/{shop_id}/sales", "get"): {"200", "400", "409", "422", "503"},
            ("/shops/{shop_id}/products", "get"): {"200", "400", "409", "422", "503"},
            ("/shops/{shop_id}/baskets", "get"): {"200", "400", "409", "422", "503"},
            ("/status", "get"): {"200", "503"},
            ("/health", "get"): {"200", "503"},
        }
        sales = described["paths"]["/shops/{shop_id}/sales"]["get"]
        assert {each["name"] for each in sales["parameters"]} == {
            "shop_id", "since", "until", "freshness", "at_least", "max_staleness", "limit", "every",
            "time_zone",
        }  # fmt: skip

    talk(f"postgresql://nobody@/nothing?host={tmp_path}", work)


def test_the_migrations_are_those_of_the_models(empty_database: URL) -> None:
    python(empty_database, *ALEMBIC, "upgrade", "head")
    assert "No new upgrade operations" in python(empty_database, *ALEMBIC, "check")
    python(empty_database, *ALEMBIC, "downgrade", "base")
    engine = create_engine(empty_database, poolclass=NullPool)
    assert inspect(engine).get_table_names() == ["alembic_version"]
