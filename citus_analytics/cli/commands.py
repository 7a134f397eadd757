"""What each command does: call the library, and tell what came of it."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from dataclasses import asdict
from io import StringIO
from typing import TYPE_CHECKING, Final

from alembic import command
from alembic.runtime.migration import MigrationContext

from citus_analytics import sql
from citus_analytics.cli import answers
from citus_analytics.cli.database import engine_for, url_of
from citus_analytics.cli.demo import demo
from citus_analytics.cli.failures import Exit, ExitError
from citus_analytics.cli.follow import follow_feed
from citus_analytics.cli.lint import lint
from citus_analytics.cli.load import load
from citus_analytics.cli.output import open_screen, write, write_json
from citus_analytics.cli.progress import waiting
from citus_analytics.cli.status import status
from citus_analytics.cli.words import duration, in_utc, plural, rolled_up, timed
from citus_analytics.github.analytics import count_events
from citus_analytics.github.models import GITHUB_ROLLUP_1MIN
from citus_analytics.migrations import configuration, downgrade, upgrade
from citus_analytics.rollups.run import run_rollup

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator
    from typing import Any


def migrate(arguments: Namespace) -> None:
    """Bring the tables to a revision, or print the SQL that would."""
    with _migrations_told():
        if arguments.sql:
            _print_sql(arguments)
        else:
            _migrate(arguments)


def _migrate(arguments: Namespace) -> None:
    with engine_for(url_of(arguments)).begin() as connection, timed() as watch:
        context = MigrationContext.configure(connection)
        before = _revision(context)
        if arguments.downgrade:
            downgrade(connection, arguments.downgrade, citus=arguments.citus)
        else:
            upgrade(connection, arguments.revision, citus=arguments.citus)
        after = _revision(context)
    if arguments.json:
        write_json({"revision": after, "previous_revision": before, "seconds": watch.seconds})
        return
    now = f"The database is at revision {after}" if after else "The database has no tables of ours"
    change = "as it was before" if before == after else f"it was at {before or 'none'}"
    name, revision = (
        ("downgrade", arguments.downgrade)
        if arguments.downgrade
        else ("upgrade", arguments.revision)
    )
    write(
        f"{now}; {change} ({duration(watch.seconds)}).",
        f"Python: citus_analytics.migrations.{name}(url, {revision!r})",
    )


def _revision(context: MigrationContext) -> str | None:
    """Return the revision; several, where an application has its own beside ours."""
    return ", ".join(sorted(context.get_current_heads())) or None


def _print_sql(arguments: Namespace) -> None:
    # A script is made without looking at a database, so Alembic has to be told where it starts.
    config = configuration("postgresql://", citus=arguments.citus)
    # Nobody shall run a script that an error has cut short.
    config.output_buffer = script = StringIO()
    if arguments.downgrade:
        back = arguments.downgrade
        command.downgrade(config, back if ":" in back else f"head:{back}", sql=True)
    else:
        command.upgrade(config, arguments.revision, sql=True)
    write(script.getvalue().rstrip())


def rollup(arguments: Namespace) -> None:
    """Bring the rollup up to date, in one transaction.

    Raises:
        ExitError: Another run is under way, and is not to be waited for.
    """
    with (
        engine_for(url_of(arguments)).begin() as connection,
        timed() as watch,
        waiting("Rolling up"),
    ):
        run = run_rollup(connection, GITHUB_ROLLUP_1MIN, wait=not arguments.no_wait)
    if run is None:
        raise ExitError("another run of the rollup is under way; this one did nothing.", Exit.BUSY)
    run = in_utc(run)
    if arguments.json:
        write_json({**asdict(run), "seconds": watch.seconds})
        return
    write(
        f"Rollup: {rolled_up(run, watch.seconds)}",
        f"Python: run_rollup(session{', wait=False' if arguments.no_wait else ''}); "
        "any client: SELECT rollup_http_request();",
    )


def query(arguments: Namespace) -> None:
    """Ask one of the four questions."""
    if arguments.question == "count":
        _count(arguments)
        return
    screen = None if arguments.json else open_screen()
    filters = _filters(arguments, "since", "until", "time_zone", "limit")
    with engine_for(url_of(arguments)).connect() as connection:
        rows = answers.ask(connection, arguments.question, filters)
    if screen is None:
        write_json(rows)
        return
    answers.show(screen, arguments.question, rows)
    screen.note(f"Python: {answers.call(arguments.question, filters)}")


def _count(arguments: Namespace) -> None:
    filters = _filters(arguments, "since", "until", "event_type")
    with engine_for(url_of(arguments)).connect() as connection:
        events = count_events(connection, **filters)
    if arguments.json:
        write_json({"events": events})
    else:
        write(plural(events, "event"), f"Python: {answers.call('count', filters)}")


def _filters(arguments: Namespace, *names: str) -> dict[str, Any]:
    """Return the filters that were given, as arguments of the question's function."""
    return {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}


@contextmanager
def _migrations_told() -> Iterator[None]:
    """Tell on standard error which migrations run, and what the server says of them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_is_about_a_migration)
    alembic, own = logging.getLogger("alembic.runtime"), sql.logger()
    level = alembic.level
    alembic.setLevel(logging.INFO)
    for logger in (alembic, own):
        logger.addHandler(handler)
    try:
        yield
    finally:
        alembic.setLevel(level)
        for logger in (alembic, own):
            logger.removeHandler(handler)


def _is_about_a_migration(record: logging.LogRecord) -> bool:
    # Alembic also tells which dialect it uses.
    return record.levelno >= logging.WARNING or record.getMessage().startswith("Running")


COMMANDS: Final[dict[str, Callable[[Namespace], None]]] = {
    "demo": demo,
    "migrate": migrate,
    "load": load,
    "follow": follow_feed,
    "rollup": rollup,
    "query": query,
    "status": status,
    "lint": lint,
}
