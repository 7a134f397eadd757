"""What SQL text does, as actions on the model.

The text is parsed by PostgreSQL's own grammar (pglast, of the extra `lint`). Statements that are
executed count, those in the body of a function do not; of a `DO` block in PL/pgSQL, all branches
are taken. What the grammar does not accept is skipped: the server will report it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from pglast import Error, ast, enums, parse_plpgsql, parse_sql, split

from citus_analytics.lint.model import (
    UNKNOWN_TEXT,
    Action,
    AllowTriggers,
    AlterColumn,
    AlterDistribution,
    AlterUnsupported,
    Column,
    CreateTable,
    CreateTrigger,
    Distribute,
    DropColumn,
    DropConstraint,
    DropIndex,
    DropTable,
    Extend,
    Fill,
    ForeignKey,
    Inherit,
    Key,
    Model,
    Name,
    OtherIndex,
    Placement,
    RenameTable,
    RunConcurrently,
    SetAccessMethod,
    Table,
    Undistribute,
    Update,
    other_method,
    read_exclusion,
)
from citus_analytics.sql import dollar_quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_Type = enums.AlterTableType
_Object = enums.ObjectType
_Constraint = enums.ConstrType

# The parameters of Citus's functions.
_FUNCTIONS: Final = {
    "create_distributed_table": (
        "table_name",
        "distribution_column",
        "distribution_type",
        "colocate_with",
        "shard_count",
    ),
    "create_distributed_table_concurrently": (
        "table_name",
        "distribution_column",
        "distribution_type",
        "colocate_with",
        "shard_count",
    ),
    "create_reference_table": ("table_name",),
    "alter_distributed_table": (
        "table_name",
        "distribution_column",
        "shard_count",
        "colocate_with",
    ),
    "undistribute_table": ("table_name",),
    "alter_table_set_access_method": ("table_name", "access_method"),
}
_SERIALS: Final = {
    "smallserial": "SMALLINT",
    "serial2": "SMALLINT",
    "serial": "INTEGER",
    "serial4": "INTEGER",
    "bigserial": "BIGINT",
    "serial8": "BIGINT",
}
# The grammar's names of types, as SQLAlchemy has them.
_TYPES: Final = {
    "int2": "SMALLINT",
    "int4": "INTEGER",
    "int8": "BIGINT",
    "float4": "REAL",
    "float8": "DOUBLE PRECISION",
    "bool": "BOOLEAN",
    "bpchar": "CHAR",
    "varbit": "BIT VARYING",
    "timestamp": "TIMESTAMP WITHOUT TIME ZONE",
    "timestamptz": "TIMESTAMP WITH TIME ZONE",
    "time": "TIME WITHOUT TIME ZONE",
    "timetz": "TIME WITH TIME ZONE",
}
# What of ALTER TABLE Citus refuses on its tables.
_UNSUPPORTED: Final = {
    _Type.AT_ClusterOn: "CLUSTER ON",
    _Type.AT_DropCluster: "SET WITHOUT CLUSTER",
    _Type.AT_SetTableSpace: "SET TABLESPACE",
    _Type.AT_SetStatistics: "SET STATISTICS",
    _Type.AT_SetStorage: "SET STORAGE",
    _Type.AT_SetOptions: "ALTER COLUMN ... SET (...)",
    _Type.AT_ResetOptions: "ALTER COLUMN ... RESET (...)",
    _Type.AT_AddInherit: "INHERIT",
    _Type.AT_DropInherit: "NO INHERIT",
    _Type.AT_AddOf: "OF",
    _Type.AT_DropOf: "NOT OF",
    _Type.AT_DropExpression: "DROP EXPRESSION",
    _Type.AT_AddIdentity: "ADD GENERATED AS IDENTITY",
    _Type.AT_SetIdentity: "SET GENERATED",
    _Type.AT_DropIdentity: "DROP IDENTITY",
    _Type.AT_AlterConstraint: "ALTER CONSTRAINT",
    _Type.AT_EnableRule: "ENABLE RULE",
    _Type.AT_DisableRule: "DISABLE RULE",
}
# The constraints of a column that could be those of a table.
_OF_TABLES: Final = (
    _Constraint.CONSTR_PRIMARY,
    _Constraint.CONSTR_UNIQUE,
    _Constraint.CONSTR_FOREIGN,
)
_ACTIONS: Final = {
    "a": "NO ACTION",
    "r": "RESTRICT",
    "c": "CASCADE",
    "n": "SET NULL",
    "d": "SET DEFAULT",
}


def actions_of(sql: str) -> Iterator[Action]:
    """Yield what SQL text does, in order."""
    try:
        statements = parse_sql(sql)
    except Error:
        statements = tuple(_parsed_one_by_one(sql))
    for statement in statements:
        yield from _statement(statement.stmt)


def _parsed_one_by_one(sql: str) -> Iterator[ast.RawStmt]:
    """Yield the statements of a text that is wrong somewhere."""
    try:
        texts = split(sql, with_parser=False)
    except Error:
        return
    for text in texts:
        try:
            yield from parse_sql(text)
        except Error:
            continue


def _statement(statement: Any) -> Iterator[Action]:
    match statement:
        case ast.DropStmt(concurrent=True) | ast.IndexStmt(concurrent=True):
            yield RunConcurrently()
        case ast.ReindexStmt(params=params):
            if any(parameter.defname == "concurrently" for parameter in params or ()):
                yield RunConcurrently()
        case ast.DoStmt():
            yield from _block(statement)
        case ast.VariableSetStmt(name="citus.enable_unsafe_triggers", args=args):
            if args and _constant(args[0]) in ("on", "true", "yes", 1, True):
                yield AllowTriggers()
        case (
            ast.SelectStmt()
            | ast.CallStmt()
            | ast.InsertStmt()
            | ast.UpdateStmt()
            | ast.DeleteStmt()
            | ast.MergeStmt()
        ):
            yield from _parts(statement)
    if isinstance(statement, ast.DropStmt):
        for parts in statement.objects or ():
            if statement.removeType == _Object.OBJECT_TABLE:
                yield DropTable(_dotted(parts))
            elif statement.removeType == _Object.OBJECT_INDEX:
                yield DropIndex(_dotted(parts))
    # The rest is about one table.
    into = statement.into if isinstance(statement, ast.CreateTableAsStmt) else None
    relation = into.rel if into is not None else getattr(statement, "relation", None)
    table = _name(relation)
    if relation is None or table is None:
        return
    match statement:
        case ast.InsertStmt(onConflictClause=conflict):
            yield Fill(table)
            if conflict is not None and conflict.targetList:
                sets, condition = conflict.targetList, conflict.whereClause
                yield _update("DO UPDATE", relation, table, sets, condition)
            elif conflict is not None and conflict.infer is not None:
                yield Update(table, "DO NOTHING")
        case ast.UpdateStmt(targetList=sets, whereClause=condition, fromClause=others):
            yield _update("UPDATE", relation, table, sets or (), condition, others or ())
        case ast.DeleteStmt(whereClause=condition, usingClause=others):
            yield _update("DELETE", relation, table, (), condition, others or ())
        case ast.MergeStmt(mergeWhenClauses=clauses):
            others = (statement.sourceRelation,)
            for when in clauses or ():
                if when.commandType == enums.CmdType.CMD_INSERT:
                    yield Fill(table)
                else:
                    conditions = (when.condition, statement.joinCondition)
                    sets = when.targetList or ()
                    yield _update("MERGE", relation, table, sets, conditions, others)
        case ast.CopyStmt(is_from=True):
            yield Fill(table)
        case ast.CreateTrigStmt(row=row, timing=timing):
            yield CreateTrigger(table, after_row=bool(row) and timing == 0)
        case ast.CreateStmt(partbound=None):  # A partition is where its parent is.
            parents = [_name(parent) for parent in statement.inhRelations or ()]
            created = Table(
                table,
                partitioned=statement.partspec is not None,
                columnar=statement.accessMethod == "columnar",
                parents=tuple(parent for parent in parents if parent is not None),
            )
            for element in statement.tableElts or ():
                match element:
                    case ast.ColumnDef():
                        _add_column(created, element)
                    case ast.Constraint():
                        _add_constraint(created, element)
            yield CreateTable(table, created, statement.if_not_exists is True)
        case ast.CreateTableAsStmt(objtype=_Object.OBJECT_TABLE):
            yield CreateTable(table, Table(table), statement.if_not_exists is True)
            yield Fill(table)
        case ast.AlterTableStmt(objtype=_Object.OBJECT_TABLE):
            commands = statement.cmds or ()
            for command in commands:
                what = _unsupported(command, alone=len(commands) == 1)
                adds = command.subtype == _Type.AT_AddColumn
                if what is not None and not adds:
                    yield AlterUnsupported(table, what)
                yield from _alter_table(table, command)
                # Only a foreign key of the new column may put the table under Citus.
                if what is not None and adds:
                    yield AlterUnsupported(table, what)
        case ast.RenameStmt(renameType=_Object.OBJECT_TABCONSTRAINT):
            yield AlterUnsupported(table, "RENAME CONSTRAINT")
        case ast.RenameStmt(renameType=_Object.OBJECT_TABLE, newname=str(new)):
            yield RenameTable(table, Name(table.schema, new))
        case ast.RenameStmt(renameType=_Object.OBJECT_COLUMN, subname=str(old), newname=str(new)):
            yield AlterColumn(table, old, new_name=new)
        case ast.AlterObjectSchemaStmt(objectType=_Object.OBJECT_TABLE, newschema=str(schema)):
            yield RenameTable(table, Name(schema, table.name))
        case ast.IndexStmt(accessMethod=using):
            part = Table(table)
            if method := other_method(using):
                part.indexes.append(OtherIndex(statement.idxname, method))
            if statement.unique:
                columns = tuple(part.name for part in statement.indexParams or () if part.name)
                extra = statement.indexIncludingParams or ()
                included = tuple(part.name for part in extra if part.name)
                _add_key(part, Key("unique index", statement.idxname, columns, included))
            yield Extend(table, part)


def _parts(statement: ast.Node) -> Iterator[Action]:
    """Yield what the queries of WITH, and the functions that are called, do."""
    for node in _nodes(statement):
        match node:
            case ast.CommonTableExpr(ctequery=ast.Node() as query):
                if not isinstance(query, ast.SelectStmt):
                    yield from _statement(query)
            case ast.FuncCall():
                yield from _call(node)


def _call(call: ast.FuncCall) -> Iterator[Action]:
    function = _strings(call.funcname)[-1]
    if function == "set_config":
        arguments = [_constant(argument) for argument in call.args or ()]
        if arguments[:2] == ["citus.enable_unsafe_triggers", "on"]:
            yield AllowTriggers()
        return
    if function not in _FUNCTIONS:
        return
    values: dict[str, object] = {}
    for position, argument in enumerate(call.args or ()):
        if isinstance(argument, ast.NamedArgExpr):
            values[str(argument.name)] = _constant(argument.arg)
        elif position < len(_FUNCTIONS[function]):
            values[_FUNCTIONS[function][position]] = _constant(argument)
    table = _relation(values.get("table_name"))
    if table is None:
        return
    column, partner = values.get("distribution_column"), _relation(values.get("colocate_with"))
    count, type_ = values.get("shard_count"), values.get("distribution_type")
    match function:
        case "create_reference_table":
            yield Distribute(table, function, Placement(kind="reference"))
        case "undistribute_table":
            yield Undistribute(table)
        case "alter_table_set_access_method":
            if isinstance(method := values.get("access_method"), str):
                yield SetAccessMethod(table, method == "columnar")
        case "alter_distributed_table":
            yield AlterDistribution(
                table,
                column if isinstance(column, str) else None,
                partner.name if partner else None,
                partner.schema if partner else None,
                count if isinstance(count, int) else None,
            )
        case _:
            if function.endswith("_concurrently"):
                yield RunConcurrently()
            placement = None
            if column is None or isinstance(column, str):
                placement = Placement.over_shards(
                    None if column is None else _strings_of_name(column)[-1],
                    colocate_with=partner.name if partner else None,
                    colocate_schema=partner.schema if partner else None,
                    shard_count=count if isinstance(count, int) else None,
                    distribution_type=type_ if isinstance(type_, str) else "hash",
                )
            yield Distribute(table, function, placement)


def _update(
    kind: Literal["UPDATE", "DELETE", "MERGE", "DO UPDATE"],
    relation: ast.RangeVar,
    table: Name,
    targets: tuple[ast.ResTarget, ...],
    conditions: object,
    others: tuple[object, ...] = (),
) -> Update:
    """Return what a statement sets, and what it calls there, in its conditions and in `others`."""
    own = {relation.alias.aliasname if relation.alias is not None else table.name}
    equalities = list(_equalities((conditions, others), own))
    columns: list[str] = []
    for target in targets:
        name, value = str(target.name), target.val
        if isinstance(value, ast.MultiAssignRef):
            row, number = value.source, value.colno or 1
            value = row.args[number - 1] if isinstance(row, ast.RowExpr) and row.args else None
        # What is set to itself, or to what WHERE or the conflict says that it is, stays.
        itself = _column_of(value, own | {"excluded"} if kind == "DO UPDATE" else own) == name
        if not itself and (name, _operand(value)) not in equalities:
            columns.append(name)
    clauses = (targets, conditions, others)
    conditional: list[str] = []
    for node in _nodes(clauses):
        if isinstance(node, ast.CaseExpr | ast.CoalesceExpr):
            conditional += _functions(node)
    relations = {str(name): table for name in own}
    if kind == "DO UPDATE":
        relations["excluded"] = table
    for other in _relations(others):
        if (known := _name(other)) is not None:
            alias = other.alias.aliasname if other.alias is not None else None
            relations[alias or known.name] = known
    return Update(
        table,
        kind,
        tuple(columns),
        tuple(_functions(clauses)),
        tuple(conditional),
        lambda model: StableCalls(model, table, relations).of(targets, (conditions, others)),
    )


def _relations(value: object) -> Iterator[ast.RangeVar]:
    """Yield the tables of a FROM clause, without those of its subqueries."""
    match value:
        case tuple():
            for one in value:
                yield from _relations(one)
        case ast.RangeVar():
            yield value
        case ast.JoinExpr():
            yield from _relations((value.larg, value.rarg))


# The types that decide whether something is STABLE, by their names in the model.
_KINDS: Final = {
    "TIMESTAMP WITH TIME ZONE": "timestamptz",
    "TIMESTAMP WITHOUT TIME ZONE": "timestamp",
    "TIMESTAMP": "timestamp",
    "DATE": "date",
    "TIME WITHOUT TIME ZONE": "time",
    "TIME": "time",
    "TIME WITH TIME ZONE": "timetz",
    "INTERVAL": "interval",
    "MONEY": "money",
    "XML": "xml",
    "REGCLASS": "regclass",
    "BOOLEAN": "boolean",
    "JSON": "json",
    "JSONB": "json",
    **dict.fromkeys(("TEXT", "VARCHAR", "CHAR", "CHARACTER", "CHARACTER VARYING"), "text"),
    **dict.fromkeys(
        ("SMALLINT", "INTEGER", "BIGINT", "NUMERIC", "REAL", "DOUBLE PRECISION"), "number"
    ),
}
_STABLE_CASTS: Final = {
    *(("timestamptz", kind) for kind in ("timestamp", "date", "time", "timetz", "text")),
    *((kind, "timestamptz") for kind in ("timestamp", "date", "text")),
    *(("text", kind) for kind in ("timestamp", "date", "time", "timetz", "interval")),
    *(("text", kind) for kind in ("money", "xml", "regclass")),
    *((kind, "text") for kind in ("timestamp", "date", "interval", "money", "regclass")),
    *(("time", "timetz"), ("money", "number"), ("number", "money")),
}
_COMPARISONS: Final = ("=", "<", ">", "<=", ">=", "<>")
# Of any argument, or of the number of them that is given.
_STABLE_FUNCTIONS: Final = {
    **dict.fromkeys(
        (
            *("array_to_json", "array_to_string", "concat", "concat_ws", "convert"),
            *("convert_from", "convert_to", "format", "json_build_array", "json_build_object"),
            *("jsonb_build_array", "jsonb_build_object", "json_populate_record", "pg_typeof"),
            *("jsonb_populate_record", "make_timestamptz", "pg_column_size", "row_to_json"),
            *("to_char", "to_date", "to_json", "to_jsonb", "to_number", "to_regclass"),
        ),
        None,
    ),
    **dict.fromkeys(
        (
            *("age", "plainto_tsquery", "phraseto_tsquery", "to_tsquery", "to_tsvector"),
            "websearch_to_tsquery",
        ),
        1,
    ),
    "to_timestamp": 2,
}
_RESULTS: Final = {
    **dict.fromkeys(
        (
            *("now", "statement_timestamp", "transaction_timestamp", "clock_timestamp"),
            *("current_timestamp", "make_timestamptz", "to_timestamp"),
        ),
        "timestamptz",
    ),
    **dict.fromkeys(("localtimestamp", "make_timestamp"), "timestamp"),
    **dict.fromkeys(("current_date", "make_date", "to_date"), "date"),
    **dict.fromkeys(
        ("age", "justify_days", "justify_hours", "justify_interval", "make_interval"), "interval"
    ),
    **dict.fromkeys(("date_part", "extract", "length", "abs", "round", "to_number"), "number"),
    **dict.fromkeys(
        (
            *("btrim", "concat", "concat_ws", "format", "initcap", "left", "lower", "lpad"),
            *("ltrim", "md5", "overlay", "regexp_replace", "repeat", "replace", "reverse"),
            *("right", "rpad", "rtrim", "split_part", "substr", "substring", "to_char"),
            *("translate", "trim", "upper", "array_to_string", "jsonb_extract_path_text"),
        ),
        "text",
    ),
}


class _Value(NamedTuple):
    """An expression: its type, and a column that it depends on.

    A constant without a type of its own is a "literal", a type that does not matter is None.
    """

    kind: str | None = None
    column: str | None = None


class StableCalls:
    """Finds what an UPDATE or a DELETE computes of columns that is STABLE.

    Whether something is depends on types: `at + interval '1 day'` is STABLE of a timestamptz, and
    IMMUTABLE of a timestamp. Types are followed as far as they decide. Subqueries are left out:
    Citus runs them on their own.
    """

    def __init__(self, model: Model, table: Name, relations: Mapping[str, Name]) -> None:
        self._relations = {alias: model.find(name) for alias, name in relations.items()}
        self._table = model.find(table)
        self._found: dict[tuple[str, str], None] = {}

    def of(
        self, targets: Iterable[ast.ResTarget], conditions: object
    ) -> tuple[tuple[str, str], ...]:
        """Return the calls, each with a column, in what is set and in conditions."""
        columns = self._table.columns if self._table is not None else {}
        for target in targets:
            column = columns.get(str(target.name))
            self._cast(self._value(target.val), _kind(column.type if column else None))
        self._value(conditions)
        return tuple(self._found)

    def _note(self, function: str, *values: _Value) -> None:
        for value in values:
            if value.column is not None:
                self._found[function, value.column] = None
                return

    def _cast(self, value: _Value, kind: str | None) -> _Value:
        if (value.kind, kind) in _STABLE_CASTS:
            self._note(f"::{kind}", value)
        return _Value(kind, value.column)

    def _values(self, nodes: object) -> list[_Value]:
        return [self._value(node) for node in (nodes if isinstance(nodes, tuple) else (nodes,))]

    def _value(self, node: object) -> _Value:
        match node:
            case ast.SubLink(testexpr=compared):
                return _Value("boolean", self._value(compared).column)
            case ast.RangeSubselect() | None:
                return _Value()
            case ast.ColumnRef():
                return self._column(node)
            case ast.A_Const(val=ast.Integer() | ast.Float()):
                return _Value("number")
            case ast.A_Const(val=ast.Boolean()):
                return _Value("boolean")
            case ast.A_Const():
                return _Value("literal")
            case ast.TypeCast(arg=argument, typeName=ast.TypeName() as type_):
                known = _strings(type_.names)[-1]
                kind = None if type_.arrayBounds else _kind(_TYPES.get(known, known.upper()))
                return self._cast(self._value(argument), kind)
            case ast.SQLValueFunction(op=enums.SQLValueFunctionOp() as which):
                return _Value(_RESULTS.get(_value_function(which)))
            case ast.FuncCall():
                return self._call(node)
            case ast.A_Expr():
                return self._operator(node)
            case ast.CoalesceExpr(args=arguments) | ast.MinMaxExpr(args=arguments):
                return self._same(self._values(arguments))
            case ast.CaseExpr():
                parts = [node.defresult]
                self._value(node.arg)
                for when in node.args or ():
                    self._value(when.expr)
                    parts.append(when.result)
                return self._same([self._value(part) for part in parts])
            case ast.Node():
                below = self._values(tuple(getattr(node, name) for name in node))
            case tuple():
                below = self._values(node)
            case _:
                return _Value()
        return _Value(None, _first_column(below))

    def _column(self, node: ast.ColumnRef) -> _Value:
        *qualifiers, name = _strings(node.fields)
        tables = (
            [self._relations.get(qualifiers[-1])] if qualifiers else [*self._relations.values()]
        )
        for table in tables:
            if table is not None and name in table.columns:
                return _Value(_kind(table.columns[name].type), name)
        if any(name == alias for alias in self._relations):
            return _Value(None, name)  # The row.
        return _Value(None, name if None not in tables else None)

    def _same(self, values: list[_Value]) -> _Value:
        """Return the value of one type that several values become."""
        kinds = {value.kind for value in values}
        found = [kind for kind in ("timestamptz", "timestamp", "date") if kind in kinds]
        kind = found[0] if found else next((k for k in kinds if k not in (None, "literal")), None)
        for value in values:
            if found:
                self._cast(value, kind)
        return _Value(kind, _first_column(values))

    def _call(self, call: ast.FuncCall) -> _Value:
        name, values = _strings(call.funcname)[-1], self._values(call.args or ())
        column = _first_column(values)
        last = values[-1].kind if values else None
        if name in _STABLE_FUNCTIONS and _STABLE_FUNCTIONS[name] in (None, len(values)):
            self._note(name, *values)
        match name:
            case "date_trunc" if len(values) >= 2:
                time = values[1]
                if time.kind in ("timestamptz", "date"):
                    self._note(name, time)
                return _Value("timestamptz" if time.kind == "date" else time.kind, column)
            case "date_part" | "extract" if last == "timestamptz":
                self._note(name, values[-1])
            case "quote_literal" | "quote_nullable" if last not in ("text", "literal", None):
                self._note(name, values[-1])
            case "timezone" if len(values) == 2:
                if last == "timetz":
                    self._note(name, values[-1])
                flipped = {"timestamptz": "timestamp", "timestamp": "timestamptz"}
                return _Value(
                    flipped.get(str(last), "timestamptz" if last == "date" else None), column
                )
            case "date" | "timestamp" | "timestamptz" | "time" if len(values) == 1:
                return self._cast(values[0], name)
            case "date_bin" if len(values) == 3:
                return _Value(values[1].kind, column)
        return _Value(_RESULTS.get(name), column)

    def _operator(self, node: ast.A_Expr) -> _Value:
        name = _strings(node.name)[-1]
        left, rights = self._value(node.lexpr), self._values(node.rexpr)
        if isinstance(node.rexpr, ast.A_ArrayExpr):
            rights = self._values(node.rexpr.elements or ())
        column = _first_column([left, *rights])
        boolean = _Value("boolean", column)
        if node.kind == enums.A_Expr_Kind.AEXPR_NULLIF:
            return _Value(left.kind, column)
        if "BETWEEN" in name:
            name = "="
        if name in _COMPARISONS:
            for right in rights:
                kinds = {left.kind, right.kind}
                if "timestamptz" in kinds and kinds & {"timestamp", "date"}:
                    self._note(name, left, right)
            return boolean
        right = rights[0] if rights else _Value()
        match name, left.kind, right.kind:
            case "||", "text" | "literal", one if one not in (None, "text", "literal", "json"):
                self._note(name, left, right)
            case "||", one, "text" | "literal" if one not in (None, "text", "literal", "json"):
                self._note(name, left, right)
            case "+" | "-", "timestamptz", "interval":
                self._note(name, left, right)
            case "+", "interval", "timestamptz":
                self._note(name, left, right)
            case "+", "timestamptz", "literal":
                self._note(name, left)
            case "-", "timestamptz", "timestamp" | "date":
                self._note(name, left, right)
            case "-", "timestamp" | "date", "timestamptz":
                self._note(name, left, right)
        return _Value(_result(name, left.kind, right.kind), column)


def _result(operator: str, left: str | None, right: str | None) -> str | None:
    """Return the type of the result of an operator."""
    times = ("timestamptz", "timestamp", "date")
    match operator, left, right:
        case "||", "json", _:
            return "json"
        case (("||" | "->>" | "#>>"), _, _):
            return "text" if operator != "||" or "text" in (left, right) else None
        case (("->" | "#>"), _, _):
            return "json"
        case (("+" | "-"), "date", "number"):
            return "date"
        case "-", "date", "date":
            return "number"
        case "-", _, _ if left in times and (right in times or right == "literal"):
            return "interval"
        case "+", "date", "time":
            return "timestamp"
        case (("+" | "-"), _, "interval") if left in times:
            return "timestamp" if left == "date" else left
        case "+", "interval", _ if right in times:
            return "timestamp" if right == "date" else right
        case "+", "timestamptz" | "timestamp", "literal":
            return left
        case (("~" | "~*" | "!~" | "!~*" | "~~" | "~~*" | "!~~" | "@>" | "<@" | "?" | "&&"), _, _):
            return "boolean"
        case (("+" | "-" | "*" | "/" | "%"), _, _):
            return "interval" if "interval" in (left, right) else left if left == right else None
    return None


def _kind(type_: str | None) -> str | None:
    return _KINDS.get(type_ or "")


def _first_column(values: Iterable[_Value]) -> str | None:
    return next((value.column for value in values if value.column is not None), None)


def _functions(value: object) -> Iterator[str]:
    for node in _nodes(value):
        match node:
            case ast.FuncCall():
                yield _strings(node.funcname)[-1]
            case ast.SQLValueFunction(op=enums.SQLValueFunctionOp() as which):
                yield _value_function(which)


def _value_function(which: enums.SQLValueFunctionOp) -> str:
    return which.name.removeprefix("SVFOP_").removesuffix("_N").lower()


def _equalities(condition: object, own: set[str | None]) -> Iterator[tuple[str, object]]:
    """Yield the columns of a table that a condition demands to be equal to something."""
    match condition:
        case tuple():
            for part in condition:
                yield from _equalities(part, own)
        case ast.BoolExpr(boolop=enums.BoolExprType.AND_EXPR):
            yield from _equalities(condition.args, own)
        case ast.A_Expr(lexpr=left, rexpr=right) if _strings(condition.name) == ["="]:
            for one, other in ((left, right), (right, left)):
                if (column := _column_of(one, own)) is not None:
                    yield column, _operand(other)


def _column_of(value: object, own: set[str | None]) -> str | None:
    """Return the column of a table, known by the names `own`, that an expression is."""
    if not isinstance(value, ast.ColumnRef):
        return None
    *qualifiers, name = _strings(value.fields)
    return name if not qualifiers or qualifiers[-1] in own else None


def _operand(value: object) -> object:
    """Return something that is equal for equal constants, and for equal columns."""
    if isinstance(value, ast.ColumnRef):
        return tuple(_strings(value.fields))
    constant = _constant(value)
    return object() if constant is _NOT_CONSTANT else constant


def _alter_table(table: Name, command: ast.AlterTableCmd) -> Iterator[Action]:
    match command:
        case ast.AlterTableCmd(subtype=_Type.AT_AddColumn, def_=ast.ColumnDef() as definition):
            part = Table(table)
            _add_column(part, definition)
            yield Extend(table, part)
        case ast.AlterTableCmd(subtype=_Type.AT_DropColumn, name=str(column)):
            yield DropColumn(table, column)
        case ast.AlterTableCmd(
            subtype=_Type.AT_AlterColumnType, name=str(column), def_=ast.ColumnDef() as definition
        ):
            definition.colname = column
            yield AlterColumn(table, column, retyped=_column(table, definition))
        case ast.AlterTableCmd(subtype=_Type.AT_ColumnDefault, name=str(column), def_=default):
            new = Column(column, sequence=_sequence(default))
            yield AlterColumn(table, column, new_default=new)
        case ast.AlterTableCmd(subtype=_Type.AT_AddConstraint, def_=ast.Constraint() as definition):
            part = Table(table)
            _add_constraint(part, definition)
            yield Extend(table, part)
        case ast.AlterTableCmd(subtype=_Type.AT_DropConstraint, name=str(name)):
            yield DropConstraint(table, name)
        case ast.AlterTableCmd(subtype=_Type.AT_SetAccessMethod, name=str(method)):
            yield SetAccessMethod(table, method == "columnar")
        case ast.AlterTableCmd(
            subtype=_Type.AT_AddInherit | _Type.AT_DropInherit as subtype,
            def_=ast.RangeVar() as relation,
        ) if (parent := _name(relation)) is not None:
            yield Inherit(table, parent, no_longer=subtype == _Type.AT_DropInherit)
        case ast.AlterTableCmd(subtype=_Type.AT_DetachPartition, def_=ast.PartitionCmd() as which):
            if which.concurrent:
                yield RunConcurrently()


def _unsupported(command: ast.AlterTableCmd, *, alone: bool) -> str | None:
    """Return what a change of ALTER TABLE has that Citus refuses, None if it has nothing."""
    subtype, definition = command.subtype, command.def_
    if subtype in _UNSUPPORTED:
        return _UNSUPPORTED[subtype]
    if subtype == _Type.AT_AddConstraint and not alone:
        return "ADD CONSTRAINT beside other changes"
    if subtype == _Type.AT_ColumnDefault and not alone and _sequence(definition) is not None:
        return "SET DEFAULT nextval beside other changes"
    if subtype == _Type.AT_AddColumn and isinstance(definition, ast.ColumnDef):
        for constraint in definition.constraints or ():
            if constraint.conname is not None:
                continue
            if constraint.contype == _Constraint.CONSTR_CHECK:
                return "ADD COLUMN and a CHECK without a name"
            if constraint.contype in _OF_TABLES and not alone:
                return "ADD COLUMN and a constraint without a name beside other changes"
    return None


def _add_column(table: Table, definition: ast.ColumnDef) -> None:
    column = _column(table.name, definition)
    table.columns[column.name] = column
    for constraint in definition.constraints or ():
        _add_constraint(table, constraint, column.name)


def _column(table: Name, definition: ast.ColumnDef) -> Column:
    name, type_ = str(definition.colname), definition.typeName
    known = _strings(type_.names)[-1] if type_ is not None else ""
    array = "[]" if type_ is not None and type_.arrayBounds else ""
    bare = (_SERIALS.get(known) or _TYPES.get(known) or known.upper()) + array
    modifiers = [_constant(one) for one in (type_.typmods if type_ is not None else None) or ()]
    collation = definition.collClause
    kinds = {one.contype: one for one in definition.constraints or ()}
    default = kinds.get(_Constraint.CONSTR_DEFAULT)
    return Column(
        name,
        type=bare or None,
        full_type=(bare + (f"({', '.join(map(str, modifiers))})" if modifiers else "")) or None,
        collation=_strings(collation.collname)[-1] if collation is not None else None,
        identity=_Constraint.CONSTR_IDENTITY in kinds,
        serial=known in _SERIALS,
        generated=_Constraint.CONSTR_GENERATED in kinds,
        sequence=f"{table.name}_{name}_seq"
        if known in _SERIALS
        else _sequence(default.raw_expr if default is not None else None),
    )


def _sequence(default: object) -> str | None:
    for node in _nodes(default):
        if isinstance(node, ast.FuncCall) and _strings(node.funcname)[-1] == "nextval":
            value = _constant((node.args or (None,))[0])
            return ".".join(_strings_of_name(value)) if isinstance(value, str) else None
    return None


def _add_key(table: Table, key: Key) -> None:
    if not any(UNKNOWN_TEXT in column for column in key.columns):
        table.keys.append(key)


def _add_constraint(table: Table, constraint: ast.Constraint, of_column: str | None = None) -> None:
    """Add a constraint of a table, or one that stands at a column."""
    own = None if of_column is None else (of_column,)
    name = constraint.conname
    match constraint.contype:
        case _Constraint.CONSTR_PRIMARY | _Constraint.CONSTR_UNIQUE:
            is_primary = constraint.contype == _Constraint.CONSTR_PRIMARY
            kind: Literal["primary key", "unique constraint"] = (
                "primary key" if is_primary else "unique constraint"
            )
            columns = own or tuple(_strings(constraint.keys))
            if columns:  # It has none if it takes over an index.
                _add_key(table, Key(kind, name, columns, tuple(_strings(constraint.including))))
        case _Constraint.CONSTR_EXCLUSION:
            elements = [
                (element.name, _strings(operator)[-1])
                for element, operator in constraint.exclusions or ()
            ]
            _add_key(table, read_exclusion(name, elements))
            if method := other_method(constraint.access_method):
                table.indexes.append(OtherIndex(name, method))
        case _Constraint.CONSTR_FOREIGN:
            target = _name(constraint.pktable)
            if target is not None:
                listed = _strings(constraint.fk_del_set_cols)
                on_delete = _ACTIONS.get(str(constraint.fk_del_action), "NO ACTION")
                table.foreign_keys.append(
                    ForeignKey(
                        name,
                        own or tuple(_strings(constraint.fk_attrs)),
                        target,
                        tuple(_strings(constraint.pk_attrs)),
                        on_delete + (f" ({', '.join(listed)})" if listed else ""),
                        _ACTIONS.get(str(constraint.fk_upd_action), "NO ACTION"),
                    )
                )


def _block(statement: ast.DoStmt) -> Iterator[Action]:
    """Yield what the statements of a DO block do."""
    options = {one.defname: one.arg.sval for one in statement.args or ()}
    if options.get("language", "plpgsql") != "plpgsql":
        return
    try:
        tree = parse_plpgsql(f"DO {dollar_quote(options.get('as', ''), 'block')}")
    except Error:
        return
    for query, is_expression in _queries(tree):
        yield from actions_of(f"SELECT {query}" if is_expression else query)


def _queries(tree: Any) -> Iterator[tuple[str, bool]]:
    """Yield the SQL in the tree of a PL/pgSQL block, and whether it is an expression."""
    match tree:
        case list():
            for branch in tree:
                yield from _queries(branch)
        case {"PLpgSQL_stmt_dynexecute": {"query": {"PLpgSQL_expr": {"query": str(query)}}}}:
            # EXECUTE of a literal; only a run could tell the others.
            value = _constant(_expression(query))
            if isinstance(value, str):
                yield value, False
        case {"PLpgSQL_expr": {"query": str(query)} as expression}:
            mode = expression.get("parseMode", 0)
            yield (query, mode != 0) if mode < 3 else (query.partition(":=")[2] or query, True)
        case dict():
            for branch in tree.values():
                yield from _queries(branch)


def _expression(text: str) -> ast.Node | None:
    try:
        (statement,) = parse_sql(f"SELECT {text}")
    except (Error, ValueError):
        return None
    select = statement.stmt
    targets = select.targetList if isinstance(select, ast.SelectStmt) else None
    return targets[0].val if targets else None


class _NotConstant:
    """The value of an expression that is not a constant."""


_NOT_CONSTANT: Final = _NotConstant()


def _constant(node: object) -> object:
    """Return the value of a constant, with or without a cast; _NOT_CONSTANT for anything else."""
    match node:
        case ast.TypeCast(arg=argument):
            return _constant(argument)
        case ast.A_Const(isnull=True):
            return None
        case ast.A_Const(val=ast.String(sval=str(text))) if UNKNOWN_TEXT not in text:
            return text
        case ast.A_Const(val=ast.Integer(ival=number)):
            return number
        case ast.A_Const(val=ast.Boolean(boolval=truth)):
            return truth
    return _NOT_CONSTANT


def _relation(value: object) -> Name | None:
    """Return the relation that a text names, as a cast to regclass reads it."""
    if not isinstance(value, str):
        return None
    *schema, name = _strings_of_name(value) or [""]
    return Name(schema[-1] if schema else None, name) if name else None


def _strings_of_name(text: str) -> list[str]:
    parts = re.findall(r'"((?:[^"]|"")+)"|([^."\s]+)', text)
    return [quoted.replace('""', '"') if quoted else plain.lower() for quoted, plain in parts]


def _name(relation: ast.RangeVar | None) -> Name | None:
    """Return the name of a relation; None if it is temporary, or only a run could tell it."""
    if relation is None or relation.relname is None or relation.relpersistence == "t":
        return None
    name = Name(relation.schemaname, relation.relname)
    return None if UNKNOWN_TEXT in str(name) else name


def _dotted(parts: Iterable[Any]) -> Name:
    *schema, name = _strings(parts)
    return Name(schema[-1] if schema else None, name)


def _strings(nodes: Iterable[Any] | None) -> list[str]:
    return [str(getattr(node, "sval", "*")) for node in nodes or ()]


def _nodes(value: object) -> Iterator[ast.Node]:
    """Yield all nodes in a node or a tuple, each before those below it."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case ast.Node() as node:
                yield node
                waiting += [getattr(node, name) for name in reversed(list(node))]
            case tuple() as several:
                waiting += reversed(several)
