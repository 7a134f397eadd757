"""The commands of the core: rollup, status and lint."""

from __future__ import annotations

import importlib
import os
import sys
from argparse import ArgumentTypeError
from collections import Counter
from dataclasses import asdict, dataclass, replace
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError, coerce_resource_to_filename
from sqlalchemy import MetaData, text

from citus_analytics.catalog import cluster_status
from citus_analytics.cli.main import (
    Exit,
    ExitError,
    add_command,
    add_database_url,
    add_json,
    engine_of,
    printable,
)
from citus_analytics.cli.output import (
    Screen,
    duration,
    minute,
    plural,
    size,
    timed,
    waiting,
    write,
    write_json,
)
from citus_analytics.errors import ArgumentError
from citus_analytics.lint import RULES, lint_metadata, lint_migrations
from citus_analytics.rollups.declare import rollups_of
from citus_analytics.rollups.run import run_rollup

if TYPE_CHECKING:
    from argparse import Namespace

    from sqlalchemy import Connection

    from citus_analytics.catalog import ClusterStatus, Node
    from citus_analytics.cli.main import Commands
    from citus_analytics.cli.output import Cell
    from citus_analytics.lint import Finding
    from citus_analytics.rollups.run import RollupRun


def metadata_of(target: str) -> MetaData:
    """Return the metadata that `package.module:attribute` is, or that its declarative base has.

    Raises:
        ExitError: The module cannot be imported, or the attribute is something else.
    """
    module, colon, attribute = target.partition(":")
    if not (module and colon and attribute):
        raise ExitError(
            f"{target!r} names no attribute of a module: write it as myapp.models:Base.", Exit.USAGE
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        value: object = importlib.import_module(module)
    except Exception as error:  # Whatever a module of somebody else's does wrong.
        raise ExitError(
            f"{module!r} cannot be imported from {here}: {type(error).__name__}: {error}",
            Exit.USAGE,
        ) from error
    for name in attribute.split("."):
        value = getattr(value, name, None)
    metadata = getattr(value, "metadata", value)
    if not isinstance(metadata, MetaData):
        found = "does not exist" if value is None else f"is of type {type(value).__name__}"
        raise ExitError(
            f"{target} {found}: name a MetaData of SQLAlchemy's or a declarative base, such as "
            "myapp.models:Base.",
            Exit.USAGE,
        )
    return metadata


# rollup


def add_rollup(commands: Commands, *, metadata: str | None = None) -> None:
    """Add `rollup`.

    Args:
        commands: Where it is added.
        metadata: Whose rollups it runs unless `--metadata` is given; None if that is required.
    """
    parser = add_command(
        commands,
        "rollup",
        rollup,
        "bring rollups up to date",
        "Roll up what has changed since the last run, however old it is. Each rollup is a "
        "transaction of its own.",
    )
    parser.add_argument(
        "name", nargs="*", metavar="NAME", help="the table of a rollup (default: all of them)"
    )
    parser.add_argument(
        "--metadata",
        default=metadata,
        required=metadata is None,
        metavar="MODULE:NAME",
        help="the metadata, or the declarative base, that declares the rollups"
        + (f" (default: {metadata})" if metadata else ""),
    )
    add_database_url(parser)
    parser.add_argument(
        "--no-wait",
        action="store_true",
        help="leave a rollup alone, and end with exit code 3, if another run of it is in progress",
    )
    add_json(parser)


def rollup(arguments: Namespace) -> None:
    """Bring rollups up to date.

    Raises:
        ExitError: Another run is in progress and should not be waited for, or the metadata cannot
            be imported.
        ArgumentError: There is no such rollup.
    """
    declared = {each.name: each for each in rollups_of(metadata_of(arguments.metadata))}
    unknown = [name for name in arguments.name if name not in declared]
    if unknown or not declared:
        raise ArgumentError(
            f"{arguments.metadata} declares no rollup{f' {unknown[0]!r}' if unknown else ''}; "
            f"its rollups are: {', '.join(declared) or 'none'}."
        )
    engine, runs, busy = engine_of(arguments), list[dict[str, Any]](), list[str]()
    chosen = [declared[name] for name in arguments.name or declared]
    for each in chosen:
        with engine.begin() as connection, timed() as watch, waiting(f"Rolling up {each.name}"):
            run = run_rollup(connection, each, wait=not arguments.no_wait)
        if run is None:
            busy.append(each.name)
            continue
        run = in_utc(run)
        runs.append({"rollup": each.name, **asdict(run), "seconds": watch.seconds})
        if not arguments.json:
            write(f"{each.name}: {rolled_up(run, watch.seconds)}")
    if busy:
        raise ExitError(
            f"another run of {', '.join(busy)} is in progress; this one changed nothing there.",
            Exit.BUSY,
        )
    if arguments.json:
        edges = [(run["since"], run["until"]) for run in runs if run["since"] and run["until"]]
        document = {
            "groups_written": sum(run["groups_written"] for run in runs),
            "groups_removed": sum(run["groups_removed"] for run in runs),
            "since": min((since for since, _ in edges), default=None),
            "until": max((until for _, until in edges), default=None),
            "seconds": sum(run["seconds"] for run in runs),
        }
        write_json({**document, "rollups": runs})
        return
    statements = " ".join(f"SELECT {each.function}();" for each in chosen)
    write(
        f"Python: run_rollup(session, rollup{', wait=False' if arguments.no_wait else ''}); "
        f"any client: {statements}"
    )


def in_utc(run: RollupRun) -> RollupRun:
    """Return a run with its times in UTC instead of the time zone of the connection."""
    return replace(
        run,
        since=run.since and run.since.astimezone(UTC),
        until=run.until and run.until.astimezone(UTC),
    )


def rolled_up(run: RollupRun, seconds: float) -> str:
    """Return what a run of a rollup did."""
    if run.since is None or run.until is None:
        return f"nothing has changed since the last run ({duration(seconds)})."
    return (
        f"{run.groups_written:,} groups written, {run.groups_removed:,} removed, "
        f"from {minute(run.since)} to {minute(run.until)}, in {duration(seconds)}."
    )


# status


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The server of a database.

    Attributes:
        postgresql: The version of PostgreSQL.
        citus: The version of Citus, or None if the database does not have it.
        workers: How many other nodes the cluster has.
        shards: How many shards a table gets that is distributed now; 0 without Citus.
    """

    postgresql: str
    citus: str | None
    workers: int
    shards: int

    @classmethod
    def of(cls, connection: Connection) -> Server:
        """Ask the server behind a connection."""
        versions = text(
            "SELECT current_setting('server_version'),"
            " (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'citus')"
        )
        postgresql, citus = connection.execute(versions).one()
        workers = shards = 0
        if citus is not None:
            nodes = text(
                "SELECT count(*), current_setting('citus.shard_count')::int"
                " FROM pg_catalog.pg_dist_node"
                " WHERE groupid <> 0 AND noderole = 'primary' AND isactive"
            )
            workers, shards = connection.execute(nodes).one()
        return cls(
            # Without what packagers add: 18.1 (Debian 18.1-1), 13.2-1.
            postgresql=postgresql.split()[0],
            citus=citus and citus.partition("-")[0],
            workers=workers,
            shards=shards,
        )

    def __str__(self) -> str:
        if self.citus is None:
            return f"PostgreSQL {self.postgresql} without Citus: one node, no shards"
        return (
            f"PostgreSQL {self.postgresql} with Citus {self.citus}: a coordinator and "
            f"{plural(self.workers, 'worker node')}, {plural(self.shards, 'shard')} a table"
        )


_KINDS: Final = {
    "distributed": "distributed",
    "single_shard": "single shard",
    "reference": "reference",
    "citus_local": "local, known to Citus",
    "local": "local",
}
# What does not apply. A cell that is None is "unknown": it applies, but cannot be found out.
_NOTHING: Final = "-"
_TABLES_NAMED: Final = 3


def add_status(commands: Commands) -> None:
    """Add `status`."""
    parser = add_command(
        commands,
        "status",
        status,
        "show the cluster: nodes, tables, sizes, skew",
        "Show what the database runs on, whether its nodes reach each other, how its tables are "
        "spread over them, how large and how even they are, and what needs attention. Changes "
        "nothing, and needs no privilege but to connect.",
    )
    add_database_url(parser)
    add_json(parser)


def status(arguments: Namespace) -> None:
    """Show the state of a cluster, or of a database without Citus."""
    screen = None if arguments.json else Screen()
    with engine_of(arguments).connect() as connection, waiting("Asking all nodes"):
        server, found = Server.of(connection), cluster_status(connection)
    if screen is None:
        write_json(_status_document(server, found))
        return
    screen.say(str(server))
    if found.citus is not None:
        _show_nodes(screen, found)
    _show_tables(screen, found)
    if found.citus is not None:
        _show_groups(screen, found)
        _show_skew(screen, found)
        warnings = plural(len(found.findings), "warning")
        screen.heading(warnings if found.findings else "Nothing needs attention.")
        for finding in found.findings:
            screen.warn(f"- {finding.message}")
    screen.note("Python: citus_analytics.catalog.cluster_status(connection)")


def _show_nodes(screen: Screen, found: ClusterStatus) -> None:
    loads = {load.node: load for load in found.loads}
    health = {node.node: node for node in found.health.nodes}

    def state(node: Node) -> str:
        if not node.active:
            return "inactive"
        if node.id in health and not health[node.id].reachable:
            return "does not answer"
        if any(link.source == node.id for link in found.health.broken):
            return "cannot reach all nodes"
        return "ok" if node.metadata_synced or node.role != "primary" else "metadata not synced"

    rows: list[tuple[Cell, ...]] = []
    bars = []
    for node in found.nodes:
        if node.role != "primary":
            role = f"{node.role}, group {node.group}"
        else:
            role = "coordinator" if node.is_coordinator else "worker"
        load = loads.get(node.id)
        held = (load.shards, _size(load.bytes)) if load else (_NOTHING, _NOTHING)
        rows.append((str(node.id), f"{node.host}:{node.port}", role, state(node), *held))
        bars.append(load.bytes or 0 if load else 0)
    headers = ("node", "address", "role", "state", "shards", "size")
    screen.heading("Nodes, and what they hold of sharded tables")
    screen.table(headers, rows, numeric=("node", "shards", "size"), bars=bars)


def _show_tables(screen: Screen, found: ClusterStatus) -> None:
    screen.heading("Tables, with all their copies, indexes and partitions")
    # Neither those of extensions, nor partitions, which are parts of others.
    shown = [
        (table, size.bytes)
        for table, size in zip(found.tables, found.sizes, strict=True)
        if table.extension is None and table.partition_of is None
    ]
    if not shown:
        screen.say("There are none.")
        return
    # The largest first, and before them those of unknown size, which may be larger.
    shown.sort(key=lambda pair: (pair[1] is not None, -(pair[1] or 0)))
    partitions = Counter(table.partition_of for table in found.tables)
    rows: list[tuple[Cell, ...]] = []
    for table, total in shown:
        if table.partitioned:
            storage = plural(partitions[table.qualified_name], "partition")
        else:
            storage = table.access_method or "foreign"
        spread: tuple[Cell, ...] = ()
        if found.citus is not None:
            spread = (
                f"{_KINDS[table.kind]}{', by schema' if table.in_distributed_schema else ''}",
                table.column or _NOTHING,
                str(table.colocation_id or _NOTHING),
                table.shard_count or _NOTHING,
            )
        rows.append((f"{table.schema}.{table.name}", *spread, storage, _size(total)))
    of_citus = () if found.citus is None else ("type", "column", "group", "shards")
    headers = ("table", *of_citus, "storage", "size")
    screen.table(headers, rows, numeric=("group", "shards", "size"))


def _show_groups(screen: Screen, found: ClusterStatus) -> None:
    shown = {
        table.qualified_name: f"{table.schema}.{table.name}"
        for table in found.tables
        if table.extension is None and table.partition_of is None
    }
    rows: list[tuple[Cell, ...]] = []
    for group in found.groups:
        members = [shown[name] for name in group.tables if name in shown]
        named = ", ".join(members[:_TABLES_NAMED])
        if len(members) > _TABLES_NAMED:
            named += f" and {len(members) - _TABLES_NAMED} more"
        copies = group.replication_factor or "every node"
        column_type = group.column_type or _NOTHING
        rows.append((str(group.id), group.shard_count, copies, column_type, named))
    if rows:
        headers = ("group", "shards", "copies", "column type", "tables")
        screen.heading("Colocation groups, whose tables join without leaving a node")
        screen.table(headers, rows, numeric=("group", "shards", "copies"))


def _show_skew(screen: Screen, found: ClusterStatus) -> None:
    skew = [(table, table.ratio) for table in found.skew if table.ratio is not None]
    if not skew:
        return
    skew.sort(key=lambda pair: -pair[1])
    rows = [
        (
            f"{table.schema}.{table.name}",
            table.shards,
            _size(table.mean_bytes),
            _size(table.largest_bytes),
            f"{ratio:.2f}",
        )
        for table, ratio in skew
    ]
    headers = ("table", "shards", "mean", "largest", "ratio")
    screen.heading("Skew, the largest shard of a table over the mean of its shards")
    screen.table(headers, rows, numeric=headers[1:], bars=[ratio for _, ratio in skew])


def _size(number: float | None) -> str | None:
    return None if number is None else size(number)


def _status_document(server: Server, found: ClusterStatus) -> dict[str, Any]:
    """Return the status for `--json`: what is known about a node, or a table, in one place."""
    health = {node.node: node for node in found.health.nodes}
    loads = {load.node: load for load in found.loads}
    skew = {(table.schema, table.name): table.ratio for table in found.skew}
    return {
        "server": server,
        "nodes": [
            {
                **asdict(node),
                "reachable": health[node.id].reachable if node.id in health else None,
                "error": health[node.id].error if node.id in health else None,
                "shards": loads[node.id].shards if node.id in loads else None,
                "bytes": loads[node.id].bytes if node.id in loads else None,
            }
            for node in found.nodes
        ],
        "links": found.health.links,
        "tables": [
            {**asdict(table), "bytes": size.bytes, "skew": skew.get((table.schema, table.name))}
            for table, size in zip(found.tables, found.sizes, strict=True)
        ],
        "colocation_groups": found.groups,
        "findings": found.findings,
    }


# lint


def add_lint(commands: Commands) -> None:
    """Add `lint`."""
    parser = add_command(
        commands,
        "lint",
        lint,
        "find what Citus will refuse, without a database",
        "Check declared tables and Alembic migrations for what a Citus cluster refuses, or accepts "
        "and suffers from later. No migration is run.",
    )
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help="a folder with migrations, or metadata as package.module:Base (default: the "
        "migrations that alembic.ini names)",
    )
    parser.add_argument(
        "--citus",
        type=_version,
        default=(13, 2),
        metavar="VERSION",
        help="the version whose limits apply (default: 13.2)",
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="CODE",
        help="a code to leave out, such as CA012; can be given several times",
    )
    parser.add_argument(
        "--format",
        choices=("text", "json", "github"),
        default="text",
        help="how to print findings; github: as annotations of a workflow",
    )
    parser.add_argument("--explain", metavar="CODE", help="explain a code, and end")


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    if not (major.isdecimal() and minor.isdecimal() and text.isascii()):
        raise ArgumentTypeError(f"{text!r} is not a version of Citus: write it like 13.2")
    return int(major), int(minor)


def lint(arguments: Namespace) -> None:
    """Check metadata and migrations, and print what a cluster would refuse or suffer from.

    Raises:
        ExitError: There are findings, or a target cannot be imported.
        ArgumentError: A target or a code does not exist.
    """
    if arguments.explain is not None:
        write(_explanation(arguments.explain))
        return
    targets = arguments.targets or _migrations_of_alembic_ini()
    declared = [target for target in targets if ":" in target and not Path(target).exists()]
    folders = [target for target in targets if target not in declared]
    options = {"citus": arguments.citus, "ignore": arguments.ignore}
    findings: list[Finding] = []
    # All metadata are checked as one, and so are all folders.
    if folders:
        findings += lint_migrations(*folders, **options)
    if declared:
        findings += lint_metadata(*map(metadata_of, declared), **options)
    match arguments.format:
        case "json":
            version = "{}.{}".format(*arguments.citus)
            write_json({"citus": version, "findings": findings})
        case "github":
            write(*map(_annotation, findings))
        case _:
            write(*([printable(str(finding)) for finding in findings] or ["No findings."]))
    if findings:
        raise ExitError(f"{plural(len(findings), 'finding')} in {', '.join(targets)}.")


def _explanation(code: str) -> str:
    rule = RULES.get(code.upper())
    if rule is None:
        raise ArgumentError(
            f"{code!r} is not a code of the linter; they are {', '.join(sorted(RULES))}."
        )
    facts: list[str] = [rule.severity]
    if rule.since is not None:
        facts.append("since Citus {}.{}".format(*rule.since))
    if rule.until is not None:
        facts.append("before Citus {}.{}".format(*rule.until))
    return f"{rule.code} ({', '.join(facts)}): {rule.title}.\n\n{rule.explanation}"


def _migrations_of_alembic_ini() -> list[str]:
    ini = Path("alembic.ini")
    if not ini.exists():
        raise ArgumentError(
            "nothing to check: name a folder with migrations, or metadata as package.module:Base "
            "(there is no alembic.ini here that says where migrations are)."
        )
    try:
        scripts = ScriptDirectory.from_config(Config(str(ini)))
    except CommandError as error:
        raise ArgumentError(f"alembic.ini does not say where migrations are: {error}") from error
    folders = map(coerce_resource_to_filename, scripts.version_locations or [scripts.versions])
    return [os.path.relpath(folder) for folder in folders]


def _annotation(finding: Finding) -> str:
    """Return a finding as a workflow command of GitHub Actions."""

    def escaped(text: str) -> str:
        return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

    place, message = "", f"{finding.subject}: {finding.message}"
    if finding.path is not None:
        path = escaped(finding.path).replace(":", "%3A").replace(",", "%2C")
        place, message = f"file={path},line={finding.line},", finding.message
    return f"::{finding.severity} {place}title={finding.code}::{escaped(message)}"
