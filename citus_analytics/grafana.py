"""Grafana, provisioned from the declarations: a data source, and a dashboard over all rollups.

    write(Path("grafana"), metadata, url)

Every table of a rollup becomes a row of panels over its fresh view: a time series for each measure,
split by the ten greatest groups and what is left, and a table of the greatest groups where the
rollup is ranked. Each dimension is a variable. Measures that do not add up (averages, distinct
values, percentiles) are shown for the ten greatest groups, in the buckets of the rollup.

What is shown equals the raw rows at the moment of the query, by whole buckets: those that the range
touches, of which the first may begin before the range, and the last end after it.

Nothing of Grafana is needed to write the files: its server reads them when it starts.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Float, Integer, Numeric
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from citus_analytics.errors import ArgumentError
from citus_analytics.rollups.declare import BY_VALUES, kind_of, names_read, rollups_of
from citus_analytics.rollups.sql import bucket_of
from citus_analytics.sql import literal, qualify, quote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import URL, MetaData

    from citus_analytics.rollups.declare import Every, Rollup

__all__ = ["PASSWORD_VARIABLE", "dashboard", "data_source", "write"]

PASSWORD_VARIABLE: Final = "GRAFANA_DATABASE_PASSWORD"  # noqa: S105 - a name
"""The environment variable from which Grafana takes the password of the database."""

_UID: Final = "citus_analytics"
_NONE: Final = "(none)"
# What a variable stands for while all of its values are chosen. As a custom value Grafana inserts
# it as it is, so that rows are not compared with a long list that would lack some.
_ALL: Final = "'(all)'"
# How many series a panel has beside that of what is left.
_SERIES: Final = 10
# Measures that add up over groups and buckets, and how; min and max where they are numbers.
_ADDED_BY: Final = {"count": "sum", "sum": "sum", "min": "min", "max": "max"}


def dashboard(metadata: MetaData, *, title: str = "Rollups", uid: str = _UID) -> dict[str, Any]:
    """Return the dashboard of all rollups of a metadata, in Grafana's JSON model.

    Args:
        metadata: What declares the rollups.
        title: The title of the dashboard, which also names its file.
        uid: The data source, as `data_source` names it.

    Raises:
        ArgumentError: The metadata declares no rollups, or two of their dimensions differ in
            nothing that Grafana allows in the name of a variable.
    """
    rollups = rollups_of(metadata)
    if not rollups:
        raise ArgumentError("the metadata declares no rollups: there is nothing to show.")
    source = {"type": "grafana-postgresql-datasource", "uid": uid}
    variables: dict[str, dict[str, Any]] = {}
    panels: list[dict[str, Any]] = []
    number = top = 0
    for rollup in rollups:
        for variable in _variables(rollup, source):
            if variable["name"] in variables:
                other = variables[variable["name"]]
                raise ArgumentError(
                    f"{other['label']!r} and {variable['label']!r} would both be Grafana's "
                    f"variable {variable['name']}: give a dimension another label."
                )
            variables[variable["name"]] = variable
        for level in rollup.targets:
            # Only the first row is open: panels of the others ask nothing until somebody looks.
            opened = not panels
            number += 1
            row: dict[str, Any] = {
                "id": number,
                "type": "row",
                "title": f"{rollup.name}{'' if level is None else f', every {level}'}",
                "collapsed": not opened,
                "gridPos": {"x": 0, "y": top, "w": 24, "h": 1},
                "panels": [],
            }
            panels.append(row)
            inside = panels if opened else row["panels"]
            queries = _queries(rollup, level)
            for place, (title_, kind, sql) in enumerate(queries):
                number += 1
                target = {
                    "refId": "A",
                    "datasource": source,
                    "editorMode": "code",
                    "format": "time_series" if kind == "timeseries" else "table",
                    "rawQuery": True,
                    "rawSql": sql,
                }
                panel: dict[str, Any] = {
                    "id": number,
                    "type": kind,
                    "title": title_,
                    "datasource": source,
                    "fieldConfig": {"defaults": {"noValue": "no data"}, "overrides": []},
                    "options": {},
                    "targets": [target],
                    "gridPos": {
                        "x": place % 2 * 12,
                        "y": top + 1 + place // 2 * 8,
                        "w": 12,
                        "h": 8,
                    },
                }
                if kind == "timeseries" and level is not None:
                    # No point without a bucket: intervals are never shorter than these.
                    panel["interval"] = f"{level.length}s"
                    panel["options"] = {"tooltip": {"mode": "multi", "sort": "desc"}}
                inside.append(panel)
            top += 1 + (-(-len(queries) // 2) * 8 if opened else 0)
    return {
        "uid": re.sub(r"[^\w-]", "-", title.lower())[:40],
        "title": title,
        "tags": ["citus_analytics"],
        "timezone": "browser",
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-24h", "to": "now"},
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": [*variables.values()]},
        "panels": panels,
    }


def data_source(url: URL, *, uid: str = _UID) -> dict[str, Any]:
    """Return the provisioning of a data source for a database.

    The password is not in it: Grafana reads it from `GRAFANA_DATABASE_PASSWORD`.

    Args:
        url: The address, with the role that Grafana is to use: one that can only read.
        uid: The name by which dashboards refer to it.
    """
    # As SQLAlchemy connects: any part may be in the query, where a socket's directory has to be.
    dialect: Any = PGDialect_psycopg
    _, parts = dialect().create_connect_args(url)
    given = {name: part[0] if isinstance(part, tuple) else part for name, part in parts.items()}
    # Grafana connects to one server: the first of several.
    host = str(given.get("host") or given.get("hostaddr") or "localhost").split(",")[0]
    port = str(given.get("port") or "").split(",")[0] or 5432
    settings = {
        "database": given.get("dbname") or "postgres",
        "sslmode": given.get("sslmode", "prefer"),
        "postgresVersion": 1500,
        "timescaledb": False,
    }
    if settings["sslmode"] in ("prefer", "allow"):
        # Grafana's driver knows neither.
        here = host.startswith("/") or host in ("localhost", "127.0.0.1", "::1")
        settings["sslmode"] = "disable" if here else "require"
    source = {
        "name": uid,
        "uid": uid,
        "type": "grafana-postgresql-datasource",
        "access": "proxy",
        "url": f"[{host}]:{port}" if ":" in host and host[0] != "/" else f"{host}:{port}",
        "user": given.get("user") or "postgres",
        "jsonData": settings,
        "secureJsonData": {"password": f"${PASSWORD_VARIABLE}"},
        "editable": False,
    }
    return {"apiVersion": 1, "datasources": [source]}


def write(
    directory: Path, metadata: MetaData, url: URL, *, title: str = "Rollups", uid: str = _UID
) -> list[Path]:
    """Write what Grafana is provisioned with, and return the files.

    Args:
        directory: Where to; it is what Grafana's setting `paths.provisioning` has to name.
        metadata: What declares the rollups.
        url: The database, with the role that Grafana is to use.
        title: The title of the dashboard.
        uid: The name of the data source.

    Raises:
        ArgumentError: The metadata declares no rollups.
    """
    shown = dashboard(metadata, title=title, uid=uid)
    folder = directory.absolute() / "dashboards"
    provider = {
        "apiVersion": 1,
        "providers": [
            {"name": uid, "type": "file", "allowUiUpdates": False, "options": {"path": str(folder)}}
        ],
    }
    # JSON is YAML.
    contents = {
        directory / "datasources" / f"{uid}.yaml": data_source(url, uid=uid),
        directory / "dashboards" / f"{uid}.yaml": provider,
        directory / "dashboards" / f"{shown['uid']}.json": shown,
    }
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return list(contents)


def _queries(rollup: Rollup, level: Every | None) -> list[tuple[str, str, str]]:
    """Return the panels of a table of a rollup: the title, the type and the query of each."""
    view = rollup.fresh(None if level is None else str(level))
    table = qualify(view.name, view.schema)
    bucket = f"v.{quote(rollup.bucket)}"
    dimensions = {name: f"coalesce(v.{quote(name)}::text, '{_NONE}')" for name in rollup.dimensions}
    conditions = [] if level is None else [_in_range(bucket, level)]
    for name, shown in dimensions.items():
        chosen = f"${{{_variable(rollup, name)}:sqlstring}}"
        conditions.append(f"({_ALL} IN ({chosen}) OR {shown} IN ({chosen}))")
    source = f"FROM {table} AS v"
    if conditions:
        source += "\n    WHERE " + "\n      AND ".join(conditions)
    # What is read of each measure, and how it adds up; None if it does not.
    reads: dict[str, str | None] = {}
    for label, (measure, value) in rollup.measures.items():
        number = value is None or isinstance(kind_of(value), Integer | Float | Numeric)
        if measure.aggregate in BY_VALUES:
            reads |= dict.fromkeys(names_read(label, measure))
        elif number or measure.aggregate not in ("min", "max"):
            reads[label] = _ADDED_BY.get(measure.aggregate)
    rows = next((label for label, (_, value) in rollup.measures.items() if value is None), None)
    found: list[tuple[str, str, str]] = []

    for name, added in reads.items() if level is not None else ():
        groups = ", ".join(dimensions.values())
        metric = f"concat_ws(', ', {groups})" if groups else literal(name)
        size = f"v.{quote(name)}" if added == "sum" else f"v.{quote(rows)}" if rows else "1"
        parts = f"PARTITION BY {groups}" if groups else ""
        places = f"""FROM (
  SELECT g.*, dense_rank() OVER (ORDER BY g.size DESC NULLS LAST, g.name) AS place
  FROM (
    SELECT {bucket} AS at, {metric} AS name, v.{quote(name)} AS value,
      sum({size}) OVER ({parts}) AS size
    {source}
  ) AS g
) AS p"""
        if added is None:
            query = f"""SELECT p.at AS "time", p.name AS metric, p.value AS {quote(name)}
{places}
WHERE p.place <= {_SERIES}
ORDER BY 1, 2"""
        else:
            time = "$__timeGroup(p.at, $__interval)"
            if level is not None and level.seconds is None:
                # Grafana's groups begin at multiples of the interval since 1970 in UTC: a month, or
                # a day elsewhere, would be shown as another, and two of them as one.
                time = (
                    f"CASE WHEN $__interval_ms < {2000 * level.length} "
                    f"THEN extract(epoch FROM p.at) ELSE {time} END"
                )
            query = f"""SELECT {time} AS "time",
  CASE WHEN p.place <= {_SERIES} THEN p.name ELSE 'others' END AS metric,
  {added}(p.value) AS {quote(name)}
{places}
GROUP BY 1, 2
ORDER BY 1, 2"""
        found.append((name, "timeseries", query))

    # Texts alone, the smallest and the largest, are nothing to sort by.
    if reads and (rollup.ranked is not None or level is None):
        ranked = rollup.ranked or next(iter(reads))
        listed = [f"{shown} AS {quote(name)}" for name, shown in dimensions.items()]
        if level is not None and reads[ranked] is not None:
            measures = {name: f"{added}(v.{quote(name)})" for name, added in reads.items() if added}
            grouped = ", ".join(str(number + 1) for number in range(len(listed)))
            end = f"\nGROUP BY {grouped}" if listed else ""
        else:
            # One row for each group and bucket, which is the only one of totals over all time.
            measures = {name: f"v.{quote(name)}" for name in reads}
            listed += [] if level is None else [f"{bucket} AS bucket"]
            end = ""
        columns = [*listed, *(f"{sql} AS {quote(name)}" for name, sql in measures.items())]
        place = len(listed) + 1 + [*measures].index(ranked)
        query = f"""SELECT {", ".join(columns)}
    {source}{end}
ORDER BY {place} DESC NULLS LAST
LIMIT 20"""
        found.append((f"The greatest by {ranked}", "table", query))
    return found


def _in_range(bucket: str, level: Every) -> str:
    """Return the condition for the buckets that hold a moment of the range.

    `$__timeFilter` would drop the one in which the range begins: all there is of a range within a
    bucket.
    """
    first = bucket_of(str(level), "$__timeFrom()::timestamptz")
    return f"{bucket} >= {first} AND {bucket} <= $__timeTo()::timestamptz"


def _variable(rollup: Rollup, dimension: str) -> str:
    """Return the name of the variable of a dimension, of the characters that Grafana allows."""
    return re.sub(r"\W", "_", f"{rollup.name}_{dimension}", flags=re.ASCII)


def _variables(rollup: Rollup, source: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield a variable for each dimension of a rollup, whose values are those of the range."""
    # Those of the buckets of the coarsest table that hold a moment of the range, which are few. So
    # some may be of a time around it; none is missing, however short the range is.
    level = [*rollup.targets][-1]
    view = rollup.fresh(None if level is None else str(level))
    where = ""
    if level is not None:
        where = f" WHERE {_in_range(f'v.{quote(rollup.bucket)}', level)}"
    for dimension in rollup.dimensions:
        sql = (
            f"SELECT DISTINCT coalesce(v.{quote(dimension)}::text, '{_NONE}') AS value "
            f"FROM {qualify(view.name, view.schema)} AS v{where} ORDER BY 1 LIMIT 1000"
        )
        name = _variable(rollup, dimension)
        yield {
            "name": name,
            "label": f"{rollup.name}: {dimension}",
            "type": "query",
            "datasource": source,
            "query": sql,
            # When the range changes.
            "refresh": 2,
            "sort": 0,
            "multi": True,
            "includeAll": True,
            "allValue": _ALL,
            "current": {"text": ["All"], "value": ["$__all"]},
            "options": [],
            "hide": 0,
            "skipUrlSync": False,
        }
