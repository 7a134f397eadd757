"""Every code has a page, whose examples the linter judges as the page says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from citus_analytics.__main__ import main
from citus_analytics.github.models import Base
from citus_analytics.lint import RULES, lint_metadata, lint_migrations
from examples.github_stars import models as github_stars
from examples.page_views import models as page_views
from tests.lint_pages import FOLDER, findings, page

if TYPE_CHECKING:
    from pathlib import Path

ROOT = FOLDER.parents[1]


def test_codes_pages_and_index_are_the_same_set() -> None:
    pages = {path.stem for path in FOLDER.glob("*.md")}
    index = (FOLDER.parent / "lint.md").read_text("utf-8")
    assert pages == set(RULES)
    assert re.findall(r"^\| \[(CA\d+)\]\(lint/CA\d+\.md\) ", index, re.MULTILINE) == sorted(RULES)
    for code, rule in RULES.items():
        assert rule.code == code
        assert (FOLDER / f"{code}.md").read_text("utf-8").startswith(f"# {code}: {rule.title}\n")
        assert f"| [{code}](lint/{code}.md) | {rule.title} | {rule.severity}" in index


@pytest.mark.parametrize("code", RULES)
def test_the_examples_are_judged_as_their_page_says(code: str, tmp_path: Path) -> None:
    shown = page(code)
    broken = findings(shown.breaks, tmp_path / "breaks", citus=shown.version)
    assert code in {finding.code for finding in broken}
    kept = findings(shown.keeps, tmp_path / "keeps", citus=shown.version)
    assert code not in {finding.code for finding in kept}
    # Neither does the better example break another rule that the server insists on.
    assert [finding for finding in kept if finding.severity == "error"] == []


@pytest.mark.parametrize("code", [code for code, rule in RULES.items() if rule.until])
def test_limits_that_were_lifted(code: str, tmp_path: Path) -> None:
    rule = RULES[code]
    assert rule.until is not None
    now = findings(page(code).breaks, tmp_path, citus=rule.until)
    assert code not in {finding.code for finding in now}


@pytest.mark.parametrize("code", RULES)
def test_codes_are_explained(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", "--explain", code]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{code} ({RULES[code].severity}")
    assert RULES[code].explanation in said


def test_what_the_repository_ships_is_clean() -> None:
    assert lint_metadata(Base.metadata) == []
    assert lint_metadata(page_views.Base.metadata) == []
    assert lint_metadata(github_stars.Base.metadata, Base.metadata) == []
    assert lint_migrations(ROOT / "alembic") == []
    assert lint_migrations(ROOT / "examples" / "page_views" / "alembic") == []
    assert lint_migrations(ROOT / "examples" / "github_stars" / "alembic", ROOT / "alembic") == []
