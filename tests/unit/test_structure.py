"""The shape of the code, read from its syntax trees: who imports whom, and how long things are."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import citus_analytics

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PACKAGE = Path(citus_analytics.__file__).parent
ROOT = PACKAGE.parent

# The rooms of the package, from the ground up. A module imports from its own room and from the
# levels before it; rooms of one level do not know each other.
LEVELS = (
    ("errors", "logs", "sessions", "sql"),
    ("distribution", "gharchive", "sample", "server"),
    ("rollup", "lint"),
    ("rollup_sql",),
    ("models", "operations", "catalog"),
    ("diff",),
    ("autogenerate",),
    ("migrations", "ingest", "queries", "rollup_run"),
    ("live",),
    ("__init__",),
    ("cli",),
    ("__main__",),
)
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

# What a migration may use of the package: never the models, which move on while it stays.
OF_MIGRATIONS = {"distribution", "operations"}

# Expensive, or of use to few: only those who name them pay for them.
NOT_BY_DEFAULT = tuple(
    f"citus_analytics.{room}" for room in ("operations", "autogenerate", "server", "cli", "lint")
)

MOST_LINES = 299
MOST_LINES_OF_A_FUNCTION = 39


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


ALL_SOURCES = sources("citus_analytics", "alembic", "tests", "examples", "benchmarks")


def room_of(module: str) -> str | None:
    """Return the room that a dotted name leads to, None outside of the package."""
    package, _, rest = module.partition(".")
    if package != "citus_analytics":
        return None
    room = rest.split(".")[0]
    return room if room in LEVEL_OF else "__init__"


def imported_names(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield what is imported anywhere in `tree`, in functions and for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # One dot is the package itself, each further dot its parent.
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level]
            prefix = [*parents, node.module or ""] if node.level else [node.module or ""]
            yield from (".".join([*filter(None, prefix), alias.name]) for alias in node.names)


def imported_rooms(source: str, package: str) -> set[str]:
    rooms = (room_of(name) for name in imported_names(ast.parse(source), package))
    return {room for room in rooms if room is not None}


def forbidden_imports(room: str, source: str, package: str) -> list[str]:
    """Return the rooms that a module of `room` imports and may not."""
    return sorted(
        other
        for other in imported_rooms(source, package)
        if other != room and LEVEL_OF[other] >= LEVEL_OF[room]
    )


def too_long(source: str) -> bool:
    return len(source.splitlines()) > MOST_LINES


def long_functions(source: str) -> list[str]:
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION
    ]


def loaded_by(statement: str, modules: Iterable[str]) -> list[str]:
    """Return which of `modules`, or of those in them, a new Python has after `statement`."""
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    return [name for name in modules if any(f"{one}.".startswith(f"{name}.") for one in loaded)]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_room_has_its_level() -> None:
    on_disk = {path.stem for path in PACKAGE.glob("*.py")}
    on_disk |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert on_disk == set(LEVEL_OF), "say in LEVELS where a new room belongs"


@pytest.mark.parametrize("path", sources("citus_analytics"), ids=relative)
def test_rooms_import_from_below(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    assert forbidden_imports(parts[1], path.read_text(), ".".join(parts[:-1])) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import citus_analytics.models", ["models"]),
        ("from citus_analytics.models import Base", ["models"]),
        ("from citus_analytics import models", ["models"]),
        ("from citus_analytics import __version__", ["__init__"]),
        ("import citus_analytics", ["__init__"]),
        ("from .. import cli", ["cli"]),
        ("from ..cli.words import size", ["cli"]),
        ("def f():\n    from citus_analytics.queries import counts", ["queries"]),
        ("if TYPE_CHECKING:\n    from citus_analytics.rollup_sql import v1", ["rollup_sql"]),
        (
            "from citus_analytics.sample import x\nimport citus_analytics.models.y",
            ["models", "sample"],
        ),
        ("from citus_analytics.errors import ServerError", []),
        ("from citus_analytics.server import _locks\nfrom . import _locks\nimport alembic", []),
    ],
)
def test_an_import_from_above_is_found(source: str, found: list[str]) -> None:
    assert forbidden_imports("server", source, "citus_analytics.server") == found


@pytest.mark.parametrize("path", sources("alembic/versions"), ids=relative)
def test_migrations_are_frozen(path: Path) -> None:
    assert imported_rooms(path.read_text(), "") <= OF_MIGRATIONS


def test_a_migration_with_live_models_is_found() -> None:
    source = "from citus_analytics.models import Base\nfrom citus_analytics.operations import op"
    assert imported_rooms(source, "") - OF_MIGRATIONS == {"models"}


@pytest.mark.parametrize("path", ALL_SOURCES, ids=relative)
def test_files_and_functions_are_short(path: Path) -> None:
    source = path.read_text()
    assert not too_long(source)
    assert long_functions(source) == []


def test_long_files_and_functions_are_found() -> None:
    assert not too_long("x = 1\n" * MOST_LINES)
    assert too_long("x = 1\n" * (MOST_LINES + 1))
    for keyword in ("def", "async def"):
        method = f"class C:\n  {keyword} f(self):\n"
        assert long_functions(method + "    x = 1\n" * (MOST_LINES_OF_A_FUNCTION - 1)) == []
        assert long_functions(method + "    x = 1\n" * MOST_LINES_OF_A_FUNCTION) == ["f"]


def test_all_sources_are_looked_at() -> None:
    looked_at = {path.relative_to(ROOT).parts[0] for path in ALL_SOURCES}
    assert {"citus_analytics", "alembic", "tests", "benchmarks"} <= looked_at
    assert Path(__file__).resolve() in ALL_SOURCES


def test_the_migrations_do_not_shadow_alembic() -> None:
    assert [*(ROOT / "alembic").rglob("__init__.py")] == []


def test_importing_the_package_is_cheap() -> None:
    assert loaded_by("import citus_analytics", NOT_BY_DEFAULT) == []


@pytest.mark.parametrize("module", NOT_BY_DEFAULT)
def test_an_import_that_is_not_cheap_is_found(module: str) -> None:
    assert module in loaded_by(f"import {module}", NOT_BY_DEFAULT)
