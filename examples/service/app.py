"""A service that takes orders and answers questions about them, over HTTP.

What is written is in the next answer: `POST` and `DELETE` return a token, and a question with
`at_least=<token>` is answered with what it stands for, or refused. No answer waits for a run of the
rollups, and every answer says what it was read from.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal  # noqa: TC003 - FastAPI reads the annotations
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Depends, FastAPI, HTTPException, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy import BigInteger, bindparam, delete, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from citus_analytics import (
    Answer,
    ArgumentError,
    DeclarationError,
    Question,
    RollupError,
    commit_token,
    count,
    distinct,
    percentiles,
    rollups_of,
    run_rollup,
    total,
)
from citus_analytics.migrations import database_url
from citus_analytics.rollups.run import rollup_status
from examples.service.models import SALES, Base, Order

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LOGGER = logging.getLogger(__name__)

# What comes in.

Id = Annotated[int, Field(ge=1, lt=2**63)]
ShopId = Annotated[int, Path(ge=1, lt=2**63)]
# What Python has a time for, in every zone, and the clocks of no shop are that wrong.
PlacedAt = Annotated[
    AwareDatetime, Field(ge=datetime(2000, 1, 1, tzinfo=UTC), lt=datetime(2200, 1, 1, tzinfo=UTC))
]
# PostgreSQL has no text with a zero character.
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]


class OrderIn(BaseModel):
    """An order, under the number that the shop gives it."""

    model_config = ConfigDict(extra="forbid")

    order_id: Id
    product: Name
    customer: Name
    amount: Annotated[Decimal, Field(max_digits=12, decimal_places=2, ge=0)]
    placed_at: PlacedAt


class Asked(BaseModel):
    """What every question can be asked with."""

    model_config = ConfigDict(extra="forbid")

    since: AwareDatetime | None = Field(None, description="from this time on")
    until: AwareDatetime | None = Field(None, description="before this time")
    freshness: Literal["fresh", "rolled_up", "raw"] = Field(
        "fresh", description="equal to the orders now, as of the last run, or computed from them"
    )
    at_least: str | None = Field(None, description="a token: what it stands for is in the answer")
    max_staleness: float | None = Field(
        None, gt=0, lt=1e9, description="with rolled_up: how many seconds ago the run may be"
    )
    limit: int = Field(1000, ge=1, le=10_000, description="the greatest number of rows")


class AskedOverTime(Asked):
    """The same, in buckets."""

    every: Literal["minute", "hour", "day", "week", "month"] = "hour"
    time_zone: str = Field("UTC", max_length=60, description="of days, weeks and months")


# What goes out.


class Written(BaseModel):
    """What a request has changed, and the token that stands for it."""

    rows: int = Field(description="how many orders are new, or gone")
    token: str = Field(description="for at_least of questions that have to know of it")


class Basis(BaseModel):
    """What an answer was read from."""

    freshness: Literal["fresh", "rolled_up", "raw"]
    rollups: list[str] = Field(description="the rollups that were read; none for raw orders")
    steps: list[str] = Field(description="which tables were read for which time")
    pending: int | None = Field(description="changes that no rollup had yet; fresh answers do")
    as_of: datetime | None = Field(description="the last run that the answer equals")


class Sales(BaseModel):
    """The sales of a stretch of time, by its start."""

    bucket: datetime
    orders: int
    revenue: Decimal | None


class SalesOverTime(BaseModel):
    """Sales, the earliest first."""

    rows: list[Sales]
    basis: Basis


class ProductSales(BaseModel):
    """The sales of a product."""

    product: str
    orders: int
    revenue: Decimal | None


class Products(BaseModel):
    """Sales by product, the greatest revenue first."""

    rows: list[ProductSales]
    basis: Basis


class Baskets(BaseModel):
    """How many customers there are, and how much an order is worth."""

    customers: int
    median: float | None = Field(description="exact from raw orders, within 1 % from rollups")
    p95: float | None
    basis: Basis


class RollupState(BaseModel):
    """The state of one table of a rollup."""

    table: str
    rollup: str
    last_run: datetime | None
    pending: int
    lag_seconds: float
    complete: bool
    error: str | None


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


class Health(BaseModel):
    """Whether the service can do its work."""

    status: Literal["ok"]


# The questions: planned once, asked with the shop and the window of each request. There are no
# orders without a time (PostgreSQL could store 'infinity'), and so none are looked for.

OF_SHOP = Order.shop_id == bindparam("shop_id", type_=BigInteger())
SALES_MEASURES = {"orders": count(), "revenue": total(Order.amount)}
BY_PRODUCT = Question(
    Order,
    measures=SALES_MEASURES,
    by=[Order.product],
    where=OF_SHOP,
    ranked="revenue",
    undated=False,
)
OF_BASKETS = Question(
    Order,
    measures={
        "customers": distinct(Order.customer),
        "p": percentiles(Order.amount, [0.5, 0.95]),
    },
    where=OF_SHOP,
    undated=False,
)


@lru_cache(maxsize=200)
def sales_every(every: str, time_zone: str) -> Question:
    """Return the question for buckets of a width, as the clocks of a time zone show them."""
    width = "1 minute" if every == "minute" else f"1 {every} at {time_zone}"
    return Question(Order, measures=SALES_MEASURES, every=width, where=OF_SHOP, undated=False)


def basis(answer: Answer) -> Basis:
    """Return what an answer was read from."""
    plan = answer.plan
    return Basis(
        freshness=plan.freshness,
        rollups=list(plan.rollups),
        steps=[str(step) for step in plan.steps],
        pending=plan.pending,
        as_of=plan.as_of,
    )


# Sessions: one that writes, committed by whoever uses it, and one that reads.


async def writing(request: Request) -> AsyncIterator[AsyncSession]:
    """Give a request a session."""
    async with AsyncSession(request.app.state.engine) as session:
        yield session


async def reading(request: Request) -> AsyncIterator[AsyncSession]:
    """Give a request a session that cannot write."""
    engine = request.app.state.engine.execution_options(postgresql_readonly=True)
    async with AsyncSession(engine) as session:
        yield session


Writing = Annotated[AsyncSession, Depends(writing)]
Reading = Annotated[AsyncSession, Depends(reading)]


async def answered(session: AsyncSession, question: Question, shop_id: int, asked: Asked) -> Answer:
    """Return the answer to a question about a shop."""
    staleness = asked.max_staleness
    return await session.run_sync(
        question.ask,
        since=asked.since,
        until=asked.until,
        freshness=asked.freshness,
        at_least=asked.at_least,
        max_staleness=timedelta(seconds=staleness) if staleness else None,
        limit=asked.limit,
        parameters={"shop_id": shop_id},
    )


async def keep_rollups(engine: AsyncEngine, seconds: float) -> None:
    """Run the rollups again and again; of several processes, one at a time does it."""
    while True:
        try:
            async with AsyncSession(engine) as session, session.begin():
                # All rollups of the orders move together.
                await session.run_sync(run_rollup, SALES, wait=False)
        except (SQLAlchemyError, RollupError):
            LOGGER.exception("a run of the rollups has failed; the next is in %s s", seconds)
        await asyncio.sleep(seconds)


def create_app(address: str | None = None, *, run_every: float | None = 5.0) -> FastAPI:
    """Return the service.

    Args:
        address: The database, `postgresql://user@host/name`; `DATABASE_URL` by default.
        run_every: How many seconds to wait between runs of the rollups; None to leave them to
            somebody else, such as `citus-analytics rollups run --every 5s`.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.engine = create_async_engine(
            database_url(address or os.environ["DATABASE_URL"]),
            pool_pre_ping=True,
            connect_args={"options": "-c statement_timeout=10s"},
        )
        runner = None
        if run_every is not None:
            runner = asyncio.create_task(keep_rollups(app.state.engine, run_every))
        yield
        if runner is not None:
            runner.cancel()
            with suppress(asyncio.CancelledError):
                await runner
        await app.state.engine.dispose()

    app = FastAPI(title="Orders", version="1.0", lifespan=lifespan)

    @app.exception_handler(ArgumentError)
    @app.exception_handler(DeclarationError)
    async def asked_wrongly(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=400)

    @app.exception_handler(RollupError)
    async def not_now(_: Request, error: Exception) -> JSONResponse:
        # What the token stands for is not visible yet, or no rollup can answer as of the last run.
        return JSONResponse({"detail": str(error)}, status_code=409, headers={"Retry-After": "1"})

    @app.exception_handler(OperationalError)
    @app.exception_handler(InterfaceError)
    @app.exception_handler(NoConnectionError)
    async def no_database(_: Request, error: Exception) -> JSONResponse:
        LOGGER.error("the database does not answer: %s", error)
        detail = "the database does not answer"
        return JSONResponse({"detail": detail}, status_code=503, headers={"Retry-After": "5"})

    down: dict[int | str, dict[str, Any]] = {
        503: {"model": Problem, "description": "the database does not answer"}
    }
    gone: dict[int | str, dict[str, Any]] = {
        404: {"model": Problem, "description": "there is no such order"}
    }
    refused: dict[int | str, dict[str, Any]] = {
        400: {"model": Problem, "description": "the question makes no sense"},
        409: {"model": Problem, "description": "it cannot be answered exactly, or not yet"},
    }

    @app.post("/shops/{shop_id}/orders", status_code=201, responses=down)
    async def add_orders(
        shop_id: ShopId,
        orders: Annotated[list[OrderIn], Field(min_length=1, max_length=1000)],
        session: Writing,
    ) -> Written:
        """Add orders. One whose number is known already is left as it is: send again at will."""
        rows = {order.order_id: {"shop_id": shop_id, **order.model_dump()} for order in orders}
        statement = insert(Order).values(list(rows.values())).on_conflict_do_nothing()
        added = (await session.execute(statement.returning(Order.order_id))).all()
        token = await session.run_sync(commit_token)
        await session.commit()
        return Written(rows=len(added), token=token)

    @app.delete("/shops/{shop_id}/orders/{order_id}", responses=gone | down)
    async def delete_order(
        shop_id: ShopId, order_id: Annotated[int, Path(ge=1, lt=2**63)], session: Writing
    ) -> Written:
        """Delete an order, which no answer has from then on."""
        of_shop = (Order.shop_id == shop_id) & (Order.order_id == order_id)
        gone = await session.scalar(delete(Order).where(of_shop).returning(Order.order_id))
        if gone is None:
            raise HTTPException(404, f"shop {shop_id} has no order {order_id}")
        token = await session.run_sync(commit_token)
        await session.commit()
        return Written(rows=1, token=token)

    @app.get("/shops/{shop_id}/sales", responses=refused | down)
    async def sales(
        shop_id: ShopId, asked: Annotated[AskedOverTime, Query()], session: Reading
    ) -> SalesOverTime:
        """Return orders and revenue over time."""
        question = sales_every(asked.every, asked.time_zone)
        answer = await answered(session, question, shop_id, asked)
        rows = [Sales.model_validate(row._asdict()) for row in answer]
        return SalesOverTime(rows=rows, basis=basis(answer))

    @app.get("/shops/{shop_id}/products", responses=refused | down)
    async def products(
        shop_id: ShopId, asked: Annotated[Asked, Query()], session: Reading
    ) -> Products:
        """Return orders and revenue by product, the greatest revenue first."""
        answer = await answered(session, BY_PRODUCT, shop_id, asked)
        rows = [ProductSales.model_validate(row._asdict()) for row in answer]
        return Products(rows=rows, basis=basis(answer))

    @app.get("/shops/{shop_id}/baskets", responses=refused | down)
    async def baskets(
        shop_id: ShopId, asked: Annotated[Asked, Query()], session: Reading
    ) -> Baskets:
        """Return how many customers there are, and how much an order is worth."""
        answer = await answered(session, OF_BASKETS, shop_id, asked)
        customers, median, p95 = answer.rows[0]
        return Baskets(customers=customers, median=median, p95=p95, basis=basis(answer))

    @app.get("/status", responses=down)
    async def status(session: Reading) -> list[RollupState]:
        """Return how far the rollups are."""
        return [
            RollupState(
                table=each.table,
                rollup=each.rollup,
                last_run=each.last_run,
                pending=each.pending,
                lag_seconds=each.lag.total_seconds(),
                complete=each.complete,
                error=each.error,
            )
            for rollup in rollups_of(Base.metadata)
            for each in await session.run_sync(rollup_status, rollup)
        ]

    @app.get("/health", responses=down)
    async def health(session: Reading) -> Health:
        """Return whether the database answers."""
        await session.execute(text("SELECT 1"))
        return Health(status="ok")

    return app
