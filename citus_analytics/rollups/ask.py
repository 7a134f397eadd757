"""Questions to a source, answered the cheapest exact way: from rollups, their log and raw rows.

A question says what is asked: measures, groups, a filter, a window of time. It is answered from
whichever rollups of the source hold the same measures of the same expressions, whatever they are
named: whole buckets from the cheapest table, the edges of the window from finer ones, and what is
left from raw rows. All of it is one statement, so that on one server it sees one moment; on Citus,
each shard is one moment, as in every read of Citus.

What the database has of the rollups (which, whether they are complete, how far raw rows have been
expired) is remembered for each connection, and looked at again in the statement itself: if it has
changed meanwhile, the question is planned and asked again.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import chain
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast
from zlib import crc32

from psycopg.errors import InsufficientPrivilege, InvalidCursorName, UndefinedColumn, UndefinedTable
from sqlalchemy import (
    JSON,
    BigInteger,
    BindParameter,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Date,
    DateTime,
    Double,
    Float,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    Row,
    Select,
    String,
    Text,
    TextualSelect,
    Time,
    TypeDecorator,
    Uuid,
    and_,
    bindparam,
    case,
    false,
    func,
    literal_column,
    or_,
    select,
    text,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy import distinct as sql_distinct
from sqlalchemy.dialects.postgresql import INTERVAL
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.engine import IteratorResult
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.exc import ArgumentError as ConstructError
from sqlalchemy.exc import (
    CompileError,
    DBAPIError,
    ProgrammingError,
    ResourceClosedError,
    UnboundExecutionError,
)
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BooleanClauseList,
    Case,
    Cast,
    ClauseElement,
    ClauseList,
    CollationClause,
    ColumnClause,
    ExpressionClauseList,
    Extract,
    False_,
    Grouping,
    Null,
    TextClause,
    True_,
    TypeClause,
    UnaryExpression,
)
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import Alias, FromClause, Join
from sqlalchemy.sql.sqltypes import NullType, TupleType

from citus_analytics.errors import ArgumentError, DeclarationError, RollupError
from citus_analytics.rollups.declare import (
    BY_VALUES,
    PARTS,
    Every,
    Measure,
    Rollup,
    expression_of,
    is_long,
    kept_as,
    kind_of,
    label_of,
    names_read,
    require_aggregate,
    require_time_zone,
    rollups_of,
    sql_of,
    type_name,
    visible_type,
    visible_value,
    width_of,
)
from citus_analytics.rollups.run import is_autocommit, runs_held
from citus_analytics.rollups.sql import (
    VALUE,
    RollupSpec,
    Target,
    TargetSpec,
    added_up,
    best_order,
    best_query,
    bucket_of,
    lock_key,
    raw_rows,
    settled_rows,
)
from citus_analytics.schema import Distributed, column_name, distribution_of, rows_of, table_of
from citus_analytics.sql import (
    DIALECT,
    HAS_CITUS,
    Executor,
    colocation_of,
    executor_of,
    flushed_connection,
    is_snapshot,
    literal,
    qualify,
    quote,
    schema_of,
    transaction_token,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from sqlalchemy import Table
    from sqlalchemy.types import TypeEngine

    from citus_analytics.rollups.declare import ExpressionLike
    from citus_analytics.schema import ColumnLike, TableLike

Freshness: TypeAlias = Literal["fresh", "rolled_up", "raw"]
"""How an answer comes about: `"fresh"` equals the raw rows at this moment, `"rolled_up"` equals
them as of the last run, and `"raw"` is computed from them."""

Window: TypeAlias = "tuple[datetime | None, datetime | None]"
"""A half-open window of time, None for no bound."""

AnswerRow: TypeAlias = "Row[*tuple[Any, ...]] | Mapping[str, Any]"
"""A row of an answer, or its columns by name."""

_BUCKET: Final = "bucket"
# Limits that are written into a statement, and how many statements a question has of these.
_SMALL: Final = 1000
_MANY: Final = 200
# What is known of a further source is looked at again after so many seconds, and its rollup serves
# as long as no more changes are pending.
_A_WHILE: Final = 30.0
_FEW_PENDING: Final = 1000
# How many characters of an expression a message shows.
_LONGEST_SHOWN: Final = 200
_INFO: Final = "citus_analytics.ask"
# How many values a distribution column is taken to have.
_KEYS: Final = 100
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Python's calendar ends where a bucket of it would still begin or end.
_FIRST, _LAST = datetime(2, 1, 1, tzinfo=UTC), datetime(9998, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A part of a plan.

    Attributes:
        table: The table that is read.
        rollup: The rollup that it belongs to, None for raw rows.
        every: The width of its buckets, None for raw rows and for totals over all time.
        windows: What is taken from it.
        undated: Whether rows without a time are.
    """

    table: str
    rollup: str | None = None
    every: Every | None = None
    windows: tuple[Window, ...] = ()
    undated: bool = False

    def __str__(self) -> str:
        def shown(window: Window) -> str:
            since, until = (edge and edge.isoformat() for edge in window)
            if since and until:
                return f"[{since}, {until})"
            return f"from {since} on" if since else f"before {until}" if until else "all time"

        parts = [shown(window) for window in self.windows]
        if self.undated and self.windows != ((None, None),):
            parts.append("rows without a time")
        what = "raw rows of " if self.rollup is None else ""
        return f"{what}{self.table}: {', '.join(parts) or 'all rows'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a question was answered.

    Attributes:
        freshness: What the answer is: what was asked for, or fresher.
        steps: What was read.
        as_of: The moment of the last run that the answer equals the raw rows of, if it is
            `"rolled_up"`; None before the first run, when nothing has been rolled up, and for the
            moment of the statement.
        pending: How many changes of the source were in no rollup yet; None if nothing was read that
            would tell. A fresh answer has them.
        reasons: Why other tables of rollups could not serve, by table; what to ask differently, by
            that of the source.
        suggestion: The declaration of a rollup that would serve, where none did and one could.
        sql: The statement, with the names of its parameters.
    """

    freshness: Freshness
    steps: tuple[Step, ...]
    as_of: datetime | None = None
    pending: int | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    suggestion: str | None = None
    sql: str = field(repr=False, compare=False)
    # Most answers are given without anybody asking for it.
    _statement: Callable[[], Select[Any] | TextualSelect] = field(repr=False, compare=False)

    @property
    def statement(self) -> Select[Any] | TextualSelect:
        """The statement with the values of its parameters, for `explain_shape` for example."""
        return self._statement()

    @property
    def rollups(self) -> tuple[str, ...]:
        """The names of the rollups that were read."""
        return tuple(dict.fromkeys(step.rollup for step in self.steps if step.rollup is not None))

    def __str__(self) -> str:
        lines = [self.freshness + ("" if self.as_of is None else f" as of {self.as_of}")]
        if self.pending is not None:
            lines[0] += f", {self.pending:,} changes pending"
        lines += (f"  {step}" for step in self.steps)
        lines += (f"  not {table}: {reason}" for table, reason in self.reasons.items())
        if self.suggestion is not None:
            lines.append(f"  this would serve: {self.suggestion}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Answer:
    """The rows that answer a question, and how they came about.

    Attributes:
        rows: One for each group: `bucket`, if there are buckets, the groups and the measures, by
            name. In the order of the bucket and the groups, unless the question is ranked.
        plan: What was read.
        question: What was asked; its `columns` are those of the rows, also where there are none.
    """

    rows: tuple[Row[*tuple[Any, ...]], ...]
    plan: Plan
    question: Question = field(repr=False, compare=False)

    def __iter__(self) -> Iterator[Row[*tuple[Any, ...]]]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


class Stream:
    """The rows that answer a question, one after the other, from a cursor of the server.

    They are iterated over once: whoever needs them again asks again, or keeps them in a list. The
    cursor is closed at their end, by `close`, at the end of a `with` block, and at that of the
    transaction.

    Attributes:
        plan: How the answer comes about.
        question: What was asked; its `columns` are those of the rows.
    """

    def __init__(
        self,
        rows: Iterator[Row[*tuple[Any, ...]]],
        plan: Plan,
        question: Question,
        close: Callable[[], object],
    ) -> None:
        self.plan = plan
        self.question = question
        self._rows: Iterator[Row[*tuple[Any, ...]]] | None = rows
        self._close = close
        self._closed = False

    def __iter__(self) -> Iterator[Row[*tuple[Any, ...]]]:
        rows, self._rows = self._rows, None
        if rows is None:
            raise ArgumentError(
                "the rows of a stream are read once, and these have been, or the stream is closed: "
                "ask again, or keep the rows in a list"
            )
        return self._read(rows)

    def _read(self, rows: Iterator[Row[*tuple[Any, ...]]]) -> Iterator[Row[*tuple[Any, ...]]]:
        cause = None
        try:
            for row in rows:
                yield row
                if self._closed:
                    break
            else:
                return
        except (DBAPIError, ResourceClosedError) as error:
            gone = getattr(error, "orig", None)
            if gone is not None and not isinstance(gone, InvalidCursorName):
                raise
            cause = error
        raise ArgumentError(
            "the stream ended before all of its rows were read: it was closed, or its transaction "
            "has ended, in which its cursor lives. Read it to the end before commit(), rollback() "
            "or close(), or keep the rows in a list"
        ) from cause

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the cursor. Rows that have not been read are lost."""
        self._rows = None
        self._closed = True
        self._close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A column by which an answer is sorted, NULLs last."""

    name: str
    descending: bool = False
    collation: str | None = None

    def sql(self, alias: str) -> str:
        """Return it as SQL, of a table whose alias ends in a dot."""
        collation = f" COLLATE {quote(self.collation)}" if self.collation else ""
        direction = "DESC" if self.descending else "ASC"
        return f"{alias}{quote(self.name)}{collation} {direction} NULLS LAST"


def place_after(
    order: Sequence[Order],
    columns: Mapping[str, ColumnElement[Any]],
    place: Mapping[str, Any],
) -> ColumnElement[bool]:
    """Return the condition of a grouped statement for the rows that come after a place.

    Args:
        order: The order of the statement.
        columns: The columns that it selects, by the names in the order.
        place: The values of a row.
    """
    bare: dict[str, Any] = {
        name: cast("Any", column).element if _is_label(column) else column
        for name, column in columns.items()
    }
    values: dict[str, ColumnElement[Any]] = {
        each.name: bindparam(
            f"after_{each.name}", place[each.name], bare[each.name].type, unique=True
        )
        for each in order
        if place[each.name] is not None
    }
    return _after(order, bare, values)


def _after(
    order: Sequence[Order],
    columns: Mapping[str, ColumnElement[Any]],
    values: Mapping[str, ColumnElement[Any]],
) -> ColumnElement[bool]:
    """Return the condition for what comes after some values, of which those of no column are NULL.

    Nothing comes after NULL but what is equal so far, and comes after it by a further column.
    """
    found: list[ColumnElement[bool]] = []
    same: list[ColumnElement[bool]] = []
    for each in order:
        column, value = columns[each.name], values.get(each.name)
        if value is None:
            same.append(column.is_(None))
            continue
        if isinstance(column.type, Float):
            # As double precision it would equal no other real number than itself.
            value = sql_cast(value, column.type)
        sorted_by = column.collate(each.collation) if each.collation else column
        later = sorted_by < value if each.descending else sorted_by > value
        found.append(and_(*same, or_(later, column.is_(None))))
        same.append(column == value)
    return or_(*found) if found else false()


def commit_token(session: Executor, source: TableLike | None = None) -> str:
    """Return a token of the current transaction, for `at_least` of questions that follow it.

    A question that has it answers only where everything that the transaction writes is in the
    answer. Tokens are those of one server and its replicas.

    Args:
        session: The session or connection that writes, before it commits.
        source: What is written to. It needs to be known of a session that has several databases,
            by class or by table, with a transaction in each; by default it is the session's `bind`.

    Raises:
        ArgumentError: It is neither a session nor a connection, or a session that has a database
            for some classes or tables alone, and was not told which.
    """
    session = executor_of(session)
    if not isinstance(session, Connection):
        session.flush()
        if source is not None:
            entity = source if isinstance(source, type) else None
            session = flushed_connection(session, table_of(source), entity)
        else:
            try:
                session = session.connection()
            except UnboundExecutionError as error:
                raise ArgumentError(
                    "the session has databases for some classes or tables alone, and a "
                    "transaction in each: pass what is written to, as in commit_token(session, "
                    "Reading)"
                ) from error
    return transaction_token(session)


def ask(
    session: Executor,
    source: TableLike,
    *,
    measures: Mapping[str, Measure],
    by: Sequence[ExpressionLike] = (),
    every: str | timedelta | None = None,
    where: ColumnElement[bool] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    ranked: str | None = None,
    time: ColumnLike | None = None,
    limit: int | None = None,
    after: AnswerRow | None = None,
    freshness: Freshness = "fresh",
    max_staleness: timedelta | None = None,
    at_least: str | None = None,
) -> Answer:
    """Answer a question about a source the cheapest exact way; see `Question` and `Question.ask`.

        ask(session, PageView, measures={"views": count()}, by=[PageView.path], since=monday)

    Raises:
        ArgumentError: The question makes no sense; the message says why.
        RollupError: It cannot be answered exactly, or not as it is asked for.
    """
    question = Question(
        source, measures=measures, by=by, every=every, where=where, ranked=ranked, time=time
    )
    return question.ask(
        session,
        since=since,
        until=until,
        limit=limit,
        after=after,
        freshness=freshness,
        max_staleness=max_staleness,
        at_least=at_least,
    )


class Question:
    """What is asked of a source, again and again: plans and statements are made once.

        VIEWS = Question(PageView, measures={"views": count()}, by=[PageView.path], every="1 hour")
        VIEWS.ask(session, since=monday)

    Threads may share it.
    """

    further: Rollup | None = None
    """A rollup of the further table that the answer needs, by which `greatest` finds rows."""

    def __init__(
        self,
        source: TableLike,
        *,
        measures: Mapping[str, Measure],
        by: Sequence[ExpressionLike] = (),
        every: str | timedelta | None = None,
        where: ColumnElement[bool] | None = None,
        ranked: str | None = None,
        time: ColumnLike | None = None,
        undated: bool = True,
    ) -> None:
        """Say what is asked.

        Args:
            source: The table of raw rows, or the class mapped to it. All rollups that are declared
                on it are considered, if the database has them.
            measures: What is computed, by name, as in a `Rollup`. Percentiles are in columns such
                as `p50`, as they are there.
            by: The groups: columns, or expressions with a label.
            every: The width of buckets, which are in a column `bucket`; none by default.
            where: Which rows are asked for. Rollups serve it if each of its conditions, joined by
                AND, is one of the rollup's own filter, or one on its dimensions. Subqueries, texts
                and volatile functions are asked of raw rows.
            ranked: The measure by which the answer is sorted, the greatest first.
            time: The column that says when a row happened; by default that of the rollups.
            undated: Whether rows without a finite time are asked for, where there is no window.

        Raises:
            ArgumentError: The question makes no sense; the message says why.
        """
        if not isinstance(measures, Mapping):
            raise ArgumentError(
                f"measures must be a mapping of names, such as {{'rows': count()}}; found "
                f"{measures!r}"
            )
        if not measures:
            raise ArgumentError("a question needs at least one measure, such as {'rows': count()}.")
        for name, measure in measures.items():
            if not isinstance(measure, Measure):
                raise ArgumentError(
                    f"measure {name!r} must be count(), total(...), average(...) or the like of "
                    f"citus_analytics; found {measure!r}"
                )
        if isinstance(by, str) or not isinstance(by, Sequence):
            raise ArgumentError(f"by must be a list of columns or expressions; found {by!r}")
        with _as_arguments():
            self.source = table_of(source)
            self._entity = source
            self.every = None if every is None else width_of(every)
            self.by: dict[str, ColumnElement[Any]] = {}
            for expression in by:
                element = expression_of(self.source, expression)
                label = label_of(element)
                if not label or label in self.by:
                    raise ArgumentError(
                        f"give the group {_shown(element)} a name of its own, with .label('...')."
                    )
                self.by[label] = element
            self.measures: dict[str, tuple[Measure, ColumnElement[Any] | None]] = {}
            for name, measure in measures.items():
                value = None if measure.value is None else expression_of(self.source, measure.value)
                if value is not None:
                    require_aggregate("the question", name, measure.aggregate, value)
                self.measures[name] = (measure, value)
            times = {rollup.time for rollup in self.rollups} - {None}
            self.time = column_name(time) if time is not None else next(iter(times), None)
            if self.time is not None:
                require_time_zone(self.source, self.time)
            if where is not None and not isinstance(
                getattr(where, "__clause_element__", lambda: where)(), ClauseElement
            ):
                raise ArgumentError(
                    "where must be an SQL expression, such as Reading.kind == 'x', with several "
                    f"conditions joined by and_(); found {where!r}"
                )
            # An attribute of a class becomes the condition that it stands for.
            self.where = None if where is None else select(func.count()).where(where).whereclause
            own_rows = rows_of(source)
            if own_rows is not None:
                self.where = own_rows if self.where is None else and_(own_rows, self.where)
            self._require_source_alone()
        if self.every is not None and self.time is None:
            raise ArgumentError(
                f"buckets need to know when a row happened: pass time=..., the column of "
                f"{self.source.key!r} that says so."
            )
        self.undated = undated
        self.conjuncts = _conjuncts(self.where)
        self.needs = _Needs(self)
        names = [*([_BUCKET] if self.every else []), *self.by, *self.needs.types]
        hidden = next((each for each in names if each.startswith("_")), None)
        if hidden is not None:
            raise ArgumentError(
                f"{hidden!r} cannot be a column of the answer: names that start with an underscore "
                "are for those of the statement. Use another, for groups with .label('...')."
            )
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ArgumentError(f"the answer would have two columns named {twice[0]!r}.")
        if ranked is not None and ranked not in self.needs.types:
            raise ArgumentError(
                f"the answer is ranked by {ranked!r}, which is not one of its measures: "
                f"{', '.join(self.needs.types)}."
            )
        self.ranked = ranked
        elements = [self.where, *self.by.values(), *(value for _, value in self.measures.values())]
        self._parameters: dict[str, BindParameter[Any]] = {}
        for each in elements:
            for node in () if each is None else visitors.iterate(each):
                if not isinstance(node, BindParameter) or not node.required:
                    continue
                known = self._parameters.setdefault(node.key, node)
                kinds = [known.type, node.type]
                own = any(isinstance(kind, TypeDecorator) for kind in kinds)
                if own and repr(kinds[0]) != repr(kinds[1]):
                    raise ArgumentError(
                        f"the parameter {node.key!r} stands for a {kinds[0]!r} and for a "
                        f"{kinds[1]!r}, whose values are converted in ways of their own: give "
                        "each a name of its own."
                    )
        reserved = next((name for name in self._parameters if name.startswith("_")), None)
        if reserved is not None:
            raise ArgumentError(
                f"the parameter {reserved!r} starts with an underscore, as those of the statement "
                "do: give it another name."
            )
        self._prepared: dict[object, _Prepared] = {}

    def _require_source_alone(self) -> None:
        """Refuse columns of further tables, whose rows would multiply those of the source.

        What a subquery reads is its own.
        """

        def read(*conditions: ColumnElement[bool]) -> set[FromClause]:
            statement = select(func.count()).select_from(self._entity).where(*conditions)
            return {
                node
                for found in statement.get_final_froms()
                for node in visitors.iterate(found)
                if isinstance(node, FromClause) and not isinstance(node, Join)
            }

        own = read()
        named = [(f"the group {label!r}", element) for label, element in self.by.items()]
        named += ((f"measure {n!r}", v) for n, (_, v) in self.measures.items() if v is not None)
        named += (("where", each) for each in (self.where,) if each is not None)
        for what, element in named:
            foreign = read(cast("Any", element).is_(None) if what != "where" else element) - own
            if foreign:
                names = sorted(
                    f"an alias of '{each.element}'" if isinstance(each, Alias) else f"'{each}'"
                    for each in foreign
                )
                raise ArgumentError(
                    f"{what} has columns of {', '.join(names)}, and a question is about the rows "
                    f"of {self.source.key!r} alone: use a subquery, such as "
                    "Reading.tenant_id.in_(select(Tenant.id))."
                )

    @property
    def rollups(self) -> tuple[Rollup, ...]:
        """The rollups that are declared on the source."""
        declared = rollups_of(self.source.metadata)
        return tuple(rollup for rollup in declared if rollup.source is self.source)

    def ask(
        self,
        session: Executor,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
        after: AnswerRow | None = None,
        freshness: Freshness = "fresh",
        max_staleness: timedelta | None = None,
        at_least: str | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Answer the question; with asyncio, `await session.run_sync(question.ask)`.

        Args:
            session: A session or connection. What a session holds is flushed. If the session has
                `do_orm_execute` hooks, which may filter rows, the answer is from raw rows.
            since: From this aware datetime on; from the beginning by default.
            until: Before this aware datetime; to the end by default. Rows without a finite time
                are in no answer that has a bound.
            limit: At most so many rows.
            after: Only the rows that come after this one in the order of the answer, which is the
                last row of an earlier one: the next page. Each page is as of its own moment.
            freshness: `"fresh"` equals the raw rows now, `"rolled_up"` as of the last run, and
                `"raw"` is computed from them alone.
            max_staleness: With `"rolled_up"`: answer fresh if the last run is longer ago, and
                something is pending.
            at_least: A `commit_token`, or the `token` of what a load returns: what its transaction
                has written has to be in the answer.
            parameters: Values of those bound parameters of `where` that have none, by name.

        Raises:
            ArgumentError: A bound is not an aware datetime, or the window is empty; or another
                argument cannot be accepted.
            RollupError: No rollup can serve what is asked for as `"rolled_up"`; the database does
                not have the source; a migration has dropped what a connection knew of; raw rows
                are needed that have been expired; what `at_least` stands for is not visible here,
                or not on all nodes; or, on Citus, the transaction is REPEATABLE READ or
                SERIALIZABLE, and what is asked for is in a table that every node has a copy of.
        """
        options = (limit, after, freshness, max_staleness, at_least, parameters)
        answer = self._answer(session, checked_window(since, until), *options)
        return Answer(tuple(answer), answer.plan, self)

    def stream(
        self,
        session: Executor,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
        after: AnswerRow | None = None,
        freshness: Freshness = "fresh",
        max_staleness: timedelta | None = None,
        at_least: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        batch: int = 1000,
    ) -> Stream:
        """Answer the question row by row, in constant memory, however many rows there are.

            for row in question.stream(session, batch=5000):
                ...

        The rows come from a cursor of the server, in the order of the answer. All of them are as of
        the moment of this call, whatever is written, run or migrated while they are read. The
        cursor ends with the transaction of the session or connection. On a cluster of several
        nodes, a fresh stream from a table that every node has a copy of waits for a run that is
        under way; then, and where one has come between, it keeps further ones waiting until its
        transaction ends.

        With asyncio, the stream is read within `run_sync`: `await session.run_sync(write_rows)`,
        where `write_rows` is a function of a session that has such a loop.

        Args:
            session: As for `ask`, and so are all other arguments.
            since: From this aware datetime on.
            until: Before this aware datetime.
            limit: At most so many rows.
            after: Only the rows that come after this one.
            freshness: As of now, as of the last run, or from raw rows alone.
            max_staleness: With `"rolled_up"`: how long ago the last run may be.
            at_least: A `commit_token`.
            parameters: Values of those bound parameters of `where` that have none, by name.
            batch: How many rows are fetched at a time.

        Raises:
            ArgumentError: As `ask` does; or the connection is in autocommit mode, in which a cursor
                has no transaction to live in.
            RollupError: As `ask` does.
        """
        if type(batch) is not int or batch < 1:
            raise ArgumentError(f"batch must be a positive integer; found {batch!r}")
        options = (limit, after, freshness, max_staleness, at_least, parameters)
        return self._answer(session, checked_window(since, until), *options, batch)

    def _answer(
        self,
        session: Executor,
        window: Window,
        limit: int | None,
        after: AnswerRow | None,
        freshness: Freshness,
        max_staleness: timedelta | None,
        at_least: str | None,
        parameters: Mapping[str, Any] | None,
        batch: int | None = None,
    ) -> Stream:
        if window != (None, None) and self.time is None:
            raise ArgumentError(
                f"a window needs to know when a row happened: pass time=..., the column of "
                f"{self.source.key!r} that says so."
            )
        if freshness not in ("fresh", "rolled_up", "raw"):
            raise ArgumentError(
                f"freshness must be 'fresh', 'rolled_up' or 'raw', got {freshness!r}."
            )
        if limit is not None and (type(limit) is not int or limit < 1):
            raise ArgumentError(f"limit must be a positive integer; found {limit!r}")
        place = self._place(after)
        values = dict(parameters or {})
        if values.keys() != self._parameters.keys():
            wanted, given = (", ".join(sorted(n)) or "none" for n in (self._parameters, values))
            raise ArgumentError(
                f"parameters are the values of those bindparam() of the question that have none: "
                f"{wanted}; found {given}"
            )
        if max_staleness is not None and not isinstance(max_staleness, timedelta):
            raise ArgumentError(f"max_staleness must be a timedelta; found {max_staleness!r}")
        entity = self._entity if isinstance(self._entity, type) else None
        connection = flushed_connection(session, self.source, entity)
        if at_least is not None:
            _require_visible(connection, at_least)
        if batch is not None and is_autocommit(connection):
            raise ArgumentError(
                "a stream needs a transaction for the cursor of the server to live in, and this "
                "connection is in autocommit mode"
            )

        def from_raw(reasons: dict[str, str], suggestion: str | None = None) -> Stream:
            return self._raw_answer(
                session, window, limit, place, values, reasons, suggestion, batch
            )

        if freshness == "raw":
            return from_raw({})
        if isinstance(session, Session | scoped_session) and _hooks(session):
            hooked = "the session has do_orm_execute hooks, which may filter rows"
            if freshness == "rolled_up":
                raise RollupError(f"{hooked}: ask with freshness='fresh' or 'raw'.")
            return from_raw({self.source.name: hooked})
        if freshness == "rolled_up" and (max_staleness is not None or at_least is not None):
            known = _look(connection, self.source, again=True)
            if isinstance(known, _Known) and known.pending:
                stale = max_staleness is not None and known.age > max_staleness
                freshness = "fresh" if stale or at_least is not None else freshness
        # What was known of the rollups may have changed: then they are looked at again.
        for again in (False, False, True, True, True):
            known = _look(connection, self.source, again=again)
            if isinstance(known, str):
                why = known if self.rollups else f"no rollup of {self.source.name!r} is declared"
                missing = {self.source.name: "; ".join([why, *self._advice().values()])}
                # Declared ones are to be migrated, or granted.
                suggestion = (
                    None if self.rollups else self.suggestion(since=window[0], until=window[1])
                )
                if freshness == "rolled_up":
                    raise self._refusal(missing, suggestion)
                return from_raw(missing, suggestion)
            if known.restricted:
                secret = {self.source.name: "row level security hides rows from this role"}
                if freshness == "rolled_up":
                    raise RollupError(f"{secret[self.source.name]}: ask for freshness='raw'.")
                return from_raw(secret)
            beside = self._beside(connection, known)
            prepared = self._prepare(connection, known, beside)
            longest = max(
                (_length_of(values[name], bind) for name, bind in self._parameters.items()),
                default=0,
            )
            parts = prepared.compose(known, window, longest=longest, limited=limit is not None)
            raw_only = all(part.candidate is None for part in parts)
            if raw_only and (prepared.candidates or prepared.absent) and not again:
                # They may be complete, or there, by now.
                continue
            subtracted = self.needs.extremes and any(part.candidate is None for part in parts)
            if freshness == "rolled_up" and subtracted and not raw_only:
                raise RollupError(
                    "no rollup can answer that as of the last run: what is pending cannot be "
                    "subtracted from the smallest and largest values of raw rows, which are needed "
                    "for rows without a time, or at the edges of the window. Ask for 'fresh'."
                )
            undated = any(part.candidate is None and part.undated for part in parts)
            if freshness == "rolled_up" and undated and not (raw_only or prepared.logs_undated):
                raise RollupError(
                    "no rollup can answer that as of the last run: none has the rows without a "
                    "time, so that nothing says which of them have come since. Ask for 'fresh', or "
                    "declare a rollup with undated=True."
                )
            # Those that would serve another window come first.
            reasons: dict[str, str] = {}
            suggestion = None
            # Whether all of them would serve another window, and one with whole buckets.
            otherwise, whole = True, False
            if raw_only:
                for each in sorted(prepared.candidates, key=lambda each: each.level is None):
                    why, of_window = prepared.why_not(each, known, window, longest)
                    reasons[each.target.table] = why
                    otherwise &= of_window
                    whole |= of_window and each.level is not None
                reasons |= prepared.reasons
                if otherwise and not prepared.unsafe:
                    suggestion = self.suggestion(since=window[0], until=window[1])
                    reasons |= self._advice()
            if raw_only and freshness == "rolled_up":
                raise self._refusal(reasons, suggestion, whole=whole)
            horizon = known.horizon
            short = [
                each
                for part in parts
                if part.candidate is None and horizon is not None
                for each in part.windows
                if each[0] is None or each[0] < horizon
            ]
            if short and horizon is not None:
                since_, until_ = (edge and edge.isoformat() for edge in short[0])
                raise RollupError(
                    f"raw rows from before {horizon.isoformat()} have been expired, and no rollup "
                    f"has what is asked for from {since_ or 'the beginning'} until "
                    f"{until_ or 'the end'}: choose a window of whole buckets, or "
                    "freshness='raw' for what is left of them."
                )
            if raw_only:
                return from_raw(reasons, suggestion)
            if freshness == "fresh" and self.needs.extremes and known.pending:
                gone = prepared.costly(connection, known, parts, window)
                if gone:
                    return from_raw(gone)
            answer = self._rolled_answer(
                connection, prepared, known, beside, parts, limit, place, values, freshness, batch
            )
            if answer is not None:
                return answer
        raise RollupError(
            f"the rollups of {self.source.name!r} are being changed again and again: try later."
        )

    @staticmethod
    def _refusal(
        reasons: Mapping[str, str], suggestion: str | None, *, whole: bool = False
    ) -> RollupError:
        """Return the error that says why there is no answer as of the last run, and what to do.

        Args:
            reasons: Why tables cannot serve, by table.
            suggestion: The declaration of a rollup that would.
            whole: Whether a window of whole buckets would be served.
        """
        tables: dict[str, list[str]] = {}
        for table, why in reasons.items():
            tables.setdefault(why, []).append(table)
        listed = "; ".join(f"{', '.join(names)}: {why}" for why, names in tables.items())
        if whole:
            listed += ". Choose a window of whole buckets, or ask for 'fresh'"
        rest = f". This one would: {suggestion}" if suggestion else "."
        return RollupError(f"no rollup can answer that as of the last run: {listed}{rest}")

    def _advice(self) -> dict[str, str]:
        """Return what to ask differently so that a rollup could serve, by the source."""
        if self.time is not None:
            time = {_key_of(self.source, self.source.c[self.time])}
            for each in self.conjuncts:
                sides = (each.left, each.right) if isinstance(each, BinaryExpression) else ()
                if any(_key_of(self.source, side) in time for side in sides):
                    return {
                        self.source.name: f"{_named(each)} is about the time: ask for a window, "
                        "since= and until="
                    }
        for label, element in self.by.items():
            if isinstance(element.type, NullType):
                return {
                    self.source.name: f"the type of the group {label!r} is not known, which a "
                    "rollup needs: give it one, as in func.upper(Reading.kind, type_=Text)"
                }
        return {}

    def suggestion(
        self, *, since: datetime | None = None, until: datetime | None = None
    ) -> str | None:
        """Return the declaration of a rollup that would answer the question, as Python.

        It is written with the names of `sqlalchemy`, its `sqlalchemy.dialects.postgresql` and
        `citus_analytics`, and that of the source: its class, or a variable named as the table.
        Filters become dimensions, so that it serves other values as well.

        Args:
            since: The beginning of a window for which it has whole buckets.
            until: The end of the window.

        Returns:
            The declaration; None if no rollup would serve: the question is about more than the
            values of each row, a group has no type, a filter is about the time, for which there are
            `since` and `until`, or the window has no whole minute.
        """
        window = checked_window(since, until)
        source = self.source
        groups: dict[str | None, str] = {}
        taken = {*([_BUCKET] if self.time is not None else [])}

        def shown(element: ColumnElement[Any], name: str | None = None) -> str:
            if isinstance(element, Column) and name in (None, element.name):
                return repr(element.name)
            written = f"literal_column({sql_of(source, element)!r}, {element.type!r})"
            return written if name is None else f"{written}.label({name!r})"

        def free(name: str) -> str:
            while name in taken:
                name += "_"
            taken.add(name)
            return name

        def add(element: ColumnElement[Any], label: str) -> bool:
            """Make a dimension of an expression; False if it cannot be one."""
            key = _key_of(source, element)
            nodes = [*visitors.iterate(element)]
            values = all(isinstance(node, Column) or _is_plain(node) for node in nodes)
            if isinstance(element.type, NullType) or key is None or not values:
                return False
            if key not in groups:
                groups[key] = shown(element, free(label))
            return True

        def add_filter(element: Any) -> bool:
            """Make dimensions of what a condition compares with values."""
            if _key_of(source, element) in groups:
                return True
            if isinstance(element, Grouping):
                return add_filter(element.element)
            if isinstance(element, BooleanClauseList):
                return all(add_filter(each) for each in element.clauses)
            if isinstance(element, UnaryExpression) and not isinstance(element.element, Column):
                return add_filter(element.element)
            nodes = [*visitors.iterate(element)]
            columns = [node for node in nodes if isinstance(node, Column)]
            if not columns:
                # It says the same of every row, or something that no rollup knows.
                return False
            if isinstance(element, BinaryExpression):
                left = element.left
                for side in (left, element.right):
                    if isinstance(side, Column) and side.name == self.time:
                        # There would be a group for each moment.
                        return False
                key = {_key_of(source, left)}
                if (
                    any(isinstance(node, Column) for node in visitors.iterate(left))
                    and all(isinstance(node, _VALUES) for node in visitors.iterate(element.right))
                    and _compares_whole_values(
                        source,
                        element,
                        key if is_long(left) else set(),
                        key if _may_look_different(left) else set(),
                    )
                ):
                    return add(left, getattr(left, "name", None) or "value")
            if any(is_long(each) or _may_look_different(each) for each in columns):
                return add(element, "condition")
            if not all(isinstance(node, Column) or _is_plain(node) for node in nodes):
                return False
            return all(add(each, each.name) for each in columns)

        extremes = any(m.aggregate in ("min", "max") for m, _ in self.measures.values())
        distribution = distribution_of(source)
        if extremes and isinstance(distribution, Distributed) and distribution.column is not None:
            # The next value is looked up beside the one that has gone.
            add(source.c[distribution.column], distribution.column)
        for label, element in self.by.items():
            bare = cast("Any", element).element if _is_label(element) else element
            if not add(bare, label):
                return None
        if not all(add_filter(each) for each in self.conjuncts):
            return None
        makers = {
            "count": "count",
            "sum": "total",
            "avg": "average",
            "var_samp": "variance",
            "stddev_samp": "stddev",
            "min": "minimum",
            "max": "maximum",
        }
        listed = []
        for name, (measure, value) in self.measures.items():
            nodes = [] if value is None else [*visitors.iterate(value)]
            if not all(isinstance(node, Column) or _is_plain(node) for node in nodes):
                return None
            of = "" if value is None else shown(value)
            if measure.fractions:
                of += f", {list(measure.fractions)}"
            if measure.approximate:
                of += ", approximate=True"
            maker = makers.get(measure.aggregate, measure.aggregate)
            listed.append(f"{free(name)!r}: {maker}({of})")
        entity = self._entity.__name__ if isinstance(self._entity, type) else source.name
        arguments = [entity]
        if self.time is not None:
            asked = self.every
            fits = [
                level
                for level in (asked or Every(3600), Every(60))
                if (asked is None or asked.is_made_of(level))
                and _whole(level, window, None) is not None
            ]
            if not fits:
                return None
            arguments += [f"time={self.time!r}", f"every={str(fits[0])!r}", "undated=True"]
        elif window != (None, None):
            return None
        arguments.append(f"by=[{', '.join(groups.values())}]")
        arguments.append(f"measures={{{', '.join(listed)}}}")
        # Suggestions for several questions are declared side by side.
        name = f"{source.name[:20]}_rollup_{crc32(', '.join(arguments).encode()):08x}"
        return f"Rollup({', '.join([repr(name), *arguments])})"

    def columns(self) -> list[Column[Any]]:
        """Return the columns of the answer."""
        found: list[Column[Any]] = []
        if self.every is not None:
            found.append(Column(_BUCKET, DateTime(timezone=True)))
        found += (Column(name, element.type) for name, element in self.by.items())
        found += (Column(name, kind) for name, kind in self.needs.types.items())
        return found

    def joined(self, rows: str, schema: str | None) -> str | None:  # noqa: ARG002
        """Return the query for the answer over rows that are to be added up: `_rows` by group.

        For questions whose answer needs a further table; None for those that are added up as they
        are.
        """
        return None

    def greatest(
        self,
        legs: Sequence[str],
        table: str,
        further: RollupSpec,
        beyond: str,
        *,
        distributed: bool,
    ) -> str:
        """Return the query for the first rows of the answer, by the ranking of a rollup.

        For questions that have a `further` rollup, if the database has both.

        Args:
            legs: The queries for the rows that are to be added up: those of the rollup, and those
                of what is pending, if that is asked for.
            table: The rollup that is ranked as the question is, with its names, as SQL.
            further: The rollups of the further table.
            beyond: The condition for what comes after a place, over the answer's columns of `p`.
            distributed: Whether both sources are on shards, side by side; then the rollup of the
                further table is complete.
        """
        raise NotImplementedError

    def raw_statement(
        self, *, since: datetime | None = None, until: datetime | None = None
    ) -> Select[Any]:
        """Return the statement that answers the question from raw rows alone.

        It selects from what the question was given, a mapped class for example, so that an
        application's `do_orm_execute` hooks and `with_loader_criteria` apply to it.
        """
        window = checked_window(since, until)
        columns: list[ColumnElement[Any]] = []
        groups: list[ColumnElement[Any]] = []
        time = None if self.time is None else self.source.c[self.time]
        if self.every is not None and time is not None:
            groups.append(_bucket_element(self.every, time))
            columns.append(groups[0].label(_BUCKET))
        for label, element in self.by.items():
            bare = getattr(element, "element", element) if _is_label(element) else element
            groups.append(bare)
            columns.append(bare.label(label))
        for name, (measure, value) in self.measures.items():
            columns += _native(name, measure, value)
        statement = select(*columns).select_from(self._entity)
        if self.where is not None:
            statement = statement.where(self.where)
        if time is not None and (window != (None, None) or not self.undated):
            since, until = window
            # Rows whose time is not finite are in no window.
            statement = statement.where(
                time > literal_column("'-infinity'") if since is None else time >= since,
                time < literal_column("'infinity'") if until is None else time < until,
            )
        if groups:
            statement = statement.group_by(*groups)
        return statement.order_by(*(text(each.sql("")) for each in self.order()))

    def order(self) -> list[Order]:
        """Return the order of the answer, in which no two rows have the same place."""
        found = [Order(name=name) for name in ([_BUCKET] if self.every else [])]
        found += (Order(name=name) for name in self.by)
        if found and self.ranked is not None:
            found.insert(0, Order(name=self.ranked, descending=True))
        return found

    def _place(self, after: AnswerRow | None) -> dict[str, Any] | None:
        """Return what says where a row is in the order of the answer."""
        if after is None:
            return None
        names = [each.name for each in self.order()]
        if not names:
            raise ArgumentError("the answer has one row, and nothing comes after it")
        row: Any = getattr(after, "_mapping", after)
        if not isinstance(row, Mapping) or not {*names} <= {*row}:
            raise ArgumentError(
                f"after must be a row of an earlier answer, with {', '.join(names)}; found "
                f"{after!r}"
            )
        bucket = row[_BUCKET] if self.every is not None else None
        if isinstance(bucket, datetime) and bucket.utcoffset() is None:
            raise ArgumentError(
                f"the bucket of after must be an aware datetime; found {bucket!r}, which has no "
                "time zone"
            )
        # What Python has in their place says no longer where these are in the order of SQL.
        for name in names:
            kind = kind_of(self.by[name]) if name in self.by else None
            if row[name] is not None and isinstance(kind, Interval | INTERVAL):
                raise ArgumentError(
                    f"{name!r} is an interval in after, whose months and years have no length in "
                    "Python: for pages, group by its text, as in cast(Reading.span, Text)"
                )
            if row[name] is None and isinstance(kind, JSON):
                raise ArgumentError(
                    f"{name!r} is None in after, which may stand for the null of JSON or the NULL "
                    "of SQL, and these are two groups: for pages, group by its text, as in "
                    "Reading.payload['x'].astext"
                )
        return {name: row[name] for name in names}

    def _raw_answer(
        self,
        session: Executor,
        window: Window,
        limit: int | None,
        place: dict[str, Any] | None,
        values: dict[str, Any],
        reasons: dict[str, str],
        suggestion: str | None,
        batch: int | None,
    ) -> Stream:
        since, until = window
        statement = self.raw_statement(since=since, until=until)
        executor = session
        entity = self._entity if isinstance(self._entity, type) else None
        if place is not None and isinstance(session, Session | scoped_session) and _hooks(session):
            # What hooks add is for the statement that they know. In HAVING, Citus knows of groups
            # that are expressions no more than of what is not grouped; all values are the same.
            columns: dict[str, ColumnElement[Any]] = dict(statement.selected_columns.items())
            connection = flushed_connection(session, self.source, entity)
            if connection.scalar(text(f"SELECT {HAS_CITUS}")):
                # A question may select others than its groups.
                groups = {*([_BUCKET] if self.every else []), *self.by}
                for name in groups & columns.keys():
                    element = cast("Any", columns[name]).element
                    if not isinstance(element, Column):
                        columns[name] = func.any_value(element, type_=element.type)
            statement = statement.having(place_after(self.order(), columns, place))
        elif place is not None:
            # Around the groups, for the same reason.
            rows = statement.order_by(None).subquery()
            statement = (
                select(rows)
                .where(place_after(self.order(), dict(rows.c.items()), place))
                .order_by(*(text(each.sql("")) for each in self.order()))
            )
            executor = flushed_connection(session, self.source, entity)
        statement = statement.limit(limit)
        if batch is not None:
            statement = statement.execution_options(yield_per=batch)
        try:
            result = executor.execute(statement, values)
        except ProgrammingError as error:
            name = self.source.name
            absent = f'relation "{name}"', f'.{name}"'
            if isinstance(error.orig, UndefinedTable) and any(w in str(error.orig) for w in absent):
                raise RollupError(
                    f"the database has no table {name!r}. Migrate the database first, with "
                    "`alembic upgrade head`, or connect to the one that has it. The search_path of "
                    "the connection says in which schemas it is looked for."
                ) from error
            raise
        step = Step(
            table=self.source.name,
            windows=(window,) if self.time is not None else (),
            undated=self.undated and window == (None, None),
        )
        plan = Plan(
            freshness="raw",
            steps=(step,),
            reasons=reasons,
            suggestion=suggestion,
            sql=str(statement),
            _statement=partial(statement.params, values),
        )
        return Stream(iter(result), plan, self, result.close)

    def _prepare(self, connection: Connection, known: _Known, beside: _Known | None) -> _Prepared:
        # An application may declare further ones on a source of somebody else's, and remove some.
        known_of = (known.comment, known.schema, known.distributed)
        key = (known_of, self.rollups, beside and beside.comment)
        prepared = self._prepared.get(key)
        if prepared is None:
            elements = [*self.by.values(), *self.conjuncts]
            called = {name for each in elements for name in _called(_shown(each))}
            unsafe = connection.scalars(_UNSAFE, {"names": [*called]}) if called else ()
            further = None
            if beside is not None and self.further is not None:
                with suppress(_NoMatchError):
                    (table,) = (each.name for each in self.further.targets.values())
                    _same_target(self.further.spec(), beside.spec, table)
                    further = beside.spec
            prepared = self._prepared[key] = _Prepared(
                self, known.spec, further, frozenset(unsafe), distributed=known.distributed
            )
        return prepared

    def _beside(self, connection: Connection, known: _Known) -> _Known | None:
        """Return what is known of the further source, if its rollup can serve."""
        if self.further is None or self.further not in rollups_of(self.source.metadata):
            return None
        found = _look(connection, self.further.source, again=False)
        if isinstance(found, _Known) and monotonic() - found.looked > _A_WHILE:
            found = _look(connection, self.further.source, again=True)
        # Until they are added up, there is no saying what most of its numbers are.
        if isinstance(found, str) or found.pending > _FEW_PENDING:
            return None
        # What is pending is sent to all nodes.
        if known.distributed and known.pending > 10 * _FEW_PENDING:
            return None
        if found.colocation != known.colocation:
            return None
        tables = {table.name for table in self.further.targets.values()}
        # On a cluster the statement does not look whether it is complete.
        unknown = (_NEVER, None)
        if known.distributed and any(found.targets.get(n, unknown)[0] is not None for n in tables):
            return None
        return found if tables <= found.readable else None

    def _rolled_answer(
        self,
        connection: Connection,
        prepared: _Prepared,
        known: _Known,
        beside: _Known | None,
        parts: list[_Part],
        limit: int | None,
        place: dict[str, Any] | None,
        values: dict[str, Any],
        freshness: Freshness,
        batch: int | None,
    ) -> Stream | None:
        """Return the answer, or None if what was known of the rollups has changed meanwhile."""
        fresh = freshness == "fresh"
        statement_of = partial(
            prepared.statement,
            parts,
            fresh=fresh,
            limit=limit,
            place=place,
            alone=known.distributed,
        )
        statement = statement_of()
        edges = [edge for part in parts for each in part.windows for edge in each if edge]
        arguments = dict[str, Any](zip(statement.edges, edges, strict=True))
        arguments |= {name: values[key] for name, (key, _) in prepared.given.items()}
        for number, value in enumerate((place or {}).values()):
            arguments[f"_after{number}"] = value
        arguments["_limit"] = limit
        unkeyed = any(part.candidate and not part.candidate.target.keyed for part in parts)
        found: tuple[str | None, int]
        began: str | None = None
        try:
            if known.distributed:
                # Of a table that is not keyed, a reader could see half of what a run commits on the
                # nodes. That is rare: to look whether it can have happened is cheaper than to hold
                # runs. What is found by the ranking with a further source is read from it at
                # several moments: it must not change. Otherwise the joined statement reads only
                # what is side by side.
                beside = beside if statement.further else None
                further = None if beside is None else beside.spec
                look = partial(_look_now, connection, known.spec, further)
                careful = not is_snapshot(connection)
                careful &= beside is not None or (fresh and unkeyed)
                # What is as of the last run says of which one.
                before = look() if careful or not fresh else None
                undisturbed = not careful or (before is not None and before.settled)
                if undisturbed:
                    # Citus has all rows when it has the first.
                    _, rows, close = statement.execute(connection, arguments, batch)
                    after = look()
                    if careful and after != before:
                        close()
                        undisturbed = False
                if not undisturbed:
                    statement = statement_of(best=beside is None)
                    held = runs_held(connection, self.source, kept=batch is not None)
                    with nullcontext() if beside else held:
                        before = look()
                        _, rows, close = statement.execute(connection, arguments, batch)
                    after = look()
                elif beside and beside.refreshed(after.further, 0).signature != beside.signature:
                    close()
                    connection.info.get(_INFO, {}).pop(beside.key, None)
                    return None
                began = None if before is None else before.state
                found = (after.state, _pending_now(connection, known.spec))
                check = statement.check
                if check is not None and not connection.scalar(check, arguments):
                    found = (None, 0)
            else:
                found, rows, close = statement.execute(connection, arguments, batch)
        except ProgrammingError as error:
            changed = isinstance(error.orig, UndefinedTable | UndefinedColumn)
            if changed or isinstance(error.orig, InsufficientPrivilege):
                connection.info.pop(_INFO, None)
            if not changed:
                raise
            if is_autocommit(connection):
                return None
            names = [self.source.name]
            if statement.further and self.further is not None:
                names.append(self.further.source.name)
            raise RollupError(
                f"a migration has changed the rollups of {' or '.join(map(repr, names))} since "
                "this connection looked at them: roll the transaction back and ask again, which "
                "looks anew."
            ) from error
        state, pending = found
        if state is None:
            close()
            zones = {p.candidate.level.zone for p in parts if p.candidate and p.candidate.level}
            other = replace(known, foreign=known.foreign | zones - {"UTC"})
            connection.info.setdefault(_INFO, {})[known.key] = other
            return None
        now = known.refreshed(state, pending)
        if now.signature != known.signature:
            close()
            connection.info.get(_INFO, {}).pop(known.key, None)
            return None
        connection.info.setdefault(_INFO, {})[known.key] = now
        used = [part.candidate for part in parts if part.candidate is not None]
        # A run that has come while nodes were read is not in what they have said.
        then = now if began is None else now.refreshed(began, pending)
        runs = [then.last_run(each.target.table) for each in used]
        steps = tuple(part.step(self.source.name) for part in parts)
        read = {step.table for step in steps}
        foreign = {
            each.target.table: why
            for each in prepared.candidates
            if (why := known.foreign_to(each)) is not None
        }
        plan = Plan(
            freshness=freshness,
            steps=steps,
            as_of=None if fresh else min((run for run in runs if run), default=None),
            pending=pending,
            reasons={t: why for t, why in (prepared.reasons | foreign).items() if t not in read},
            sql=statement.sql,
            _statement=partial(statement.bound, arguments),
        )
        return Stream(rows, plan, self, close)


# What a question needs of a table.


@dataclass(slots=True)
class _Values:
    """A measure, or several, that are computed from the values of a group and their numbers."""

    kind: str
    element: ColumnElement[Any]
    sql: str | None
    reads: dict[str, str] = field(default_factory=dict)

    @property
    def type(self) -> str:
        return type_name(self.element.type) if self.kind == "distinct" else "integer"


class _Needs:
    """The columns from which the measures of a question are computed, whatever has them."""

    def __init__(self, question: Question) -> None:
        self.additive: dict[str, tuple[str | None, str, int]] = {}
        self.extremes: dict[str, tuple[str, str | None]] = {}
        self.extreme_types: dict[str, str] = {}
        self.values: list[_Values] = []
        self.types: dict[str, TypeEngine[Any]] = {}
        self.shown: dict[str, str] = {}
        bases: dict[str | None, str] = {}
        for name, (measure, value) in question.measures.items():
            if value is None:
                self.types[name] = BigInteger()
                self.shown[name] = "fresh._rows::bigint"
                continue
            sql = _key_of(question.source, value)
            if measure.aggregate in ("min", "max"):
                self.types[name] = value.type
                self.extremes[name] = (measure.aggregate, sql)
                self.extreme_types[name] = type_name(value.type)
            elif measure.aggregate in BY_VALUES:
                kind = "approximate" if measure.approximate else measure.aggregate
                reads = names_read(name, measure)
                whole: TypeEngine[Any] = (
                    BigInteger() if measure.aggregate == "distinct" else Double()
                )
                self.types |= dict.fromkeys(reads, whole)
                same = (each for each in self.values if (each.kind, each.sql) == (kind, sql))
                found = next(same, None)
                if found is None:
                    self.values.append(found := _Values(kind, value, sql))
                found.reads |= reads
            else:
                base = bases.setdefault(sql, f"a{len(bases)}")
                for part in PARTS[measure.aggregate]:
                    for number, column in enumerate(kept_as(part, value)):
                        self.additive[f"_{base}_{column}"] = (sql, part, number)
                type_ = visible_type(measure.aggregate, value)
                self.types[name] = type_
                shown = visible_value(measure.aggregate, base, value)
                self.shown[name] = f"({shown})::{type_name(type_).lower()}"


@dataclass(slots=True)
class _Side:
    """A table of a rollup, or the log, as a source of a question's columns, in SQL."""

    groups: list[str]
    where: list[str]
    additive: dict[str, str]
    extremes: dict[str, str]
    values: list[str]


@dataclass(slots=True)
class _Candidate:
    """A table of a rollup that can serve a question: `t`, with the log, `l`."""

    rollup: Rollup
    level: Every | None
    target: TargetSpec
    table: _Side
    log: _Side
    # Of each measure by values: the table that has them, or none if a dimension is the value.
    tables: list[TargetSpec | None]
    # How many bytes a value that is asked for may have: what is longer has been abbreviated.
    longest: float
    # Whether its ranking has the groups in the order of the answer.
    ranked: bool = False

    def cost(self, known: _Known) -> float:
        """Estimate how many rows it has."""
        counted = known.tuples.get(self.target.table, 0.0)
        if counted > 0:
            return counted
        rows = 1.0
        for logged in self.target.by.values():
            rows *= 1000 if logged == "key" else 20
        return rows * (1 if self.level is None else 1e8 / self.level.length)


@dataclass(slots=True)
class _Part:
    """What is taken from a table, or from raw rows."""

    candidate: _Candidate | None
    windows: list[Window]
    undated: bool = False

    def step(self, source: str) -> Step:
        if self.candidate is None:
            return Step(table=source, windows=tuple(self.windows), undated=self.undated)
        return Step(
            table=self.candidate.target.table,
            rollup=self.candidate.rollup.name,
            every=self.candidate.level,
            windows=tuple(self.windows),
            undated=self.undated,
        )


class _NoMatchError(Exception):
    """A table of a rollup cannot serve a question, for the reason that it says."""


class _AbsentError(_NoMatchError):
    """The database does not have the table, or another one."""


class _Prepared:
    """A question as one state of the database's rollups can serve it."""

    def __init__(
        self,
        question: Question,
        spec: RollupSpec,
        further: RollupSpec | None,
        unsafe: frozenset[str],
        *,
        distributed: bool,
    ) -> None:
        self.question = question
        self.spec = spec
        self.further = further
        self.distributed = distributed
        # Functions whose value is not that of a row alone, which groups are not filtered by.
        self.unsafe = unsafe
        self.reasons: dict[str, str] = {}
        # Whether something that is declared is not in the database, as far as is known.
        self.absent = False
        self.candidates: list[_Candidate] = []
        self.fixed: dict[str, tuple[Any, TypeEngine[Any]]] = {}
        # Of parameters whose values are given with the question: how it names them.
        self.given: dict[str, tuple[str, TypeEngine[Any]]] = {}
        self._statements: dict[Any, _Statement] = {}
        self._usable: tuple[Any, list[tuple[_Candidate, datetime | None]]] | None = None
        for rollup in question.rollups:
            own = rollup.spec()
            for level, table in rollup.targets.items():
                try:
                    candidate = self._match(rollup, own, level, table.name)
                except _NoMatchError as reason:
                    self.reasons[table.name] = str(reason)
                    self.absent |= isinstance(reason, _AbsentError)
                    continue
                candidate.ranked = self._is_ranked(candidate)
                self.candidates.append(candidate)
        # Whether the log has changes of rows without a time: those that some rollup counts.
        self.logs_undated = any(
            target.undated and target.where is None for target in spec.targets
        ) or any(candidate.target.undated for candidate in self.candidates)

    def _match(
        self, rollup: Rollup, own: RollupSpec, level: Every | None, table: str
    ) -> _Candidate:
        question, source, needs = self.question, self.question.source, self.question.needs
        target = _same_target(own, self.spec, table)
        if question.every is not None and (level is None or not question.every.is_made_of(level)):
            made = "has no buckets" if level is None else f"has buckets of {level}"
            raise _NoMatchError(f"{made}, of which {question.every} does not consist")
        asked = [(_key_of(source, each), each) for each in question.conjuncts]
        own_filter = [_key_of(source, each) for each in _conjuncts(rollup.where)]
        if None in own_filter or not set(own_filter) <= {sql for sql, _ in asked}:
            raise _NoMatchError(f"has only the rows where {_brief(cast('Any', rollup.where))}")
        dimensions = {
            _key_of(source, element): label for label, element in rollup.dimensions.items()
        }
        abbreviated, limit = rollup.abbreviated()
        long = {_key_of(source, element) for element in abbreviated} & {*dimensions}
        alike = {
            _key_of(source, element)
            for element in rollup.dimensions.values()
            if _may_look_different(element)
        }
        for element in (*question.by.values(), *question.conjuncts):
            if self.distributed and not target.keyed and _depends_on_session(element):
                # Workers have a time zone of their own, and the raw rows.
                raise _NoMatchError(
                    f"is on the coordinator, and {_named(element)} may depend on the time zone of "
                    "the session, which workers do not have: name one, as in "
                    "func.timezone('UTC', ...)"
                )
        longest = math.inf
        sides: list[_Side] = []
        for alias in "tl":
            places = {
                sql: f"t.{quote(label)}" if alias == "t" else f"l.{quote(target.by[label])}"
                for sql, label in dimensions.items()
                if sql is not None
            }
            groups, where = [], []
            if question.every is not None:
                time = f"t.{quote(target.bucket or '')}" if alias == "t" else "l.at"
                same = alias == "t" and question.every == level
                groups.append(time if same else bucket_of(str(question.every), time))
            for label, element in question.by.items():
                found = self._rewritten(element, places)
                bare = _key_of(source, element)
                if found is None or (bare not in places and _uses(source, element, long | alike)):
                    raise _NoMatchError(f"has no dimension {label!r}")
                groups.append(found)
            for sql, element in asked:
                if sql is not None and sql in own_filter:
                    continue
                found = self._rewritten(element, places)
                if found is None:
                    hint = ""
                    if question.time is not None and _uses(
                        source, element, {_key_of(source, source.c[question.time])}
                    ):
                        hint = "; since= and until= are for windows of time"
                    raise _NoMatchError(f"has no dimension for {_named(element)}{hint}")
                if _uses(source, element, long):
                    longest = limit
                if not _compares_whole_values(source, element, long, alike):
                    raise _NoMatchError(
                        "abbreviates long values, and has equal ones that are written differently "
                        f"in one group: {_named(element)} may look into them. ==, !=, "
                        "in_(), not_in(), is_() and their AND, OR and NOT do not"
                    )
                known_values = [
                    n for n in visitors.iterate(element) if isinstance(n, BindParameter)
                ]
                if longest < max(
                    (_length_of(n.value, n) for n in known_values if not n.required), default=0
                ):
                    raise _NoMatchError(
                        f"abbreviates values of more than {limit:,} bytes, and a value of "
                        f"{_named(element)} is longer"
                    )
                where.append(f"({found})")
            sides.append(_Side(groups, where, {}, {}, []))
        table_side, log_side = sides
        known = {
            _key_of(source, value): rollup.input_name(value)
            for _, value in rollup.measures.values()
            if value is not None
        }
        written = {
            _key_of(source, value): _brief(value)
            for _, value in question.measures.values()
            if value is not None
        }
        table_side.additive["_rows"], log_side.additive["_rows"] = f"t.{quote(target.rows)}", "l.n"
        for name, (sql, part, number) in needs.additive.items():
            base = known.get(sql) if sql is not None else None
            value = next(
                (v for _, v in rollup.measures.values() if _is_value(source, v, sql)), None
            )
            kept = () if value is None else kept_as(part, value)
            column = f"_{base}_{kept[number]}" if number < len(kept) else ""
            if column not in target.sums:
                raise _NoMatchError(f"has no measure that keeps the {part} of {written[sql]}")
            table_side.additive[name] = f"t.{quote(column)}"
            log_side.additive[name] = f"l.n * ({target.sums[column]})"
        for name, (kind, sql) in needs.extremes.items():
            held = next(
                (
                    label
                    for label, (measure, value) in rollup.measures.items()
                    if measure.aggregate == kind and _is_value(source, value, sql)
                ),
                None,
            )
            if held is None:
                raise _NoMatchError(f"has no {kind} of {written[sql]}")
            table_side.extremes[name] = f"t.{quote(held)}"
            log_side.extremes[name] = f"l.{quote(target.extremes[held][1])}"
        tables: list[TargetSpec | None] = []
        for each in needs.values:
            held = next(
                (
                    label
                    for label, (measure, value) in rollup.measures.items()
                    if ("approximate" if measure.approximate else measure.aggregate) == each.kind
                    and _is_value(source, value, each.sql)
                ),
                None,
            )
            if held is not None:
                of = rollup.value_tables[level, held].name
                tables.append(found_table := _same_target(own, self.spec, of))
                table_side.values.append(f"t.{quote(VALUE)}")
                log_side.values.append(f"l.{quote(found_table.by[VALUE])}")
            elif each.kind == "distinct" and each.sql in dimensions:
                # What is counted is a dimension: its values are there.
                dimension = dimensions[each.sql]
                tables.append(None)
                table_side.values.append(f"t.{quote(dimension)}")
                log_side.values.append(f"l.{quote(target.by[dimension])}")
            else:
                raise _NoMatchError(f"has no {each.kind} values of {_brief(each.element)}")
        return _Candidate(rollup, level, target, table_side, log_side, tables, longest)

    def _rewritten(self, element: ColumnElement[Any], places: Mapping[str, str]) -> str | None:
        """Return an expression over dimensions as SQL, None if it needs more than these."""
        source = self.question.source
        placed: list[ColumnClause[Any]] = []

        def place(node: Any, **_: Any) -> Any:
            if not isinstance(node, ColumnElement):
                return None
            sql = _key_of(source, node)
            if sql is None or sql not in places:
                return None
            placed.append(literal_column(places[sql], type_=node.type))
            return placed[-1]

        bare: ColumnElement[Any] = element
        if _is_label(element):
            bare = cast("Any", element).element
        new: ColumnElement[Any] = visitors.replacement_traverse(bare, {}, cast("Any", place))
        for node in visitors.iterate(new):
            # What a text names is not known, nor how many values a list will have.
            listed = isinstance(node, BindParameter) and node.required and node.expanding
            if listed or isinstance(node, Column | TextClause):
                return None
            if not any(node is each for each in placed) and not _is_plain(node):
                raise _NoMatchError(
                    f"has groups, and {_named(element)} is about rows: of that, it has subqueries, "
                    "literal columns, windows and the like"
                )
        sql = self._text(new)
        unsafe = self.unsafe & _called(sql)
        if unsafe:
            raise _NoMatchError(
                f"has groups, and {min(unsafe)}() of {_named(element)} may differ from row to row"
            )
        return sql

    def _text(self, element: ColumnElement[Any]) -> str:
        """Compile an expression; its values become parameters between zero characters."""
        # What a type puts around a value is put there when the whole statement is compiled.
        options = {"skip_bind_expression": True}
        compiled = cast("Any", element.compile(dialect=_PYFORMAT, compile_kwargs=options))
        known = {name: bind.effective_value for name, bind in compiled.binds.items()}
        state = compiled.construct_expanded_state(known)
        escaped = {short: name for name, short in compiled.escaped_bind_names.items()}
        binds: dict[Any, tuple[BindParameter[Any], TypeEngine[Any]]] = {
            name: (bind, bind.type) for name, bind in compiled.binds.items()
        }
        for name, listed in state.parameter_expansion.items():
            kinds = getattr(binds[name][0].type, "types", None) or [binds[name][0].type]
            for number, each in enumerate(listed):
                binds[each] = (binds[name][0], kinds[number % len(kinds)])
        names: dict[str, str] = {}

        def named(found: re.Match[str]) -> str:
            name = found[1]
            if name is None:
                return "%"
            bind, kind = binds[escaped.get(name, name)]
            if name not in names:
                names[name] = f"_p{len(self.fixed) + len(self.given)}"
                if bind.required:
                    self.given[names[name]] = (bind.key, kind)
                else:
                    self.fixed[names[name]] = (state.parameters[name], kind)
            return f"\0{names[name]}\0"

        return re.sub(r"%%|%\(([^)]+)\)s", named, state.statement)

    # Which tables serve a window.

    def compose(
        self, known: _Known, window: Window, *, longest: float, limited: bool
    ) -> list[_Part]:
        """Return what is taken from which table: from the cheapest first.

        That is one that has the greatest groups by its ranking, if only some are wanted, or one
        that has few rows. A table that would have abbreviated the longest value is left out.
        """
        parts: dict[int, _Part] = {}
        everything = window == (None, None) and self.question.undated
        key = (known, everything, tuple(longest > each.longest for each in self.candidates))
        # Other threads ask the same question, of other databases too: what they find is their own.
        remembered = self._usable
        if remembered is None or remembered[0] != key:
            found = [
                (candidate, since)
                for candidate in self.candidates
                if self._unusable(candidate, known, longest) is None
                and (since := known.complete_since(candidate)) != _NEVER
                and (candidate.level is not None or (everything and since is None))
            ]
            remembered = (key, sorted(found, key=lambda each: each[0].cost(known)))
            self._usable = remembered
        usable = remembered[1]
        if limited:
            best = [
                (candidate, complete)
                for candidate, complete in usable
                if candidate.ranked
                and _whole(candidate.level, window, complete) == window
                and (window != (None, None) or self.question.undated == candidate.target.undated)
            ]
            usable = [*best, *(each for each in usable if each not in best)]
        raw = _Part(None, [])

        def take(since: datetime | None, until: datetime | None, first: int) -> None:
            for number in range(first, len(usable)):
                candidate, complete = usable[number]
                inside = _whole(candidate.level, (since, until), complete)
                if inside is None or (first > 0 and self._raw_is_nearer(candidate, known, inside)):
                    continue
                part = parts.setdefault(number, _Part(candidate, []))
                start, end = inside
                if start is not None and start != since:
                    take(since, start, number + 1)
                part.windows.append(inside)
                if end is not None and end != until:
                    take(end, until, number + 1)
                return
            raw.windows.append((since, until))

        take(*window, 0)
        if everything:
            whole = next((p for p in parts.values() if p.windows == [(None, None)]), None)
            if whole is not None and whole.candidate is not None and whole.candidate.target.undated:
                whole.undated = True
            else:
                raw.undated = True
        if self.question.time is None:
            # Without a time there is one window, and every row is in it.
            raw.undated = bool(raw.windows)
        ordered = [parts[number] for number in sorted(parts)]
        return [*ordered, raw] if raw.windows or raw.undated else ordered

    def why_not(
        self, candidate: _Candidate, known: _Known, window: Window, longest: float
    ) -> tuple[str, bool]:
        """Return why a table does not serve a window, and whether it would serve another one."""
        why = self._unusable(candidate, known, longest)
        if why is not None:
            return why, False
        level, complete = candidate.level, known.complete_since(candidate)
        if level is None and window != (None, None):
            return "has totals over all time, and no window of it", True
        if level is None and not self.question.undated:
            return "has totals over all time, with the rows without a time", True
        if complete is not None and _whole(level, window, None) is not None:
            return "is not complete yet: backfill it", False
        return f"has no whole bucket of {level} in the window", True

    @staticmethod
    def _unusable(candidate: _Candidate, known: _Known, longest: float) -> str | None:
        """Return why a table serves no window at all, None if it may."""
        if candidate.target.table not in known.readable:
            return "this role has no SELECT on it"
        if (foreign := known.foreign_to(candidate)) is not None:
            return foreign
        if longest > candidate.longest:
            return (
                f"abbreviates values of more than {candidate.longest:,} bytes, and a parameter is "
                "longer"
            )
        return None

    def _raw_is_nearer(self, candidate: _Candidate, known: _Known, window: Window) -> bool:
        """Whether raw rows of a short window are found by time, and a table has to be searched."""
        since, until = window
        if since is None or until is None or until - since > timedelta(hours=6):
            return False
        indexes = self.question.source.indexes
        by_time = any(next(iter(i.columns.keys()), None) == self.question.time for i in indexes)
        searched = "key" in candidate.target.by.values()
        complete = known.horizon is None or since >= known.horizon
        return by_time and searched and complete

    def costly(
        self, connection: Connection, known: _Known, parts: list[_Part], window: Window
    ) -> dict[str, str]:
        """Return why raw rows are cheaper, by table, if they are and none have been expired.

        Of a group that has lost a row, each of its smallest and largest values is looked up among
        the raw rows of its bucket, or of its key: all together, that may be more than reading all
        rows once.
        """
        since, until = window
        if known.horizon is not None and (since is None or since < known.horizon):
            return {}
        question, source = self.question, self.question.source
        used = [part.candidate for part in parts if part.candidate is not None]
        first = {next(iter(index.columns.keys()), None) for index in source.indexes}
        first.add(next(iter(source.primary_key.columns.keys()), None))
        conditions, values = ["l.n < 0"], {}
        for name, edge, sign in (("since", since, ">="), ("until", until, "<")):
            if edge is not None:
                conditions.append(f"l.at {sign} :{name}")
                values[name] = edge
        log = qualify(known.spec.log, known.schema).replace(":", "\\:")
        lost = connection.scalar(
            text(f"SELECT count(*) FROM {log} AS l WHERE {' AND '.join(conditions)}"), values
        )
        looked_up = int(lost or 0) * len(question.needs.extremes)
        if not looked_up:
            return {}
        # Into how many parts an index divides the rows.
        divided = [_KEYS if known.spec.key is not None and known.spec.key in first else 1]
        for candidate in used:
            target, level = candidate.target, candidate.level
            if level is None or target.undated or question.time not in first:
                continue
            if since is not None and until is not None:
                seconds = (until - since).total_seconds()
            else:
                table = qualify(target.table, known.schema).replace(":", "\\:")
                bucket = quote(target.bucket or "").replace(":", "\\:")
                length = f"CAST(extract(epoch FROM max(t.{bucket}) - min(t.{bucket})) AS float8)"
                seconds = connection.scalar(text(f"SELECT {length} FROM {table} AS t")) or 0.0
            divided.append(int(seconds / level.length) + 1)
        if looked_up <= max(divided):
            return {}
        why = (
            f"keeps smallest or largest values, and {lost:,} rows have gone since the last run: "
            "raw rows are cheaper than looking up what is left, until the next run"
        )
        return {candidate.target.table: why for candidate in used}

    # The statement.

    def statement(
        self,
        parts: list[_Part],
        *,
        fresh: bool,
        limit: int | None,
        place: Mapping[str, Any] | None,
        alone: bool,
        best: bool = True,
    ) -> _Statement:
        """Return the statement, which reads the greatest groups by a ranking if it can and may.

        Where it does not stand alone, three columns are in front: whether there is a row, what is
        known of the rollups, and how many changes are pending.
        """
        limited = "" if limit is None else "\0_limit\0"
        if limit is not None and limit <= _SMALL and len(self._statements) < _MANY:
            # PostgreSQL keeps the plan of a statement if it knows how few rows are wanted.
            limited = str(limit)
        shape = (
            tuple(
                (
                    None if part.candidate is None else part.candidate.target.table,
                    tuple((since is None, until is None) for since, until in part.windows),
                    part.undated,
                )
                for part in parts
            ),
            fresh,
            limited,
            None if place is None else tuple(value is None for value in place.values()),
            alone,
            best,
        )
        found = self._statements.get(shape)
        if found is None:
            found = self._build(
                parts, fresh=fresh, limit=limited, place=place, alone=alone, best=best
            )
            self._statements[shape] = found
        return found

    def _build(
        self,
        parts: list[_Part],
        *,
        fresh: bool,
        limit: str,
        place: Mapping[str, Any] | None,
        alone: bool,
        best: bool,
    ) -> _Statement:
        question, spec = self.question, self.spec
        names: list[str] = []
        legs: list[str] = []
        groups = [*([_BUCKET] if question.every else []), *question.by]
        used = [part.candidate for part in parts if part.candidate is not None]
        keyed = spec.key is not None and all(each.target.keyed for each in used)
        edges: list[tuple[str | None, str | None]] = []
        agreed: list[str] = []
        for part in parts:
            edges = []
            for window in part.windows:
                pair = []
                for edge in window:
                    pair.append(None if edge is None else f"_w{len(names)}")
                    names += [f"_w{len(names)}"] if edge is not None else []
                edges.append((pair[0], pair[1]))
            level = None if part.candidate is None else part.candidate.level
            if level is not None and level.zone != "UTC":
                # The server may have no bucket that starts there: if its time zone data are older
                # or newer than Python's.
                for name in (each for pair in edges for each in pair if each is not None):
                    start = f"CAST(\0{name}\0 AS timestamptz)"
                    agreed.append(f"({bucket_of(str(level), start)}) = {start}")
            if part.candidate is None:
                found = self._raw_legs(used[0], edges, keyed, undated=part.undated, fresh=fresh)
            else:
                found = self._legs(part.candidate, edges, keyed, undated=part.undated, fresh=fresh)
            if part.candidate is None or (part.candidate.target.keyed and not keyed):
                # What is united with tables that have a copy on every node is sent to the
                # coordinator: sums, and no rows.
                found = (self._added_up(leg, keyed) for leg in found)
            legs += found
        rows = "\n    UNION ALL ".join(legs)
        greatest = None
        if limit and best:
            greatest = self._best(parts, edges, place, legs, fresh=fresh)
        query = (
            greatest
            or question.joined(rows, spec.schema)
            or self._grouped(rows, [quote(each) for each in groups])
        ).replace(":limit\0", limit)
        sorted_by = ", ".join(each.sql("r.") for each in question.order())
        order = f"\nORDER BY {sorted_by}" if sorted_by else ""
        order += f"\nLIMIT {limit}" if limit else ""
        columns = question.columns()
        if place is not None:
            query = f"SELECT p.* FROM (\n{query}\n) AS p WHERE {self._beyond('p', place)}"
        if alone:
            query = f"SELECT r.* FROM (\n{query}\n) AS r{order}"
        else:
            # One row is there even if there is no group.
            listed = ", ".join(f"r.{quote(column.name)}" for column in columns)
            state, pending = _state_sql(spec), _pending_sql(spec)
            if agreed:
                state = f"CASE WHEN {' AND '.join(agreed)} THEN {state} END"
            # What is known is long, and enough of it is in the first row.
            known = "s._state"
            if sorted_by and not limit.isdigit():
                known = f"CASE WHEN row_number() OVER (ORDER BY {sorted_by}) = 1 THEN {known} END"
            query = (
                f"SELECT r._row, {known} AS _state, s._pending, {listed}\n"
                f"FROM (SELECT {state} AS _state, {pending} AS _pending) AS s\n"
                f"LEFT JOIN (SELECT true AS _row, q.* FROM (\n{query}\n) AS q) AS r ON true{order}"
            )
            columns = [
                Column("_row", Boolean),
                Column("_state", Text),
                Column("_pending", BigInteger),
                *columns,
            ]
        check = None
        if alone and agreed:
            check = _as_text(f"SELECT {' AND '.join(agreed)}")
        sql = query.replace("\0", "")
        named = set(re.findall(r"\0(\w+)\0", query))
        types = {column.name: column.type for column in columns}
        fixed = dict(self.fixed)
        for number, name in enumerate(place or ()):
            fixed[f"_after{number}"] = (None, types[name])
        clause = _as_text(query).bindparams(
            *(
                bindparam(name, value, kind)
                for name, (value, kind) in fixed.items()
                if name in named
            ),
            *(
                bindparam(name, type_=kind)
                for name, (_, kind) in self.given.items()
                if name in named
            ),
        )
        further = greatest is not None and question.further is not None
        return _Statement(clause, named, columns, names, sql, check, alone=alone, further=further)

    def _beyond(
        self, alias: str, place: Mapping[str, Any], names: Sequence[str] | None = None
    ) -> str:
        """Return the condition for what comes after a place, over the columns of an alias."""
        order = self.question.order()
        types = {column.name: column.type for column in self.question.columns()}
        columns: dict[str, ColumnElement[Any]] = {
            each.name: literal_column(f"{alias}.{quote(name)}", types[each.name])
            for each, name in zip(order, names or place, strict=True)
        }
        values: dict[str, ColumnElement[Any]] = {
            name: literal_column(f"\0_after{number}\0")
            for number, (name, value) in enumerate(place.items())
            if value is not None
        }
        return f"({_after(order, columns, values).compile(dialect=DIALECT)})"

    def _is_ranked(self, candidate: _Candidate) -> bool:
        """Whether the ranking of a rollup has the groups in the order of the answer."""
        question, rollup = self.question, candidate.rollup
        if rollup.ranked is None or question.ranked is None or len(question.measures) > 1:
            return False
        measure, value = rollup.measures[rollup.ranked]
        asked, asked_value = question.measures[question.ranked]
        sql = None if asked_value is None else _key_of(question.source, asked_value)
        same = value is None if asked_value is None else _is_value(question.source, value, sql)
        dimensions = [_key_of(question.source, each) for each in rollup.dimensions.values()]
        return (
            measure.aggregate == asked.aggregate
            and same
            and not candidate.table.where
            and question.every == candidate.level
            # In this order, which decides between equal ones.
            and dimensions == [_key_of(question.source, each) for each in question.by.values()]
        )

    def _best(
        self,
        parts: list[_Part],
        edges: list[tuple[str | None, str | None]],
        place: Mapping[str, Any] | None,
        legs: list[str],
        *,
        fresh: bool,
    ) -> str | None:
        """Return the query that reads the greatest groups by the ranking of a rollup, if it can."""
        question = self.question
        candidate = parts[0].candidate
        if (
            question.ranked is None
            or len(parts) > 1
            or candidate is None
            or len(edges) > 1
            or not candidate.ranked
            or (edges == [(None, None)] and parts[0].undated != candidate.target.undated)
        ):
            return None
        rollup, target = candidate.rollup, candidate.target
        ranked = str(rollup.ranked)
        value = rollup.measures[ranked][1]
        table = qualify(target.table, self.spec.schema)
        # By the names of the question: the rollup may have others.
        columns = [
            f"b.{quote(label)} AS {quote(name)}"
            for label, name in zip(rollup.dimensions, question.by, strict=True)
        ]
        if question.every is not None:
            columns.insert(0, f"b.{quote(target.bucket or '')} AS {_BUCKET}")
        columns.append(f"b.{quote(ranked)} AS {quote(question.ranked)}")
        if question.further is not None:
            if self.further is None:
                return None
            # On a cluster, shard is joined with shard.
            if self.distributed and not (target.keyed and self.spec.key == self.further.key):
                return None
            beyond = "true"
            if place is not None:
                # The index is read from here on.
                beyond = f"{self._beyond('p', place)} AND p.{quote(question.ranked)} <= \0_after0\0"
            renamed = f"(SELECT {', '.join(columns)} FROM {table} AS b)"
            return question.greatest(
                legs, renamed, self.further, beyond, distributed=self.distributed
            )
        of_table, of_log = [], []
        if edges != [(None, None)]:
            of_table.append(_within(f"t.{quote(target.bucket or '')}", edges))
            of_log.append(_within("l.at", edges))
        if place is not None:
            bucket = [target.bucket] if target.bucket is not None else []
            of_table.append(self._beyond("t", place, [ranked, *bucket, *rollup.dimensions]))
            if value is None:
                # The index is read from here on.
                of_table.append(f"t.{quote(ranked)} <= \0_after0\0")
        if fresh:
            query = best_query(self.spec, target, ranked, of_table=of_table, of_log=of_log)
            query += "" if place is not None else "\nLIMIT :limit\0"
        else:
            where = f" WHERE {' AND '.join(of_table)}" if of_table else ""
            order = best_order(target, ranked)
            query = f"SELECT * FROM {table} AS t{where} ORDER BY {order} LIMIT :limit\0"
        return f"SELECT {', '.join(columns)} FROM (\n{query}\n) AS b"

    def _legs(
        self,
        candidate: _Candidate,
        edges: list[tuple[str | None, str | None]],
        keyed: bool,
        *,
        undated: bool,
        fresh: bool,
    ) -> Iterator[str]:
        """Yield what is taken from a table, from those of its values, and from the log."""
        spec, target = self.spec, candidate.target
        log = qualify(spec.log, spec.schema)
        bucket = None if target.bucket is None else f"t.{quote(target.bucket)}"
        everything = edges == [(None, None)] and (undated or not target.undated)
        of_table = [] if everything or bucket is None else [_within(bucket, edges)]
        of_log = []
        if target.where is not None:
            of_log.append(f"l.{quote(target.where)}")
        if not (edges == [(None, None)] and undated):
            of_log.append("l.at IS NOT NULL" if everything else _within("l.at", edges))
        settled = fresh and bool(self.question.needs.extremes)
        # Where the only values are a dimension of the table, each of its rows has both: it is read
        # once, and not once for the sums and once for the values.
        together = self._together() and candidate.tables == [None]
        for number, values in enumerate([target] if together else [target, *candidate.tables]):
            of = values or target
            table = qualify(of.table, spec.schema)
            conditions = [*of_table, *candidate.table.where]
            pending = [*of_log, *candidate.log.where]
            if number:
                conditions.append(f"{candidate.table.values[number - 1]} IS NOT NULL")
                pending.append(f"{candidate.log.values[number - 1]} IS NOT NULL")
            elif settled:
                table = f"(\n{settled_rows(spec, Target(spec, target))})"
            rows = f"t.{quote(of.rows)}"
            part = None if together else number
            yield self._leg(candidate, candidate.table, part, table, "t", rows, conditions, keyed)
            if fresh and not (settled and number == 0):
                yield self._leg(candidate, candidate.log, part, log, "l", "l.n", pending, keyed)

    def _raw_legs(
        self,
        candidate: _Candidate,
        edges: list[tuple[str | None, str | None]],
        keyed: bool,
        *,
        undated: bool,
        fresh: bool,
    ) -> Iterator[str]:
        """Yield what is taken from raw rows, which the log's columns are computed from.

        As of the last run, that is less what is pending.
        """
        spec = self.spec
        time = f"r.{quote(spec.time or '')}"
        wanted = []
        if edges:
            wanted.append(_within(time, edges, finite=True))
        if undated:
            wanted.append(f"{time} IS NULL OR {time} = 'infinity' OR {time} = '-infinity'")
        source = qualify(spec.source, spec.schema)
        raw = f"({raw_rows(spec, source)} WHERE {' OR '.join(wanted)})"
        sources = [raw]
        if not fresh:
            columns = ["at", *(["key"] if spec.key is not None else []), *map(quote, spec.columns)]
            pending = " OR ".join(
                [
                    *([_within("p.at", edges)] if edges else []),
                    *(["p.at IS NULL"] if undated else []),
                ]
            )
            listed = ", ".join(f"p.{column}" for column in columns)
            log = qualify(spec.log, spec.schema)
            sources.append(f"(SELECT -p.n AS n, {listed} FROM {log} AS p WHERE {pending})")
        where = [] if candidate.target.where is None else [f"l.{quote(candidate.target.where)}"]
        for rows in sources:
            parts: Sequence[int | None] = range(len(candidate.tables) + 1)
            for number in [None] if self._together() else parts:
                conditions = [*where, *candidate.log.where]
                if number:
                    conditions.append(f"{candidate.log.values[number - 1]} IS NOT NULL")
                yield self._leg(
                    candidate, candidate.log, number, rows, "l", "l.n", conditions, keyed
                )

    def _together(self) -> bool:
        """Whether a row can stand for its group and for its value: there are no other values."""
        return len(self.question.needs.values) == 1 and not self.question.needs.extremes

    def _leg(
        self,
        candidate: _Candidate,
        side: _Side,
        number: int | None,
        table: str,
        alias: str,
        rows: str,
        conditions: list[str],
        keyed: bool,
    ) -> str:
        """Return the query for a part of the rows: 0 for sums, or a number of values.

        Without a number it has the sums and the only values there are. A value that has no rows
        left has no sums left either: it goes with what is added up of them.
        """
        needs = self.question.needs
        names = [*([_BUCKET] if self.question.every else []), *self.question.by]
        listed = [f"{sql} AS {quote(name)}" for sql, name in zip(side.groups, names, strict=True)]
        # Citus adds up beside the shards where the distribution column is among the columns.
        if keyed:
            labels = [label for label, logged in candidate.target.by.items() if logged == "key"]
            listed.append(f"{'l.key' if alias == 'l' else f't.{quote(labels[0])}'} AS _key")
        if number is None:
            value = side.values[0]
            listed += [f"CASE WHEN {value} IS NULL THEN 0 ELSE 1 END AS _part", f"{value} AS _v1"]
            listed.append(f"{rows} AS _n")
        elif needs.values:
            listed.append(f"{number} AS _part")
            for place, each in enumerate(needs.values, start=1):
                value = side.values[place - 1] if place == number else f"NULL::{each.type}"
                listed.append(f"{value} AS _v{place}")
            listed.append(f"{rows if number else '0'} AS _n")
        for name, sql in side.additive.items():
            listed.append(f"{'0' if number else sql} AS {quote(name)}")
        for name, sql in side.extremes.items():
            nothing = f"NULL::{needs.extreme_types[name]}"
            listed.append(f"{nothing if number else sql} AS {quote(name)}")
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return f"SELECT {', '.join(listed)} FROM {table} AS {alias}{where}"

    def _added_up(self, leg: str, keyed: bool) -> str:
        needs = self.question.needs
        names = [*([_BUCKET] if self.question.every else []), *self.question.by]
        by = [quote(name) for name in names]
        if keyed:
            by.append("_key")
        listed = [f"g.{name}" for name in by]
        if needs.values:
            own = ["_part", *(f"_v{place}" for place, _ in enumerate(needs.values, start=1))]
            by += own
            listed += [*(f"g.{name}" for name in own), "sum(g._n) AS _n"]
        for name in ("_rows", *needs.additive):
            listed.append(f"coalesce(sum(g.{quote(name)}), 0) AS {quote(name)}")
        for name, (kind, _) in needs.extremes.items():
            listed.append(f"{kind}(g.{quote(name)}) AS {quote(name)}")
        grouped = f" GROUP BY {', '.join(f'g.{name}' for name in by)}" if by else ""
        return f"SELECT {', '.join(listed)} FROM ({leg}) AS g{grouped}"

    def _grouped(self, rows: str, groups: list[str]) -> str:
        """Return the query that adds up what the legs have."""
        needs = self.question.needs
        return added_up(
            rows,
            groups=groups,
            additive=[quote(name) for name in ("_rows", *needs.additive)],
            extremes={name: kind for name, (kind, _) in needs.extremes.items()},
            count="_rows",
            values=[each.reads for each in needs.values],
            shown=needs.shown,
            wanted=needs.types,
            empty=not groups,
        )


def _as_text(sql: str) -> TextClause:
    """Return SQL whose parameters are between zero characters, and whose colons are its own."""
    return text(re.sub("\0(\\w+)\0", r":\1", sql.replace(":", "\\:")))


class _Statement:
    """A statement that answers a question, and what is in its rows.

    Where it does not stand alone, three columns are in front: whether there is a row, what is known
    of the rollups, and how many changes are pending.
    """

    def __init__(
        self,
        clause: TextClause,
        named: set[str],
        columns: Sequence[Column[Any]],
        edges: list[str],
        sql: str,
        check: TextClause | None,
        *,
        alone: bool,
        further: bool,
    ) -> None:
        self.edges = edges
        self.sql = sql
        # Whether it reads the rollup of the further source.
        self.further = further
        # Whether the server has the edges of buckets that Python has, if it is asked by itself.
        self.check = check
        self._clause = clause
        self._columns = columns
        self._named = named
        self._statement = clause.columns(*columns)
        self._alone = alone
        self._names = SimpleResultMetaData([column.name for column in columns][0 if alone else 3 :])

    def bound(self, arguments: Mapping[str, Any]) -> TextualSelect:
        """Return it with the values of its parameters."""
        values = {name: value for name, value in arguments.items() if name in self._named}
        return self._clause.bindparams(**values).columns(*self._columns)

    def execute(
        self, connection: Connection, arguments: Mapping[str, Any], batch: int | None
    ) -> tuple[tuple[str | None, int], Iterator[Row[*tuple[Any, ...]]], Callable[[], object]]:
        """Execute it; with a batch, its rows are fetched so many at a time.

        Returns:
            What the database says of the rollups (None if Python and it differ on the edges of
            buckets) and how many changes are pending, where it does not stand alone; the rows; and
            what closes the cursor.
        """
        options = {} if batch is None else {"yield_per": batch}
        result = connection.execute(self._statement, arguments, execution_options=options)
        rows = iter(result if batch else result.all())
        # A cursor of Citus has read everything as soon as it has been asked for a row.
        first = next(rows, None)
        if self._alone or first is None:
            return ("", 0), chain(() if first is None else (first,), rows), result.close
        # There is one row even if there is no group.
        found = (first[1], first[2])
        kept = (row[3:] for row in chain((first,) if first[0] else (), rows))
        return found, iter(IteratorResult(self._names, kept)), result.close


# What the database has.

_NEVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of the rollups of a source in a database, as of some moment."""

    key: tuple[str | None, str]
    schema: str | None
    comment: str
    spec: RollupSpec
    # The colocation group of the source, None if Citus does not know it.
    colocation: int | None
    readable: frozenset[str]
    tuples: Mapping[str, float]
    state: str
    pending: int
    age: timedelta = timedelta()
    # Time zones whose clocks are not known to Python as they are to the server.
    foreign: frozenset[str] = frozenset()
    looked: float = field(default_factory=monotonic)
    restricted: bool = field(init=False)
    horizon: datetime | None = field(init=False)
    signature: object = field(init=False)
    targets: Mapping[str, tuple[datetime | None, datetime | None]] = field(init=False)

    def __post_init__(self) -> None:
        restricted, log, listed = json.loads(self.state)
        listed = listed or []
        horizons = [_moment(each[2]) for each in listed]
        # From when on each table is complete, and when its last run started.
        targets = {
            name: (_NEVER if complete is None else _moment(complete), _moment(last_run))
            for name, complete, _, last_run, _ in listed
        }
        for name, value in {
            "restricted": bool(restricted),
            # From when on the raw rows are complete, None if they all are.
            "horizon": max((each for each in horizons if each is not None), default=None),
            # What a plan depends on.
            "signature": (restricted, log, sorted((e[0], e[1], e[2]) for e in listed)),
            "targets": targets,
        }.items():
            object.__setattr__(self, name, value)

    @property
    def distributed(self) -> bool:
        return self.colocation is not None

    def refreshed(self, state: str, pending: int) -> _Known:
        if state == self.state and pending == self.pending:
            return self
        return replace(self, state=state, pending=pending)

    def complete_since(self, candidate: _Candidate) -> datetime | None:
        """Return from when on a table has all rows, None from the beginning; maybe `_NEVER`."""
        tables = [candidate.target, *(each for each in candidate.tables if each is not None)]
        found: datetime | None = None
        for table in tables:
            since = self.targets.get(table.table, (_NEVER, None))[0]
            if since is not None:
                found = since if found is None else max(found, since)
        return found

    def foreign_to(self, candidate: _Candidate) -> str | None:
        """Return why a table cannot serve because of its time zone, None if it can."""
        if candidate.level is None or candidate.level.zone not in self.foreign:
            return None
        return (
            "this machine and the server have different rules for the time zone "
            f"{candidate.level.zone}: update their time zone data"
        )

    def last_run(self, table: str) -> datetime | None:
        """Return when the last run of a table started."""
        return self.targets[table][1]


def _moment(epoch: str | None) -> datetime | None:
    """Return the time of a number of seconds; None for none, and for the beginning of time."""
    if epoch is None or epoch == "-Infinity":
        return None
    seconds = Decimal(epoch)
    if not seconds.is_finite():
        return _NEVER
    try:
        return _EPOCH + timedelta(microseconds=int(seconds * 1_000_000))
    except OverflowError:
        return None if seconds < 0 else _NEVER


def _state_sql(spec: RollupSpec) -> str:
    source = literal(qualify(spec.source, spec.schema))
    state = qualify(spec.state, spec.schema)
    columns = ", ".join(
        f"extract(epoch FROM s.{column})::text"
        for column in ("complete_since", "horizon", "last_run")
    )
    # Whatever creates rollups creates their log: it is another one after a migration, and so is
    # that of another schema in the search path.
    log = literal(qualify(spec.log, spec.schema))
    return (
        f"(SELECT json_build_array(row_security_active({source}::regclass::oid), "
        f"{log}::regclass::oid::bigint, "
        # Two runs may have begun in one microsecond: their transactions differ.
        f"json_agg(json_build_array(s.target, {columns}, s.xmin::text)))::text FROM {state} AS s)"
    )


def _pending_sql(spec: RollupSpec) -> str:
    return f"(SELECT count(*) FROM {qualify(spec.log, spec.schema)} AS l)"


@dataclass(frozen=True, slots=True)
class _Look:
    """What a cluster says of the rollups of a source, and of those of a further one.

    The lock of runs is looked at after the snapshot of the state was taken, and goes only when a
    run has committed on all nodes, or has been left in doubt. If no run is under way before a read
    and after it, and the states are the same, the read saw all of each run or nothing; and if the
    log of the further source is as long as it was, that has not changed at all. A transaction that
    keeps its snapshot would not see what has come between.
    """

    state: str
    settled: bool
    further: str = ""
    pending: int = 0


def _look_now(connection: Connection, spec: RollupSpec, further: RollupSpec | None) -> _Look:
    def state(of: RollupSpec) -> tuple[str, bool]:
        key = lock_key(qualify(of.source, of.schema))
        sql = f"""
SELECT {_state_sql(of)}, CASE
  WHEN NOT starts_with(current_setting('transaction_isolation'), 'read') THEN false
  WHEN pg_try_advisory_lock_shared{key} THEN pg_advisory_unlock_shared{key}
  ELSE false END"""
        found, settled = connection.execute(text(sql.replace(":", "\\:"))).one()
        return str(found), bool(settled)

    own = state(spec)
    if further is None:
        return _Look(*own)
    other, settled = state(further)
    return _Look(own[0], own[1] and settled, other, _pending_now(connection, further))


def _pending_now(connection: Connection, spec: RollupSpec) -> int:
    sql = f"SELECT {_pending_sql(spec)}"
    return int(connection.scalar(text(sql.replace(":", "\\:"))) or 0)


_COMMENT: Final = text("SELECT obj_description(to_regclass(:state), 'pg_class')")
_READABLE: Final = text(
    "SELECT name, has_table_privilege(to_regclass(name), 'SELECT') AS readable, "
    "(SELECT reltuples FROM pg_class WHERE oid = to_regclass(name)) AS rows "
    "FROM unnest(CAST(:names AS text[])) AS name"
)


def _look(connection: Connection, source: Table, *, again: bool) -> _Known | str:
    """Return what the database has of the rollups of a source, or why nothing is known of them.

    It is remembered for the connection, unless it is to be looked at again.
    """
    schema = schema_of(connection, source)
    key = (schema, source.name)
    remembered: dict[tuple[str | None, str], _Known] = connection.info.setdefault(_INFO, {})
    if key in remembered and not again:
        return remembered[key]
    before = remembered.pop(key, None)
    state = f"{source.name}_rollups"
    comment = connection.scalar(_COMMENT, {"state": qualify(state, schema)})
    spec = None if comment is None else RollupSpec.read(comment, schema=schema)
    if spec is None:
        return f"the database has no rollups of {source.name!r}: migrate it first"
    tables = [state, spec.log, *(target.table for target in spec.targets)]
    names = {qualify(table, schema): table for table in tables}
    listed = connection.execute(_READABLE, {"names": list(names)}).all()
    readable = frozenset(names[row.name] for row in listed if row.readable)
    if not {state, spec.log} <= readable:
        hidden = ", ".join(row.name for row in listed if row.readable is False)
        return f"this role has no SELECT on {hidden}, which answers from rollups need: GRANT it"
    row_counts = {names[row.name]: float(row.rows or 0) for row in listed}
    now = _look_now(connection, spec, None)
    age = connection.scalar(
        text(
            # As a number: the driver reads intervals in one of their styles alone.
            "SELECT CAST(extract(epoch FROM now() - min(s.last_run)) AS float8) FROM "
            + qualify(spec.state, schema).replace(":", "\\:")
            + " AS s"
        )
    )
    known = _Known(
        key,
        schema,
        comment,
        spec,
        colocation_of(connection, qualify(source.name, schema)),
        readable,
        row_counts,
        now.state,
        _pending_now(connection, spec),
        timedelta.max if age is None else timedelta(seconds=age),
        frozenset() if before is None else before.foreign,
    )
    remembered[key] = known
    return known


@contextmanager
def _as_arguments() -> Iterator[None]:
    """Let what is wrong with a part of a question be an error of its arguments."""
    try:
        yield
    except (DeclarationError, ConstructError) as error:
        raise ArgumentError(str(error)) from error


def _require_visible(connection: Connection, token: str) -> None:
    # A load over several connections has several transactions.
    known = re.fullmatch(r"\d{1,20}(,\d{1,20})*", str(token))
    if known is None or str(token) != token or any(int(each) >= 2**64 for each in token.split(",")):
        raise ArgumentError(
            f"at_least must be what commit_token() or a load has returned, got {token!r}."
        )
    seen = connection.execute(_SEEN, {"token": token}).one()
    if not seen.visible:
        raise RollupError(
            f"transaction {token} is not visible here: it has not been committed, or this server "
            "or snapshot has not got it yet. Ask again, or ask the server that it was written to."
        )
    if not seen.citus or is_snapshot(connection):
        return
    # Citus commits here first, and only then what it has prepared on other nodes; it keeps a note
    # of it, written by that transaction, for at least as long as that takes.
    noted = connection.execute(_NOTED, {"token": token}).all()
    if not noted:
        return
    gids = ", ".join(literal(row.gid) for row in noted)
    command = f"""SELECT CASE
      WHEN EXISTS (SELECT FROM pg_catalog.pg_prepared_xacts AS p WHERE p.gid IN ({gids}))
        THEN 'prepared'
      WHEN EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS a
                   WHERE a.application_name = 'citus_internal gpid={noted[0].backend}'
                     AND a.xact_start IS NOT NULL AND a.pid <> pg_catalog.pg_backend_pid())
        THEN 'reading' ELSE '' END"""
    nodes = {(row.nodename, row.nodeport) for row in noted}
    asked = {
        "names": [name for name, _ in nodes],
        "ports": [port for _, port in nodes],
        "commands": [command] * len(nodes),
    }
    for node in connection.execute(_ON_NODES, asked):
        if not node.success:
            raise RollupError(
                f"whether transaction {token} has been committed on all nodes cannot be known, "
                f"since {node.node} does not answer: {' '.join(node.result.split())}"
            )
        if node.result == "prepared":
            raise RollupError(
                f"transaction {token} is not visible everywhere: it has been committed here, and "
                f"not yet on {node.node}. Ask again. Where a node has failed meanwhile, Citus "
                "makes up for it within a minute, and SELECT recover_prepared_transactions() at "
                "once."
            )
        if node.result == "reading" and not seen.current:
            raise RollupError(
                f"transaction {token} may be newer than what this transaction sees on {node.node}, "
                "whose snapshot is older than the question. Ask before anything else is read, at "
                "READ COMMITTED, or in a consistent_snapshot()."
            )


_SEEN: Final = text(
    "SELECT bool_and(pg_visible_in_snapshot(CAST(one AS xid8), pg_current_snapshot()) "
    "OR CAST(one AS xid8) IS NOT DISTINCT FROM pg_current_xact_id_if_assigned()) AS visible, "
    "to_regclass('pg_catalog.pg_dist_transaction') IS NOT NULL AS citus, "
    "current_setting('transaction_isolation') LIKE 'read%' AS current "
    "FROM unnest(string_to_array(:token, ',')) AS one"
)
_NOTED: Final = text(
    "SELECT d.gid, n.nodename, n.nodeport, pg_catalog.citus_backend_gpid() AS backend "
    "FROM pg_catalog.pg_dist_transaction AS d "
    "JOIN unnest(string_to_array(:token, ',')) AS one ON d.xmin = CAST(CAST(one AS xid8) AS xid) "
    "JOIN pg_catalog.pg_dist_node AS n ON n.groupid = d.groupid AND n.noderole = 'primary'"
)
_ON_NODES: Final = text(
    "SELECT node_name || ':' || node_port AS node, success, result "
    "FROM pg_catalog.master_run_on_worker(CAST(:names AS text[]), CAST(:ports AS integer[]), "
    "CAST(:commands AS text[]), true)"
)


def _hooks(session: Session | scoped_session[Session]) -> bool:
    """Whether an application's hooks may change what a session executes."""
    real = session() if isinstance(session, scoped_session) else session
    return bool(real.dispatch.do_orm_execute)


# Expressions.

_PYFORMAT: Final = cast("Any", DIALECT.__class__)(paramstyle="pyformat")
# Converts JSON to a text, as the driver would when it is executed.
_CONVERTING: Final = cast("Any", PGDialect)()


def _key_of(table: Table, element: ColumnElement[Any]) -> str | None:
    """Return an expression as SQL to be compared with others, None if it has no such form."""
    if any(getattr(node, "required", False) for node in visitors.iterate(element)):
        return None  # The value of a parameter is not known yet.
    try:
        return sql_of(table, element)
    except (CompileError, NotImplementedError):
        return None


def _is_value(table: Table, value: ColumnElement[Any] | None, sql: str | None) -> bool:
    return value is not None and sql is not None and _key_of(table, value) == sql


def _is_plain(node: Any) -> bool:
    """Whether the value of a node is that of its parts, so that equal parts make it equal.

    A subquery is not: what it says of rows, it would say of groups. A value that is called for may
    be another one each time.
    """
    if isinstance(node, BindParameter):
        return node.callable is None
    return isinstance(node, _PLAIN)


_PLAIN: Final = (
    BinaryExpression,
    UnaryExpression,
    ExpressionClauseList,
    ClauseList,
    Grouping,
    Case,
    Cast,
    TypeClause,
    CollationClause,
    Extract,
    FunctionElement,
    Null,
    True_,
    False_,
)

# Volatile ones, aggregates and sets; a stable one has one value for the same arguments, as long as
# the statement lasts. Names are enough, since those of some types of arguments are seldom all.
_UNSAFE: Final = text(
    "SELECT DISTINCT p.proname::text FROM pg_catalog.pg_proc AS p "
    "WHERE p.proname = ANY(CAST(:names AS text[])) "
    "AND (p.provolatile = 'v' OR p.proretset OR p.prokind <> 'f')"
)
_CALL: Final = re.compile(r'(\w[\w$]*|"(?:[^"]|"")+")\s*\(')
_NO_CALLS: Final = frozenset(("and", "any", "all", "as", "case", "cast", "in", "not", "or", "when"))


def _called(sql: str) -> frozenset[str]:
    """Return the names of the functions that are called, and maybe more."""
    return (
        frozenset(
            name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
            for name in _CALL.findall(sql)
        )
        - _NO_CALLS
    )


def _shown(element: ColumnElement[Any]) -> str:
    """Return an expression as SQL, whatever it is, for people or to look for names."""
    bare = cast("Any", element).element if _is_label(element) else element

    def as_written(node: Any, **_: Any) -> Any:
        if not isinstance(node, BindParameter):
            return None
        values = [node.value]
        if node.required or node.callable is not None:
            return literal_column(f":{node.key}")
        if node.expanding and isinstance(node.value, list | tuple):
            values = list(node.value)
        shown = [
            "NULL" if each is None else literal(each) if isinstance(each, str) else str(each)
            for each in (
                each.isoformat() if isinstance(each, datetime) else each for each in values
            )
        ]
        return literal_column(f"({', '.join(shown)})" if node.expanding else shown[0])

    try:
        written = visitors.replacement_traverse(bare, {}, cast("Any", as_written))
        return " ".join(str(written.compile(dialect=DIALECT)).split())
    except (CompileError, NotImplementedError):
        return str(bare)


def _brief(element: ColumnElement[Any]) -> str:
    shown = _shown(element)
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}..."


def _named(element: ColumnElement[Any]) -> str:
    return (
        f"the group {cast('Any', element).name!r}"
        if _is_label(element)
        else f"the filter {_brief(element)}"
    )


def _is_label(element: Any) -> bool:
    return (
        hasattr(element, "element") and hasattr(element, "name") and not isinstance(element, Column)
    )


def _conjuncts(where: Any) -> list[ColumnElement[bool]]:
    """Return the conditions that are joined by AND."""
    if where is None:
        return []
    if isinstance(where, Grouping):
        return _conjuncts(where.element)
    if isinstance(where, BooleanClauseList) and where.operator is operators.and_:
        return [each for clause in where.clauses for each in _conjuncts(clause)]
    return [where]


_WHOLE: Final = (
    operators.eq,
    operators.ne,
    operators.in_op,
    operators.not_in_op,
    operators.is_,
    operators.is_not,
    operators.is_distinct_from,
    operators.is_not_distinct_from,
)
_ORDERED: Final = (
    *_WHOLE,
    operators.lt,
    operators.le,
    operators.gt,
    operators.ge,
    operators.between_op,
    operators.not_between_op,
)
_VALUES: Final = (BindParameter, ClauseList, ExpressionClauseList, Grouping, Null, True_, False_)


def _depends_on_session(element: ColumnElement[Any]) -> bool:
    """Whether the value of an expression may depend on the time zone of the session.

    As what a moment has to do with a day, a clock or a text does.
    """

    def is_moment(node: Any) -> bool:
        kind = kind_of(node) if isinstance(node, ColumnElement) else None
        return isinstance(kind, DateTime) and kind.timezone

    for node in visitors.iterate(element):
        parts = [each for each in node.get_children() if isinstance(each, ColumnElement)]
        if isinstance(node, FunctionElement):
            parts = [*node.clauses]
            if node.name in _OF_MOMENTS or (node.name == "date_trunc" and len(parts) == 3):
                continue
        elif isinstance(node, BinaryExpression):
            if all(
                is_moment(each)
                or not isinstance(kind_of(each), Date | DateTime | Interval | INTERVAL)
                for each in parts
            ):
                continue
        elif isinstance(node, Cast):
            if is_moment(node) != any(map(is_moment, parts)):
                return True
            continue
        elif not isinstance(node, Extract):
            continue
        if any(map(is_moment, parts)):
            return True
    return False


# Functions of moments which say the same in all time zones.
_OF_MOMENTS: Final = ("timezone", "coalesce", "nullif", "greatest", "least", "isfinite", "date_bin")


def _compares_whole_values(
    table: Table, element: Any, long: set[str | None], alike: set[str | None]
) -> bool:
    """Whether a condition says the same of a value and of what its group has in its place.

    That is what a long value is abbreviated to, or an equal value that is written differently.
    """
    if not _uses(table, element, long | alike):
        return True
    if isinstance(element, Grouping):
        return _compares_whole_values(table, element.element, long, alike)
    if isinstance(element, UnaryExpression) and element.operator is operators.inv:
        return _compares_whole_values(table, element.element, long, alike)
    if isinstance(element, BooleanClauseList):
        return all(_compares_whole_values(table, each, long, alike) for each in element.clauses)
    if not isinstance(element, BinaryExpression):
        return False
    key = _key_of(table, element.left)
    if key not in long | alike or element.operator not in (_WHOLE if key in long else _ORDERED):
        return False
    return all(isinstance(node, _VALUES) for node in visitors.iterate(element.right))


def _length_of(value: Any, bind: BindParameter[Any]) -> float:
    """Return how many bytes a value has at most as the database gets it, as a text or bytes.

    Of a list of values, it is that of the longest.
    """
    if bind.expanding and isinstance(value, list | tuple | set | frozenset):
        one = bindparam(None, type_=bind.type)
        return max((_length_of(each, one) for each in value), default=0)
    if isinstance(bind.type, TupleType):
        pairs = zip(value, bind.type.types, strict=False)
        return max(
            (_length_of(each, bindparam(None, type_=kind)) for each, kind in pairs), default=0
        )
    try:
        convert = bind.type.dialect_impl(_CONVERTING).bind_processor(_CONVERTING)
        found = value if convert is None else convert(value)
    except Exception:  # noqa: BLE001 - what cannot be converted here is refused where it is bound
        return math.inf
    if isinstance(found, bytes | bytearray | memoryview):
        return len(found)
    if not isinstance(found, str):
        return 0
    # A number of JSON may be written much shorter than PostgreSQL writes it.
    if isinstance(kind_of(bind), JSON) and re.search(r"\d[eE][+-]?\d", found):
        return math.inf
    return len(found.encode())


def _uses(table: Table, element: ColumnElement[Any], keys: set[str | None]) -> bool:
    nodes = (each for each in visitors.iterate(element) if isinstance(each, ColumnElement))
    return bool(keys) and any(_key_of(table, node) in keys for node in nodes)


def _may_look_different(element: ColumnElement[Any]) -> bool:
    """Whether values that are equal, and so in one group, may be written differently: 1.0, 1.00."""
    kind = kind_of(element)
    if isinstance(kind, String):
        return kind.collation is not None
    return not isinstance(kind, Integer | Boolean | Date | DateTime | Time | Uuid | LargeBinary)


def _same_target(own: RollupSpec, found: RollupSpec, table: str) -> TargetSpec:
    """Return a table as the database has it, if it is what the declaration says."""
    declared = next(each for each in own.targets if each.table == table)
    target = next((each for each in found.targets if each.table == table), None)
    if target is None:
        raise _AbsentError("is not in the database: migrate it")
    if _resolved(own, declared) != _resolved(found, target):
        raise _AbsentError("is not the same in the database: see alembic check")
    return target


def _resolved(spec: RollupSpec, target: TargetSpec) -> object:
    """Return a table with the expressions that the columns of the log stand for."""

    def expression(name: str | None) -> str | None:
        return name if name is None else spec.columns.get(name, name)

    def sums(sql: str) -> str:
        for name, meaning in spec.columns.items():
            sql = sql.replace(f"l.{quote(name)}", f"({meaning})")
        return sql

    return (
        target.every,
        target.bucket,
        {column: expression(logged) for column, logged in target.by.items()},
        target.rows,
        {column: sums(sql) for column, sql in target.sums.items()},
        {column: (kind, expression(logged)) for column, (kind, logged) in target.extremes.items()},
        expression(target.where),
        target.undated,
        target.keyed,
        target.of,
    )


# Windows.


def checked_window(since: datetime | None, until: datetime | None) -> Window:
    """Return a half-open window of time.

    Raises:
        ArgumentError: A bound is not an aware datetime, or `since` is not before `until`.
    """
    for name, edge in (("since", since), ("until", until)):
        if edge is not None and not isinstance(edge, datetime):
            how = ""
            if isinstance(edge, date):
                day = f"{edge.year}, {edge.month}, {edge.day}"
                how = f": pass datetime({day}, tzinfo=UTC), or the zone whose midnight is meant"
            elif isinstance(edge, str):
                how = ": pass datetime.fromisoformat('2026-03-01T12:00:00+00:00')"
            raise ArgumentError(f"{name} must be an aware datetime; found {edge!r}{how}")
        if edge is not None and edge.utcoffset() is None:
            raise ArgumentError(
                f"{name} must be an aware datetime; found {edge!r}, which has no time zone: "
                f"pass {name}.replace(tzinfo=UTC), or the zone that it was meant in"
            )
    # Within one zone Python compares clock readings, which are wrong when summer time ends.
    if since is not None and until is not None and since - _EPOCH >= until - _EPOCH:
        raise ArgumentError(
            f"the window [since, until) is empty: since is {since.isoformat()}, until is "
            f"{until.isoformat()}; pass a since that is earlier than until"
        )
    return since, until


def _whole(level: Every | None, window: Window, complete: datetime | None) -> Window | None:
    """Return the part of a window that consists of whole buckets, None if there is none."""
    if level is None:
        return window if window == (None, None) else None
    since, until = window
    start, end = since, until
    if start is not None:
        start = level.next_start(_clamped(start))
    if complete is not None and (start is None or start < complete):
        start = level.next_start(_clamped(complete))
    if end is not None:
        end = level.last_start(_clamped(end))
    if start is not None and end is not None and start >= end:
        return None
    if start is not None and since is not None and start - _EPOCH == since - _EPOCH:
        start = since
    if end is not None and until is not None and end - _EPOCH == until - _EPOCH:
        end = until
    return start, end


def _clamped(moment: datetime) -> datetime:
    since = moment - _EPOCH
    return _FIRST if since < _FIRST - _EPOCH else _LAST if since > _LAST - _EPOCH else moment


def _within(time: str, edges: list[tuple[str | None, str | None]], *, finite: bool = False) -> str:
    """Return the condition that a time is in one of some windows, whose edges are parameters."""
    found = []
    for since, until in edges:
        conditions = []
        if since is not None:
            conditions.append(f"{time} >= CAST(\0{since}\0 AS timestamptz)")
        elif finite:
            conditions.append(f"{time} > '-infinity'")
        if until is not None:
            conditions.append(f"{time} < CAST(\0{until}\0 AS timestamptz)")
        elif finite:
            conditions.append(f"{time} < 'infinity'")
        found.append(" AND ".join(conditions) or f"{time} IS NOT NULL")
    return found[0] if len(found) == 1 else f"({' OR '.join(f'({each})' for each in found)})"


# Raw rows.


def _bucket_element(every: Every, time: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the start of the bucket of a time, NULL for one that is not finite."""
    if every.seconds is not None:
        origin: Any = literal_column("timestamptz '1970-01-01 00:00:00+00'")
        width: Any = literal_column(f"interval '{every.seconds} seconds'")
        binned = func.date_bin(width, time, origin, type_=time.type)
    else:
        unit: Any = literal_column(literal(str(every.unit)))
        zone: Any = literal_column(literal(every.zone))
        binned = func.date_trunc(unit, time, zone, type_=time.type)
        if every.zone != "UTC" and every.unit != "hour":
            # As `bucket_of` has it: PostgreSQL's own starts at the second of two midnights.
            local = func.date_trunc(unit, func.timezone(zone, time, type_=DateTime()))
            shift: Any = literal_column("interval '1 microsecond'", Interval())
            before = func.timezone(zone, local - shift, type_=time.type)
            binned = func.least(func.timezone(zone, local, type_=time.type), before + shift)
    first: ColumnElement[Any] = literal_column("timestamptz '4700-01-01 00:00:00+00 BC'")
    last: ColumnElement[Any] = literal_column("timestamptz '290000-01-01 00:00:00+00'")
    return case((and_(time > first, time < last), binned), (func.isfinite(time), time))


def _native(
    name: str, measure: Measure, value: ColumnElement[Any] | None
) -> Iterator[ColumnElement[Any]]:
    """Yield PostgreSQL's own aggregates for a measure."""
    if value is None:
        yield func.count().label(name)
        return
    number: ColumnElement[Any] = value
    if isinstance(value.type, Float) or not isinstance(value.type, Integer | Numeric):
        number = sql_cast(value, Numeric())
    kind = measure.aggregate
    if kind == "count":
        yield func.count(value).label(name)
    elif kind in ("min", "max"):
        yield getattr(func, kind)(value).label(name)
    elif kind == "distinct":
        yield func.count(sql_distinct(value)).label(name)
    elif kind == "percentiles":
        for label, fraction in names_read(name, measure).items():
            found = func.percentile_disc(literal_column(fraction)).within_group(value)
            yield sql_cast(found, Double()).label(label)
    else:
        computed = getattr(func, kind)(number)
        yield sql_cast(computed, visible_type(kind, value)).label(name)
