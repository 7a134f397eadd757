"""The documents name what there is, and their links lead somewhere."""

from __future__ import annotations

import importlib
import re
import tomllib
from typing import TYPE_CHECKING

import pytest

from citus_analytics.__main__ import main
from citus_analytics.github.models import Base
from tests.documents import ROOT, documents

if TYPE_CHECKING:
    from pathlib import Path

REFERENCE = (ROOT / "docs/reference.md").read_text("utf-8")
MODULES = re.findall(r"^### `(.+)`$", REFERENCE, re.MULTILINE)
EXAMPLES = sorted((ROOT / "examples").glob("*/README.md"))


def listed(heading: str) -> list[str]:
    """Return the names in the first columns of the tables under a heading of the reference."""
    section = re.split(r"^#+ ", REFERENCE.split(f"\n{heading}\n")[1], flags=re.MULTILINE)[0]
    cells = re.findall(r"^\| (.*?) \|", section, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`(.+?)`", cell)]


@pytest.mark.parametrize("name", MODULES)
def test_the_reference_lists_the_public_names_of_a_module(name: str) -> None:
    # Public, but not what `from citus_analytics import *` gives.
    public = {"Base"} if name == "citus_analytics" else set()
    public |= {*importlib.import_module(name).__all__}
    assert sorted(listed(f"### `{name}`")) == sorted(public)


def test_the_reference_has_every_package_that_says_what_is_public() -> None:
    package = ROOT / "citus_analytics"
    public = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in package.rglob("*.py")
        if "_alembic" not in path.parts and "\n__all__ = [" in path.read_text("utf-8")
    }
    # Of the rollups' own rooms, the package re-exports what is public.
    assert {name for name in public if ".rollups." not in name} <= set(MODULES)


def test_the_reference_lists_the_tables_and_indexes() -> None:
    tables = Base.metadata.tables.values()
    names = {index.name for table in tables for index in table.indexes}
    assert names | {table.name for table in tables} <= set(listed("## In the database"))


def test_the_reference_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = re.findall(r"^    (\w+)  ", capsys.readouterr().out, re.MULTILINE)
    assert listed("## Command line") == commands


def test_the_reference_lists_the_extras() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert listed("## Extras") == sorted(project["optional-dependencies"])


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-").lower() for heading in headings}


@pytest.mark.parametrize(
    "document",
    [*documents(), *EXAMPLES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)(.+?)\)", document.read_text("utf-8")):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
