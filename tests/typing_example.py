"""An application that uses every public function of the library, for mypy alone.

`make types` checks it with `mypy --strict`; nothing imports or runs it. `assert_type` pins what the
functions return, and `wrong_calls` what mypy must refuse: it complains of an ignore that is not
needed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, assert_type, cast

import polars
from alembic.config import Config
from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    Connection,
    DateTime,
    Engine,
    Index,
    Integer,
    MetaData,
    Row,
    Select,
    Table,
    Text,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    scoped_session,
    sessionmaker,
    with_loader_criteria,
)

import citus_analytics as ca
from citus_analytics import catalog, frames, grafana, lint, migrations
from citus_analytics.copy import LoadResult, Progress, load_csv
from citus_analytics.github import migrate
from citus_analytics.github.events import OldFormatError, Reject
from citus_analytics.github.follow import Feed, FollowOptions, Gap, Poll, follow
from citus_analytics.github.load import (
    LoadOptions,
    indexes_afterwards,
    load_api_events,
    load_events,
    load_files,
    load_once,
    load_users,
    write_reject,
)
from citus_analytics.github.sample import Sample
from citus_analytics.migrations import Job, RollupSpec, op
from citus_analytics.rollups.run import (
    Difference,
    backfill,
    expire,
    repair,
    rollup_status,
    verify,
)
from citus_analytics.server import Binaries, EmbeddedServer, find_binaries, installed_binaries

if TYPE_CHECKING:
    import threading

    from sqlalchemy.orm import ORMExecuteState

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


# Declarations


class Base(DeclarativeBase):
    """The declarative base of the application's tables."""


class PageView(Base):
    """Somebody looked at a page for some seconds."""

    __tablename__ = "page_views"

    site_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    view_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    path: Mapped[str] = mapped_column(Text)
    seconds: Mapped[int] = mapped_column(Integer)
    viewed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))

    __table_args__ = (
        ca.Distributed("site_id", shard_count=32),
        Index("page_views_site_id_viewed_at_idx", "site_id", "viewed_at"),
    )


class Country(Base):
    """A small table with a copy on every node."""

    __tablename__ = "countries"

    __table_args__ = (ca.Reference(),)

    code: Mapped[str] = mapped_column(Text, primary_key=True)


# A table that is not mapped, and one that is declared elsewhere.
page_views = cast("Table", PageView.__table__)
languages = Table("languages", Base.metadata, Column("code", Text), ca.Reference())
elsewhere = Table("elsewhere", Base.metadata, Column("site_id", BigInteger))
ca.distribute(elsewhere, ca.Distributed(elsewhere.c.site_id, colocate_with="page_views"))

PAGE_VIEWS = ca.Rollup(
    "page_views_rollup",
    PageView,
    time=PageView.viewed_at,
    every=["5 minutes", timedelta(days=1), "1 month at Europe/Berlin"],
    by=[PageView.site_id, "path", (PageView.seconds > 60).label("long")],
    measures={
        "views": ca.count(),
        "seconds": ca.total(PageView.seconds),
        "mean": ca.average(page_views.c.seconds),
        "spread": ca.stddev("seconds"),
        "variance": ca.variance("seconds"),
        "shortest": ca.minimum(page_views.c.seconds),
        "longest": ca.maximum("seconds"),
    },
    where=PageView.path != "/health",
    undated=False,
    ranked="views",
)


class PageViewsByDay(Base):
    """A table that a rollup is kept in."""

    __tablename__ = "page_views_by_day"

    __table_args__ = (ca.Distributed("site_id", colocate_with=PageView),)

    site_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    day: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    views: Mapped[int] = mapped_column(BigInteger)


BY_DAY = ca.Rollup(
    "by_day",
    page_views,
    time="viewed_at",
    every=timedelta(days=1),
    by=["site_id"],
    measures={"views": ca.count()},
    target=PageViewsByDay,
    bucket="day",
    function="roll_up_page_views",
)


def declarations(metadata: MetaData) -> None:
    assert_type(ca.distribution_of(PageView), ca.Distributed | ca.Reference | ca.Local)
    assert_type(ca.declared_distribution(Country), ca.Distributed | ca.Reference | ca.Local | None)
    distribution: ca.Distribution = ca.distribution_of(page_views)
    if isinstance(distribution, ca.Distributed):
        assert_type(distribution.column, str | None)
        assert_type(distribution.shard_count, int | None)
    assert_type(PAGE_VIEWS, ca.Rollup)
    assert_type(ca.rollups_of(metadata), tuple[ca.Rollup, ...])
    assert_type(ca.count("views"), ca.Measure)
    assert_type(ca.GITHUB_ROLLUP_1MIN.key, str | None)
    assert_type(PAGE_VIEWS.source, Table)
    assert_type(BY_DAY.name, str)


# Models


def models(session: Session) -> None:
    gh_event = session.scalars(select(ca.GithubEvent)).first()
    assert_type(gh_event, ca.GithubEvent | None)
    assert gh_event is not None
    assert_type(gh_event.event_id, int | None)
    assert_type(gh_event.payload, dict[str, Any] | None)
    assert_type(gh_event.created_at, datetime | None)
    statement = select(ca.GithubEvent.user_id, ca.GithubUser.login).join(
        ca.GithubUser, ca.GithubUser.user_id == ca.GithubEvent.user_id
    )
    assert_type(statement, Select[int | None, str | None])
    assert_type(ca.github_events, Table)
    assert_type(select(ca.GithubRollup1Min.total_events), Select[int | None])
    assert_type(select(ca.LatestRollup.minute), Select[datetime])
    assert_type(select(ca.GithubUserOrigin.event_id), Select[int])
    assert_type(select(ca.LoadedFile.loaded_at), Select[datetime])
    assert_type(select(ca.FollowedFeed.event_ids), Select[list[int]])
    session.add(PageView(site_id=1, view_id=1, path="/", seconds=3, viewed_at=NOON))


# Analytics


def analytics_of_a_session(session: Session) -> None:
    assert_type(ca.count_events(session), int)
    assert_type(ca.count_events(session, since=NOON, event_type="PushEvent"), int)
    for hour in ca.commits_per_hour(session, until=NOON, time_zone="Europe/Berlin"):
        assert_type(hour, ca.HourlyCommits)
        assert_type(hour.hour, datetime | None)
        assert_type(hour.commits, int | None)
    for creator in ca.top_repository_creators(session, limit=3):
        assert_type(creator, ca.RepositoryCreator)
        assert_type(creator.login, str | None)
        assert_type(creator.repositories, int)
    for activity in ca.most_active_users(session, since=NOON, limit=None):
        assert_type(activity, ca.UserActivity)
        assert_type(activity.user_id, int | None)
        assert_type(activity.minute, datetime)
        assert_type(activity.events, int)

    for of_type in ca.events_by_type(session, every="15 minutes", event_type="PushEvent"):
        assert_type(of_type, ca.EventsOfType)
        assert_type(of_type.bucket, datetime | None)
        assert_type(of_type.event_type, str | None)
    for day in ca.user_activity(session, 7, since=NOON):
        assert_type(day, ca.Activity)
    assert_type(ca.user_activity(session, None), list[ca.Activity])
    assert_type(ca.repository_activity(session, None), list[ca.Activity])
    assert_type(ca.top_contributors(session, None), list[ca.Contributor])
    assert_type(ca.user_activity_statement(None), Select[datetime | None, int])
    assert_type(ca.repository_activity(session, 7, every="1 hour"), list[ca.Activity])
    assert_type(ca.active_users(session)[0].users, int)
    assert_type(ca.active_users(session), list[ca.ActiveUsers])
    assert_type(ca.trending_repositories(session)[0].repo_id, int | None)
    assert_type(ca.trending_repositories(session), list[ca.TrendingRepository])
    assert_type(ca.top_contributors(session, 7, limit=None), list[ca.Contributor])
    assert_type(ca.heat_map(session, time_zone="Asia/Kolkata"), list[ca.HeatMapCell])
    sizes = ca.push_sizes(session, freshness="raw")
    assert_type(sizes, ca.PushSizes)
    assert_type(sizes.p95, int | None)


def analytics_of_other_executors(
    connection: Connection, factory: sessionmaker[Session], scope: scoped_session[Session]
) -> None:
    assert_type(ca.count_events(connection), int)
    assert_type(ca.commits_per_hour(connection), list[ca.HourlyCommits])
    with factory.begin() as session:
        assert_type(ca.top_repository_creators(session), list[ca.RepositoryCreator])
    assert_type(ca.count_events(scope), int)
    assert_type(ca.most_active_users(scope), list[ca.UserActivity])


def statements(session: Session, connection: Connection) -> None:
    assert_type(ca.count_events_statement(), Select[int])
    assert_type(ca.commits_per_hour_statement(), Select[datetime | None, int | None])
    assert_type(ca.top_repository_creators_statement(), Select[str | None, int])
    assert_type(ca.most_active_users_statement(), Select[int | None, datetime, int])
    assert_type(ca.events_by_type_statement(), Select[datetime | None, str | None, int])
    assert_type(ca.user_activity_statement(7), Select[datetime | None, int])
    assert_type(ca.repository_activity_statement(7), Select[datetime | None, int])
    assert_type(ca.active_users_statement(), Select[datetime | None, int])
    assert_type(ca.trending_repositories_statement(), Select[int | None, int])
    assert_type(ca.top_contributors_statement(7), Select[int | None, int])
    assert_type(ca.heat_map_statement(), Select[int, int, int])
    assert_type(ca.push_sizes_statement(), Select[int, int | None, int | None, int | None])
    assert_type(session.execute(ca.count_events_statement()).scalar_one(), int)
    assert_type(connection.scalar(ca.count_events_statement()), int | None)
    for row in session.execute(ca.top_repository_creators_statement(limit=3)):
        assert_type(row, Row[str | None, int])
        login, repositories = row
        assert_type(login, str | None)
        assert_type(repositories, int)
    top = ca.top_repository_creators_statement(limit=3).subquery()
    session.execute(select(func.count()).select_from(top)).scalar_one()


def tenants(factory: sessionmaker[Session]) -> None:
    @event.listens_for(factory, "do_orm_execute")
    def one_user(state: ORMExecuteState) -> None:
        state.statement = state.statement.options(
            with_loader_criteria(ca.GithubEvent, ca.GithubEvent.user_id == 1)
        )

    with factory() as session:
        assert_type(ca.count_events(session), int)


async def analytics_from_asyncio(session: AsyncSession, connection: AsyncConnection) -> None:
    assert_type(await session.run_sync(ca.count_events), int)
    assert_type(await session.run_sync(ca.count_events, since=NOON, until=None), int)
    assert_type(await session.run_sync(ca.commits_per_hour), list[ca.HourlyCommits])
    creators = await session.run_sync(ca.top_repository_creators, limit=3)
    assert_type(creators, list[ca.RepositoryCreator])
    assert_type(await connection.run_sync(ca.most_active_users), list[ca.UserActivity])
    assert_type((await session.execute(ca.count_events_statement())).scalar_one(), int)


# Rollups


def rollups(connection: Connection, session: Session, *, wait: bool) -> None:
    # Only callers that do not wait need to handle None.
    assert_type(ca.run_rollup(session, PAGE_VIEWS), ca.RollupRun)
    assert_type(ca.run_rollup(connection, ca.GITHUB_ROLLUP_1MIN, wait=True), ca.RollupRun)
    assert_type(ca.run_rollup(session, PAGE_VIEWS, wait=False), ca.RollupRun | None)
    assert_type(ca.run_rollup(session, PAGE_VIEWS, wait=wait), ca.RollupRun | None)
    run = ca.run_rollup(session, PAGE_VIEWS)
    assert_type(run.changes, int)


def fewer_rollups() -> None:
    ca.GITHUB_REPOSITORY_ACTIVITY.remove()


def moves(engine: Engine, session: Session) -> None:
    for since, until in backfill(engine, PAGE_VIEWS, window=timedelta(days=7)):
        assert_type(since, datetime | None)
        assert_type(until, datetime | None)
    assert_type(verify(session, PAGE_VIEWS, since=NOON), tuple[Difference, ...])
    assert_type(repair(session, PAGE_VIEWS, until=NOON)[0].groups, int)
    assert_type(expire(engine, PAGE_VIEWS, NOON, window=timedelta(hours=6)), int)
    (status, *_) = rollup_status(session, PAGE_VIEWS)
    assert_type(status.horizon, datetime | None)
    assert_type(status.pending, int)
    assert_type(status.complete, bool)


async def rollups_from_asyncio(session: AsyncSession, connection: AsyncConnection) -> None:
    assert_type(await session.run_sync(ca.run_rollup, PAGE_VIEWS), ca.RollupRun)
    assert_type(await connection.run_sync(ca.run_rollup, PAGE_VIEWS), ca.RollupRun)
    # mypy takes the first overload of a function that is passed on; a lambda has them all.
    run = await session.run_sync(lambda sync: ca.run_rollup(sync, PAGE_VIEWS, wait=False))
    assert_type(run, ca.RollupRun | None)


# Loading


def loading(
    connection: Connection, session: Session, scope: scoped_session[Session], path: Path
) -> None:
    assert_type(load_events(connection, path), LoadResult)
    assert_type(load_users(session, "-", progress=print), LoadResult)
    assert_type(load_csv(scope, page_views, [b"1,1,/,3,2026-03-01Z\n"]), LoadResult)
    with path.open("rb") as file:
        result = load_events(session, file, progress=lambda progress: progress.rows)
    assert_type(result.rows, int)
    assert_type(result.bytes, int)
    assert_type(result.rejected, int)
    assert_type(result.duplicates, int)
    assert_type(result.already_loaded, bool)
    rejects: list[Reject] = []
    options = LoadOptions(format="json", unique=True, rejects=rejects.append)
    once = load_once(session, ca.github_events, path, options=options, force=True)
    assert_type(once, LoadResult)
    assert_type(load_api_events(scope, [{"id": "1", "type": "PushEvent"}]), LoadResult)


def loading_files(engine: Engine, folder: Path) -> None:
    def show(progress: Progress) -> None:
        assert_type(progress.bytes, int)
        assert_type(progress.rows, int)
        assert_type(progress.total_bytes, int | None)

    results = load_files(
        engine,
        ca.github_events,
        [folder / "2015-01-01-0.json.gz", "2015-01-01-{1..5}.json"],
        connections=2,
        loaded=lambda _, result: result.rows,
        progress=show,
    )
    assert_type(results, list[LoadResult])
    with indexes_afterwards(engine, ca.github_events) as dropped:
        assert_type(dropped, bool)
    with (folder / "rejects.jsonl").open("wb") as file:
        write_reject(file, "2015-01-01-0.json", Reject(line=1, reason="cut short", text=b"{"))


async def loading_from_asyncio(session: AsyncSession, connection: AsyncConnection) -> None:
    async def events() -> AsyncIterator[dict[str, Any]]:
        yield {"id": "1", "type": "PushEvent"}

    assert_type(await session.run_sync(load_api_events, events()), LoadResult)
    assert_type(await session.run_sync(load_csv, page_views, [b""]), LoadResult)
    assert_type(await connection.run_sync(load_events, "events.csv"), LoadResult)


def samples(connection: Connection) -> None:
    sample = Sample(events=100, since=NOON, until=NOON + timedelta(hours=1), users=10)
    assert_type(sample.events_csv(), Iterator[bytes])
    load_users(connection, sample.users_csv())


# Following GitHub's events API


def following(engine: Engine, stop: threading.Event) -> None:
    options = FollowOptions(
        token="secret", interval=60, max_polls=3, max_failures=5, timeout=10, rejects=print
    )
    feed = Feed(repo="citusdata/citus")
    assert_type(feed.address, str)
    for poll in follow(engine, feed, options=options, wait=stop.wait):
        assert_type(poll, Poll)
        assert_type(poll.outcome, Literal["loaded", "unchanged", "failed"])
        assert_type(poll.new, int)
        assert_type(poll.gap, Gap | None)
        if poll.gap is not None:
            assert_type(poll.gap.until - poll.gap.since, timedelta)


# The state of a cluster


def on_a_cluster(engine: Engine, session: Session) -> None:
    shape = ca.explain_shape(session, PageView, {})
    assert_type(shape, ca.Shape)
    assert_type(shape.kind, ca.ShapeKind)
    assert_type(shape.tasks, tuple[ca.Task, ...])
    ca.explain_shape(session, page_views)
    ca.explain_shape(session, select(PageView))
    with ca.consistent_snapshot(engine, timeout=timedelta(seconds=2)) as connection:
        assert_type(connection, Connection)


async def on_a_cluster_from_asyncio(engine: AsyncEngine) -> None:
    async with ca.consistent_snapshot(engine) as connection:
        assert_type(connection, AsyncConnection)
        assert_type(await connection.run_sync(ca.explain_shape, "SELECT 1"), ca.Shape)


def state_of_a_cluster(connection: Connection) -> None:
    status = catalog.cluster_status(connection)
    assert_type(status, catalog.ClusterStatus)
    assert_type(status.findings, tuple[catalog.Finding, ...])
    assert_type(status.citus, tuple[int, int] | None)
    assert_type(catalog.citus_version(connection), tuple[int, int] | None)
    assert_type(catalog.cluster_health(connection), catalog.ClusterHealth)
    assert_type(catalog.access_methods(connection), frozenset[str])
    assert_type(catalog.colocation_groups(connection), tuple[catalog.ColocationGroup, ...])
    assert_type(catalog.rollups(connection), tuple[catalog.CatalogRollup, ...])
    nodes, shards = catalog.nodes(connection), catalog.shards(connection)
    assert_type(nodes, tuple[catalog.Node, ...])
    assert_type(shards, tuple[catalog.Shard, ...])
    assert_type(shards[0].placements, tuple[catalog.Placement, ...])
    tables = catalog.tables(connection, schemas=["public"])
    assert_type(tables, tuple[catalog.CatalogTable, ...])
    assert_type(tables[0].column, str | None)
    sizes = catalog.table_sizes(connection, schemas={"public"})
    assert_type(sizes, tuple[catalog.TableSize, ...])
    assert_type(catalog.table_skew(tables, shards), tuple[catalog.TableSkew, ...])
    assert_type(catalog.node_loads(nodes, shards), tuple[catalog.NodeLoad, ...])


async def state_of_a_cluster_from_asyncio(connection: AsyncConnection) -> None:
    assert_type(await connection.run_sync(catalog.cluster_status), catalog.ClusterStatus)


# Migrations


def migrating(url: URL, connection: Connection) -> None:
    assert_type(migrations.database_url("postgresql://db"), URL)
    assert_type(migrate.configuration(connection), Config)
    assert_type(migrations.plugins("alembic.autogenerate.*"), list[str])
    migrations.run_environment(Base.metadata)
    migrations.run_environment([Base.metadata, ca.Base.metadata], compare_type=False)
    migrate.upgrade(url, citus="require")
    migrate.upgrade(connection, "ca_0001")
    migrate.downgrade("postgresql://db", "-1", citus="skip")


async def migrating_from_asyncio(connection: AsyncConnection) -> None:
    await connection.run_sync(migrate.upgrade, citus="require")


def upgrade() -> None:
    """A revision: `op` has Alembic's operations and those of the library."""
    assert_type(op.create_table("t"), Table)
    op.create_distributed_table("t", "id", colocate_with="u", schema="s")
    op.create_distributed_table("t", None)
    op.create_distributed_table_concurrently("t", "id", colocate_with="none", shard_count=8)
    op.create_reference_table("t", schema="s")
    op.add_local_table_to_metadata("t", cascade=True)
    op.undistribute_table("t", was=ca.Reference())
    op.alter_distributed_table("t", shard_count=8, was=ca.Distributed(column="id", shard_count=4))
    op.alter_table_set_access_method("t", "columnar", was="heap")
    op.update_distributed_table_colocation("t", "u", was="none")
    op.isolate_tenant_to_new_shard("t", 7, cascade=True)
    op.create_time_partitions("t", "1 day", NOON, start_from=NOON)
    op.create_time_partitions("t", timedelta(days=1), NOON)
    op.drop_old_time_partitions("t", NOON)
    op.create_distributed_function("f(bigint)", distribution_argument="$1", colocate_with="t")
    op.undistribute_function("f(bigint)", distribution_argument="$1", colocate_with="t")
    op.distribute_schema("tenant_1")
    op.undistribute_schema("tenant_1")
    op.set_multi_shard_modify_mode("sequential")
    op.schedule("nightly", "0 3 * * *", "SELECT roll_up_page_views()")
    op.unschedule("nightly", was=Job("0 3 * * *", "SELECT roll_up_page_views()"))
    spec: RollupSpec = BY_DAY.spec()
    op.create_rollups(spec)
    op.drop_rollups(spec, keep_state=True, clear=("page_views_by_day",))


# The linter


def linting() -> None:
    lint.ignore(page_views, "CA012", reason="A site has few views.")
    findings = [
        *lint.lint_metadata(Base.metadata, ca.Base.metadata, citus=(12, 1), ignore={"CA012"}),
        *lint.lint_migrations("alembic", Path("more"), citus=(13, 2), ignore=["CA102"]),
    ]
    assert_type(findings, list[lint.Finding])
    assert_type(findings[0].severity, Literal["error", "warning"])
    assert_type(findings[0].line, int | None)
    assert_type(lint.RULES["CA012"].title, str)


# A server for development


def servers(directory: Path) -> None:
    assert_type(find_binaries(), Binaries)
    assert_type(installed_binaries(), Iterator[Binaries])
    with EmbeddedServer(directory, port=5433) as server:
        assert_type(server, EmbeddedServer)
        assert_type(server.url, URL)
        assert_type(server.url_for("app"), URL)
        assert_type(server.pid, int)
        assert_type(create_engine(server.url), Engine)
        create_async_engine(server.url)


# Frames and Grafana


def answers_as_frames(session: Session) -> None:
    answer = ca.ask(session, PageView, measures={"views": ca.count()})
    assert_type(answer.question, ca.Question)
    assert_type(frames.to_polars(answer), polars.DataFrame)
    assert_type(frames.to_polars(session.execute(select(PageView.path))), polars.DataFrame)
    assert_type(frames.to_polars(ca.commits_per_hour(session)), polars.DataFrame)
    assert_type(frames.to_polars([], of=ca.UserActivity, numeric="text"), polars.DataFrame)
    assert_type(frames.to_polars(ca.push_sizes(session)), polars.DataFrame)
    for _ in frames.to_arrow_batches(iter(ca.most_active_users(session)), rows=100):
        pass
    frames.to_pandas(answer, numeric="float")
    frames.to_arrow(answer, numeric="double")  # type: ignore[arg-type]
    frames.to_arrow(select(PageView.path))  # type: ignore[arg-type]
    frames.to_arrow([], of=PageView)  # type: ignore[arg-type]


def rollups_in_grafana(engine: Engine) -> None:
    assert_type(grafana.dashboard(Base.metadata), dict[str, Any])
    assert_type(grafana.write(Path("grafana"), Base.metadata, engine.url), list[Path])


# Errors


def errors(session: Session) -> None:
    try:
        load_events(session, "events.csv")
    except OldFormatError:
        raise
    except ca.LoadError as error:
        assert_type(error.line, int | None)
        assert_type(error.column, str | None)
    except (ca.ArgumentError, ca.DeclarationError) as error:
        assert_type(error, ca.ArgumentError | ca.DeclarationError)
        raise ValueError from error
    except (ca.OperationError, ca.RollupError, ca.ServerError) as error:
        root: ca.CitusAnalyticsError = error
        raise root from None


# What mypy must refuse


def wrong_calls(
    engine: Engine, session: Session, connection: Connection, async_session: AsyncSession
) -> None:
    ca.Distributed(column=7)  # type: ignore[arg-type]
    ca.distribute(page_views, "site_id")  # type: ignore[arg-type]
    ca.total()  # type: ignore[call-arg]
    ca.Rollup("r", PageView)  # type: ignore[call-arg]
    ca.Rollup("r", PageView, measures=[ca.count()])  # type: ignore[arg-type]
    ca.Rollup("r", PageView, every=5, measures={"n": ca.count()})  # type: ignore[arg-type]
    ca.count_events(engine)  # type: ignore[arg-type]
    ca.count_events(async_session)  # type: ignore[arg-type]
    ca.count_events(session, NOON)  # type: ignore[call-arg]
    ca.count_events(session, since="2026-01-01")  # type: ignore[arg-type]
    ca.commits_per_hour(session, time_zone=None)  # type: ignore[arg-type]
    ca.commits_per_hour(session, limit=5)  # type: ignore[call-arg]
    ca.most_active_users(session, limit="5")  # type: ignore[arg-type]
    ca.most_active_users(session)[0].events = 7  # type: ignore[misc]
    ca.run_rollup(session, PAGE_VIEWS, False)  # type: ignore[call-overload]
    ca.run_rollup(session, PAGE_VIEWS, wait=False).changes  # type: ignore[union-attr]  # noqa: B018
    ca.run_rollup(session, page_views)  # type: ignore[call-overload]
    load_events(session, 7)  # type: ignore[arg-type]
    load_events(session, "events.csv", progress=7)  # type: ignore[arg-type]
    load_files(session, ca.github_events, ["events.csv"])  # type: ignore[arg-type]
    LoadOptions(format="xml")  # type: ignore[arg-type]
    follow(engine, "citusdata/citus")  # type: ignore[arg-type]
    Feed("citusdata/citus")  # type: ignore[call-arg]
    catalog.tables(engine)  # type: ignore[arg-type]
    migrate.upgrade("postgresql://db", citus="perhaps")  # type: ignore[arg-type]
    op.create_distributed_table("t")  # type: ignore[call-arg]
    op.create_distributed_table("t", "id", shard_count="4")  # type: ignore[arg-type]
    op.create_distributed_table_concurrently("t", None)  # type: ignore[arg-type]
    op.set_multi_shard_modify_mode("serial")  # type: ignore[arg-type]
    lint.ignore(page_views, "CA012")  # type: ignore[call-arg]
    lint.lint_metadata(Base)  # type: ignore[arg-type]
