"""A folder of Alembic migrations, read as text and put in order."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from citus_analytics.errors import ArgumentError
from citus_analytics.lint.source import Evaluator

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of migrations.

    Attributes:
        path: The file, as it is to be shown.
        source: Its text.
        tree: The same as a syntax tree.
        revision: Its `revision`.
        parents: The revisions that come before it: `down_revision` and `depends_on`.
    """

    path: str
    source: str
    tree: ast.Module
    revision: str
    parents: tuple[str, ...]

    def function(self, name: str) -> ast.FunctionDef | None:
        """Return a function of the file by its name."""
        functions = (node for node in self.tree.body if isinstance(node, ast.FunctionDef))
        return next((function for function in functions if function.name == name), None)


def read_folders(folders: Iterable[Path]) -> list[Migration]:
    """Return the migrations of folders, or of `versions` in them, each after those before it.

    Raises:
        ArgumentError: There is no such folder, no migration in it, or one cannot be read.
    """
    return list(_in_order([migration for folder in folders for migration in _read_folder(folder)]))


def _read_folder(folder: Path) -> list[Migration]:
    if not folder.is_dir():
        raise ArgumentError(f"there is no folder {str(folder)!r} with migrations.")
    versions = folder / "versions"
    place = versions if versions.is_dir() else folder
    found = [_read(path) for path in sorted(place.rglob("*.py"))]
    migrations = [migration for migration in found if migration is not None]
    if not migrations:
        raise ArgumentError(
            f"{str(folder)!r} has no migrations: no file in {str(place)!r} sets `revision`."
        )
    return migrations


def _read(path: Path) -> Migration | None:
    """Return a file's migration; None if it is none."""
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source, str(path))
    except (SyntaxError, ValueError) as error:
        raise ArgumentError(f"{path} cannot be read as Python: {error}.") from error
    evaluator = Evaluator(str(path))
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                evaluator.names[name] = evaluator.value(value)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                evaluator.names[name] = evaluator.value(value)
    revision = evaluator.names.get("revision")
    if not isinstance(revision, str):
        return None
    parents = [
        parent
        for name in ("down_revision", "depends_on")
        for parent in _listed(evaluator.names.get(name))
        if isinstance(parent, str)
    ]
    return Migration(_shown(path), source, tree, revision, tuple(parents))


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _shown(path: Path) -> str:
    """Return a path from the current folder on, where it is below; CI systems link only those."""
    here = Path.cwd()
    full = path.resolve()
    return str(full.relative_to(here)) if full.is_relative_to(here) else str(path)


def _in_order(migrations: list[Migration]) -> Iterator[Migration]:
    by_revision = {migration.revision: migration for migration in migrations}
    done: set[str] = set()
    # A stack of our own: folders with thousands of revisions are deeper than Python's.
    for first in migrations:
        stack = [first]
        while stack:
            migration = stack[-1]
            waiting = [
                by_revision[parent]
                for parent in migration.parents
                if parent in by_revision and parent not in done
            ]
            if waiting and not any(parent in stack for parent in waiting):
                stack += waiting
                continue
            stack.pop()
            if migration.revision not in done:
                done.add(migration.revision)
                yield migration
