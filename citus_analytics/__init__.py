"""Real-time analytics on PostgreSQL and Citus: sharded tables, exact rollups, typed questions.

Declarations, rollups, and GitHub's events as the built-in tables, with the analytics of the
tutorial and more. Everything else is imported from its package:

- `citus_analytics.migrations`: Citus's operations for Alembic, autogenerate, `upgrade`;
- `citus_analytics.copy`: COPY of CSV into any table;
- `citus_analytics.catalog`: the state of a cluster;
- `citus_analytics.frames`: answers as Arrow, polars and pandas;
- `citus_analytics.grafana`: a dashboard of the rollups for Grafana;
- `citus_analytics.lint`: what Citus would refuse, found in models and migrations;
- `citus_analytics.server`: a PostgreSQL for development;
- `citus_analytics.testing`: servers, databases and assertions for an application's own tests;
- `citus_analytics.github.load`, `.follow` and `.sample`: GitHub's events from files, live, made up.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from citus_analytics.cluster import (
        Shape,
        ShapeKind,
        Task,
        consistent_snapshot,
        explain_shape,
    )
    from citus_analytics.errors import (
        ArgumentError,
        CitusAnalyticsError,
        DeclarationError,
        LoadError,
        MissingPackageError,
        OperationError,
        RollupError,
        ServerError,
        SnapshotError,
    )
    from citus_analytics.github.analytics import (
        ActiveUsers,
        Activity,
        Contributor,
        EventsOfType,
        HeatMapCell,
        HourlyCommits,
        PushSizes,
        RepositoryCreator,
        TrendingRepository,
        UserActivity,
        active_users,
        active_users_statement,
        commits_per_hour,
        commits_per_hour_statement,
        count_events,
        count_events_statement,
        events_by_type,
        events_by_type_statement,
        heat_map,
        heat_map_statement,
        most_active_users,
        most_active_users_statement,
        push_sizes,
        push_sizes_statement,
        repository_activity,
        repository_activity_statement,
        top_contributors,
        top_contributors_statement,
        top_repository_creators,
        top_repository_creators_statement,
        trending_repositories,
        trending_repositories_statement,
        user_activity,
        user_activity_statement,
    )
    from citus_analytics.github.models import (
        GITHUB_ACTIVE_USERS,
        GITHUB_EVENTS_BY_TYPE,
        GITHUB_LOGINS,
        GITHUB_PUSH_SIZES,
        GITHUB_REPOSITORIES_CREATED,
        GITHUB_REPOSITORIES_CREATED_BY_DAY,
        GITHUB_REPOSITORY_ACTIVITY,
        GITHUB_ROLLUP_1MIN,
        GITHUB_STARS,
        GITHUB_USER_ACTIVITY,
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
    from citus_analytics.github.models import Base as Base
    from citus_analytics.rollups.ask import (
        Answer,
        Plan,
        Question,
        Step,
        Stream,
        ask,
        commit_token,
    )
    from citus_analytics.rollups.declare import (
        Every,
        Measure,
        Rollup,
        average,
        count,
        distinct,
        maximum,
        minimum,
        percentiles,
        rollups_of,
        stddev,
        total,
        variance,
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

# What `from citus_analytics import *` gives. `Base` is public too, but most applications have one
# of their own.
# ruff: noqa: RUF022 - grouped by what they are for
__all__ = [
    # GitHub's events, as tables and as classes
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
    # The rollups of these events
    "GITHUB_ACTIVE_USERS",
    "GITHUB_EVENTS_BY_TYPE",
    "GITHUB_LOGINS",
    "GITHUB_PUSH_SIZES",
    "GITHUB_REPOSITORIES_CREATED",
    "GITHUB_REPOSITORIES_CREATED_BY_DAY",
    "GITHUB_REPOSITORY_ACTIVITY",
    "GITHUB_ROLLUP_1MIN",
    "GITHUB_STARS",
    "GITHUB_USER_ACTIVITY",
    # How tables are spread over a cluster
    "Distributed",
    "Distribution",
    "Local",
    "Reference",
    "declared_distribution",
    "distribute",
    "distribution_of",
    # Rollups
    "Every",
    "Measure",
    "Rollup",
    "RollupRun",
    "average",
    "count",
    "distinct",
    "maximum",
    "minimum",
    "percentiles",
    "rollups_of",
    "run_rollup",
    "stddev",
    "total",
    "variance",
    # Questions to any source
    "Answer",
    "Plan",
    "Question",
    "Step",
    "Stream",
    "ask",
    "commit_token",
    # On a cluster
    "Shape",
    "ShapeKind",
    "Task",
    "consistent_snapshot",
    "explain_shape",
    # Questions about GitHub's events
    "ActiveUsers",
    "Activity",
    "Contributor",
    "EventsOfType",
    "HeatMapCell",
    "HourlyCommits",
    "PushSizes",
    "RepositoryCreator",
    "TrendingRepository",
    "UserActivity",
    "active_users",
    "active_users_statement",
    "commits_per_hour",
    "commits_per_hour_statement",
    "count_events",
    "count_events_statement",
    "events_by_type",
    "events_by_type_statement",
    "heat_map",
    "heat_map_statement",
    "most_active_users",
    "most_active_users_statement",
    "push_sizes",
    "push_sizes_statement",
    "repository_activity",
    "repository_activity_statement",
    "top_contributors",
    "top_contributors_statement",
    "top_repository_creators",
    "top_repository_creators_statement",
    "trending_repositories",
    "trending_repositories_statement",
    "user_activity",
    "user_activity_statement",
    # Errors
    "ArgumentError",
    "CitusAnalyticsError",
    "DeclarationError",
    "LoadError",
    "MissingPackageError",
    "OperationError",
    "RollupError",
    "ServerError",
    "SnapshotError",
]

# Where the names are, the light modules first.
_MODULES = (
    "errors",
    "schema",
    "rollups.declare",
    "rollups.run",
    "rollups.ask",
    "cluster",
    "github.models",
    "github.analytics",
)

if not TYPE_CHECKING:
    # Imported when it is used: the command line starts with this package, and for as long as it
    # imports SQLAlchemy nobody could handle Ctrl-C.
    def __getattr__(name: str) -> object:
        for module in _MODULES if name in (*__all__, "Base") else ():
            try:
                value = getattr(import_module(f"{__name__}.{module}"), name)
            except AttributeError:
                continue
            globals()[name] = value
            return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, "Base"})
