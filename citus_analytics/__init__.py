"""Real-time analytics on PostgreSQL and Citus: sharded tables, exact rollups, typed questions.

What an application needs every day is here. More rooms are imported by name, because they bring
something along that not every application wants: `citus_analytics.migrations` (Alembic and
migrations of your own) and
`citus_analytics.lint` to check them; `citus_analytics.catalog` (the state of a cluster);
`citus_analytics.github.sample` (made-up events); and `citus_analytics.server` (a PostgreSQL for
development).
"""

from __future__ import annotations

from citus_analytics.errors import (
    ArgumentError,
    CitusAnalyticsError,
    DeclarationError,
    LoadError,
    OperationError,
    RollupError,
    ServerError,
)
from citus_analytics.github.analytics import (
    HourlyCommits,
    RepositoryCreator,
    UserActivity,
    commits_per_hour,
    commits_per_hour_statement,
    count_events,
    count_events_statement,
    most_active_users,
    most_active_users_statement,
    top_repository_creators,
    top_repository_creators_statement,
)
from citus_analytics.github.follow import Feed, FollowOptions, Gap, Poll, follow
from citus_analytics.github.gharchive import OldFormatError, Reject
from citus_analytics.github.ingest import (
    LoadOptions,
    LoadResult,
    Progress,
    load_api_events,
    load_api_events_async,
    load_csv,
    load_events,
    load_files,
    load_once,
    load_users,
)
from citus_analytics.github.models import (
    GITHUB_ROLLUP_1MIN,
    Base,
    FollowedFeed,
    GithubEvent,
    GithubRollup1Min,
    GithubUser,
    GithubUserOrigin,
    LatestRollup,
    LoadedFile,
    followed_feeds,
    github_events,
    github_rollup_1min,
    github_user_origins,
    github_users,
    latest_rollup,
    loaded_files,
)
from citus_analytics.rollups.declare import (
    Measure,
    Rollup,
    count,
    declare_rollup,
    maximum,
    minimum,
    rollups_of,
    total,
)
from citus_analytics.rollups.run import RollupRun, run_rollup
from citus_analytics.schema import (
    Distributed,
    Distribution,
    Local,
    Reference,
    declared_distribution,
    distribute,
    distribution_of,
)

__version__ = "0.1.0"

# ruff: noqa: RUF022 - grouped by what they are for
__all__ = [
    # GitHub's events, as tables and as classes
    "Base",
    "FollowedFeed",
    "GithubEvent",
    "GithubRollup1Min",
    "GithubUser",
    "GithubUserOrigin",
    "LatestRollup",
    "LoadedFile",
    "followed_feeds",
    "github_events",
    "github_rollup_1min",
    "github_user_origins",
    "github_users",
    "latest_rollup",
    "loaded_files",
    # How tables are spread over a cluster
    "Distributed",
    "Distribution",
    "Local",
    "Reference",
    "declared_distribution",
    "distribute",
    "distribution_of",
    # Loading
    "LoadOptions",
    "LoadResult",
    "Progress",
    "Reject",
    "load_api_events",
    "load_api_events_async",
    "load_csv",
    "load_events",
    "load_files",
    "load_once",
    "load_users",
    # Following GitHub's events API
    "Feed",
    "FollowOptions",
    "Gap",
    "Poll",
    "follow",
    # Rollups
    "GITHUB_ROLLUP_1MIN",
    "Measure",
    "Rollup",
    "RollupRun",
    "count",
    "declare_rollup",
    "maximum",
    "minimum",
    "rollups_of",
    "run_rollup",
    "total",
    # Questions
    "HourlyCommits",
    "RepositoryCreator",
    "UserActivity",
    "commits_per_hour",
    "commits_per_hour_statement",
    "count_events",
    "count_events_statement",
    "most_active_users",
    "most_active_users_statement",
    "top_repository_creators",
    "top_repository_creators_statement",
    # Errors
    "ArgumentError",
    "CitusAnalyticsError",
    "DeclarationError",
    "LoadError",
    "OldFormatError",
    "OperationError",
    "RollupError",
    "ServerError",
]
