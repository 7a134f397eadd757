"""What SQL text does, as actions on the model.

The text is parsed by PostgreSQL's own grammar (pglast, of the extra `lint`). Statements that are
executed count, those in the body of a function do not; of a `DO` block in PL/pgSQL, all branches
are taken. What the grammar does not accept is skipped: the server will report it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Literal

from pglast import Error, ast, enums, parse_plpgsql, parse_sql, split

from citus_analytics.lint.model import (
    UNKNOWN_TEXT,
    Action,
    AllowTriggers,
    AlterColumn,
    AlterDistribution,
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
    Key,
    Name,
    Placement,
    RenameTable,
    RunConcurrently,
    Table,
    Undistribute,
    Update,
    read_exclusion,
)
from citus_analytics.sql import dollar_quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
        case ast.UpdateStmt(targetList=sets, whereClause=condition, fromClause=others):
            yield _update("UPDATE", relation, table, sets or (), (condition, others))
        case ast.DeleteStmt(whereClause=condition, usingClause=others):
            yield _update("DELETE", relation, table, (), (condition, others))
        case ast.MergeStmt(mergeWhenClauses=clauses):
            for when in clauses or ():
                if when.commandType == enums.CmdType.CMD_INSERT:
                    yield Fill(table)
                elif when.commandType == enums.CmdType.CMD_UPDATE:
                    conditions = (when.condition, statement.joinCondition)
                    yield _update("MERGE", relation, table, when.targetList or (), conditions)
        case ast.CopyStmt(is_from=True):
            yield Fill(table)
        case ast.CreateTrigStmt():
            yield CreateTrigger(table)
        case ast.CreateStmt(partbound=None):  # A partition is where its parent is.
            created = Table(table, partitioned=statement.partspec is not None)
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
            for command in statement.cmds or ():
                yield from _alter_table(table, command)
        case ast.RenameStmt(renameType=_Object.OBJECT_TABLE, newname=str(new)):
            yield RenameTable(table, Name(table.schema, new))
        case ast.RenameStmt(renameType=_Object.OBJECT_COLUMN, subname=str(old), newname=str(new)):
            yield AlterColumn(table, old, new_name=new)
        case ast.AlterObjectSchemaStmt(objectType=_Object.OBJECT_TABLE, newschema=str(schema)):
            yield RenameTable(table, Name(schema, table.name))
        case ast.IndexStmt(unique=True):
            columns = tuple(part.name for part in statement.indexParams or () if part.name)
            extra = statement.indexIncludingParams or ()
            included = tuple(part.name for part in extra if part.name)
            part = Table(table)
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
    looked_at: object,
) -> Update:
    """Return what a statement sets, and what it calls there and in the clauses `looked_at`."""
    own = {relation.alias.aliasname if relation.alias is not None else table.name}
    equalities = list(_equalities(looked_at, own))
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
    clauses = (targets, looked_at)
    conditional: list[str] = []
    of_columns: list[tuple[str, str]] = []
    for node in _nodes(clauses):
        operands: tuple[object, ...] = ()
        match node:
            case ast.CaseExpr() | ast.CoalesceExpr():
                conditional += _functions(node)
            case ast.FuncCall():
                name, operands = _strings(node.funcname)[-1], node.args or ()
            case ast.TypeCast(typeName=ast.TypeName() as type_):
                name, operands = f"::{_strings(type_.names)[-1]}", (node.arg,)
            case ast.A_Expr():
                name, operands = _strings(node.name)[-1], (node.lexpr, node.rexpr)
                if name == "-" and not _is_interval(node.rexpr):
                    continue
        of_columns += [(name, column) for one in operands if (column := _column_of(one, own))]
    functions = tuple(_functions(clauses))
    return Update(table, kind, tuple(columns), functions, tuple(conditional), tuple(of_columns))


def _functions(value: object) -> Iterator[str]:
    for node in _nodes(value):
        match node:
            case ast.FuncCall():
                yield _strings(node.funcname)[-1]
            case ast.SQLValueFunction(op=enums.SQLValueFunctionOp() as which):
                yield which.name.removeprefix("SVFOP_").removesuffix("_N").lower()


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


def _is_interval(value: object) -> bool:
    match value:
        case ast.TypeCast(typeName=ast.TypeName() as type_):
            return _strings(type_.names)[-1] == "interval"
        case ast.FuncCall():
            return _strings(value.funcname)[-1] == "make_interval"
    return False


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
        case ast.AlterTableCmd(subtype=_Type.AT_DetachPartition, def_=ast.PartitionCmd() as which):
            if which.concurrent:
                yield RunConcurrently()


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
