"""What can be typed after `citus-analytics`, and what it means."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from typing import TYPE_CHECKING, Final, TypeAlias

from citus_analytics import __version__
from citus_analytics.cli.follow_arguments import add_follow_arguments
from citus_analytics.cli.load_arguments import add_load_options
from citus_analytics.cli.values import limit, moment, positive, version

if TYPE_CHECKING:
    from argparse import Namespace, _MutuallyExclusiveGroup, _SubParsersAction
    from collections.abc import Sequence

    Commands: TypeAlias = "_SubParsersAction[ArgumentParser]"

DEMO_EVENTS: Final = 300_000

_DESCRIPTION: Final = "Real-time analytics on PostgreSQL and Citus, with rollups that add up."
_EXIT_CODES: Final = """\
exit codes:
  0    done
  1    the work failed: the server, the data or the installation; standard error says why;
       or lint has found something
  2    the arguments are wrong, or no database is named
  3    another run of the rollup is under way (rollup --no-wait)
  130  interrupted, by Ctrl-C or SIGTERM

With --json, standard output is one JSON document after success, and empty otherwise. `follow`
writes a document on a line of its own for each poll, and ends with 0 by Ctrl-C or SIGTERM.
"""


def parse(argv: Sequence[str] | None) -> Namespace:
    """Return the arguments of a command; `command` is its name.

    Raises:
        SystemExit: They are not understood, or ask for help or the version.
    """
    return _parser().parse_args(argv)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="citus-analytics",
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"citus-analytics {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands"
    )
    for add in (
        _add_demo,
        _add_migrate,
        _add_load,
        _add_follow,
        _add_rollup,
        _add_query,
        _add_status,
        _add_lint,
    ):
        add(commands)
    return parser


def _add_demo(commands: Commands) -> None:
    demo = _command(
        commands,
        "demo",
        "see the whole story on made-up events",
        "Migrate a database, load made-up events, roll them up, ask the four questions, then load "
        "events that come late, and see that raw and rolled-up totals still agree. Runs on a "
        "temporary server of its own (extra: embedded) unless --database-url names another.",
    )
    _add_database_url(
        demo, "an empty database to run on, which keeps the data; DATABASE_URL is not looked at"
    )
    demo.add_argument(
        "--events",
        type=positive,
        default=DEMO_EVENTS,
        metavar="N",
        help=f"how many events to make up (default: {DEMO_EVENTS:,})",
    )
    _add_json(demo)


def _add_migrate(commands: Commands) -> None:
    migrate = _command(
        commands,
        "migrate",
        "create or change the tables",
        "Bring the tables to a revision, in one transaction, and tell at which one they are.",
    )
    _add_database_url(migrate)
    revisions = migrate.add_mutually_exclusive_group()
    revisions.add_argument(
        "--revision", default="head", metavar="REV", help="upgrade to this one (default: head)"
    )
    revisions.add_argument(
        "--downgrade",
        metavar="REV",
        help="go back to this one; base drops all tables and their data",
    )
    migrate.add_argument(
        "--citus",
        choices=("auto", "require", "skip"),
        default="auto",
        help="distribute the tables where Citus is (auto, the default), fail where it is not "
        "(require), or never distribute (skip)",
    )
    output = migrate.add_mutually_exclusive_group()
    output.add_argument(
        "--sql", action="store_true", help="print the SQL for psql instead; needs no database"
    )
    _add_json(output)


def _add_load(commands: Commands) -> None:
    load = _command(
        commands,
        "load",
        "load events or users, each file once",
        "Load CSV without a header in the layout of the table, or events in JSON as GH Archive and "
        "GitHub's API have them, plain or gzipped. Each file is loaded in full or not at all, and "
        "its content is not loaded again. Users are loaded from events in JSON as well.",
    )
    load.add_argument("table", choices=("events", "users"), help="what the rows are")
    load.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="a path, a folder, an http(s) address, a range such as 2015-01-01-{0..5}.json.gz, "
        "or - for standard input",
    )
    add_load_options(load)
    _add_database_url(load)
    _add_json(load)


def _add_follow(commands: Commands) -> None:
    follow = _command(
        commands,
        "follow",
        "follow GitHub's events live",
        "Poll GitHub's events API as often as it allows, and store what is new, each event once. "
        "Started again, it goes on from where it ended. A token in GITHUB_TOKEN raises the limit "
        "from 60 to 5,000 requests an hour.",
    )
    add_follow_arguments(follow, positive)
    _add_database_url(follow)


def _add_rollup(commands: Commands) -> None:
    rollup = _command(
        commands,
        "rollup",
        "bring the rollup up to date",
        "Roll up what has changed since the last run, however old the events are.",
    )
    _add_database_url(rollup)
    rollup.add_argument(
        "--no-wait",
        action="store_true",
        help="leave with exit code 3 if another run is under way, instead of waiting for it",
    )
    _add_json(rollup)


def _add_query(commands: Commands) -> None:
    query = _command(commands, "query", "ask one of the four questions", "Ask a question.")
    questions = query.add_subparsers(
        dest="question", required=True, metavar="QUESTION", title="questions"
    )
    count = _question(questions, "count", "how many events are there?")
    count.add_argument(
        "--type",
        dest="event_type",
        default=SUPPRESS,
        metavar="TYPE",
        help="of this type only, such as PushEvent",
    )
    commits = _question(questions, "commits-per-hour", "how many commits were pushed every hour?")
    commits.add_argument(
        "--time-zone",
        default="UTC",
        metavar="ZONE",
        help="whose hours, such as Europe/Berlin (default: UTC)",
    )
    _add_limit(_question(questions, "top-creators", "who created the most repositories?"), 10)
    _add_limit(
        _question(questions, "most-active", "which users were most active, and in which minutes?"),
        5,
    )


def _add_status(commands: Commands) -> None:
    status = _command(
        commands,
        "status",
        "see the cluster: nodes, tables, sizes, skew",
        "Tell what the database runs on, whether its nodes reach each other, how its tables are "
        "spread over them, how large and how even they are, and what needs attention. Changes "
        "nothing, and needs no rights but to connect.",
    )
    _add_database_url(status)
    _add_json(status)


def _add_lint(commands: Commands) -> None:
    lint = _command(
        commands,
        "lint",
        "find what Citus will refuse, without a database",
        "Look at declared tables and at Alembic migrations for what a Citus cluster refuses, or "
        "takes and regrets. Nothing of a migration is run.",
    )
    lint.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help="a folder with migrations, or metadata as package.module:Base (default: the "
        "migrations that alembic.ini names)",
    )
    lint.add_argument(
        "--citus",
        type=version,
        default=(13, 2),
        metavar="VERSION",
        help="whose limits to assume (default: 13.2)",
    )
    lint.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="CODE",
        help="a code that is not wanted, such as CA012; can be given several times",
    )
    lint.add_argument(
        "--format",
        choices=("text", "json", "github"),
        default="text",
        help="how to print findings; github: as annotations of a workflow",
    )
    lint.add_argument("--explain", metavar="CODE", help="tell what a code means, and end")


def _question(questions: Commands, name: str, help_text: str) -> ArgumentParser:
    question = _command(questions, name, help_text, help_text[0].upper() + help_text[1:])
    _add_database_url(question)
    for bound, meaning in (("since", "at this time or later"), ("until", "before this time")):
        question.add_argument(
            f"--{bound}",
            type=moment,
            default=SUPPRESS,
            metavar="TIME",
            help=f"consider what happened {meaning}, such as 2026-03-01T12:00Z",
        )
    _add_json(question)
    return question


def _command(commands: Commands, name: str, help_text: str, description: str) -> ArgumentParser:
    return commands.add_parser(
        name,
        help=help_text,
        description=description,
        epilog=_EXIT_CODES,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _add_database_url(
    parser: ArgumentParser, help_text: str = "the database (default: DATABASE_URL)"
) -> None:
    parser.add_argument(
        "--database-url", metavar="URL", help=f"{help_text}; postgresql://user:password@host/name"
    )


def _add_json(parser: ArgumentParser | _MutuallyExclusiveGroup) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def _add_limit(parser: ArgumentParser, default: int) -> None:
    parser.add_argument(
        "--limit",
        type=limit,
        default=default,
        metavar="N",
        help=f"how many rows, or all (default: {default})",
    )
