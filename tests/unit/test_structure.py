"""The shape of the code, read from its syntax trees: which room imports which."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import citus_analytics

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(citus_analytics.__file__).parent
ROOT = PACKAGE.parent

# The rooms of the package, from the ground up. A module imports from its own room and from the
# levels before it; rooms of one level do not know each other.
LEVELS = (
    ("errors",),
    ("sql",),
    ("schema", "server"),
    ("rollups",),
    ("catalog", "copy", "frames", "grafana", "lint"),
    ("migrations", "cluster"),
    ("cli", "testing"),
    ("github",),
    ("__init__",),
    ("__main__",),
)
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

# What a migration may use of the package: never the models, which move on while it stays.
OF_MIGRATIONS = {"migrations", "schema"}

# Expensive, or of use to few: only those who name them pay for them.
NOT_BY_DEFAULT = (
    "citus_analytics.migrations",
    "citus_analytics.server",
    "citus_analytics.cli",
    "citus_analytics.lint",
)


def room_of(module: str) -> str | None:
    """Return the room that a dotted name leads to, None outside of the package."""
    package, _, rest = module.partition(".")
    if package != "citus_analytics":
        return None
    room = rest.split(".")[0]
    return room if room in LEVEL_OF else "__init__"


def imported_rooms(path: Path) -> Iterator[str]:
    """Yield the rooms that a module imports, in functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from filter(None, map(room_of, names))


def test_rooms_import_from_below() -> None:
    rooms = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir()}
    rooms -= {"_alembic", "py", "__pycache__"}
    assert rooms <= set(LEVEL_OF), "say in LEVELS where a new room belongs"
    upwards = [
        f"{path.relative_to(ROOT)} imports {other}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if "_alembic" not in path.parts
        for room in [path.relative_to(PACKAGE).with_suffix("").parts[0]]
        for other in imported_rooms(path)
        if other != room and LEVEL_OF[other] >= LEVEL_OF[room]
    ]
    assert upwards == []


def test_what_modules_share_has_no_underscore() -> None:
    private = [
        f"{path.relative_to(ROOT)}:{node.lineno} imports {alias.name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("citus_analytics")
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert private == []


def test_migrations_are_frozen() -> None:
    for path in (ROOT / "alembic/versions").glob("*.py"):
        assert set(imported_rooms(path)) <= OF_MIGRATIONS, path.name


def test_the_migrations_do_not_shadow_alembic() -> None:
    assert [*(ROOT / "alembic").rglob("__init__.py")] == []


def test_importing_the_package_is_cheap() -> None:
    script = "import citus_analytics, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = done.stdout.split()
    assert "citus_analytics" in loaded
    assert not set(NOT_BY_DEFAULT) & set(loaded)
