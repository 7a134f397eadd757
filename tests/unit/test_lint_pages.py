"""Every code has a page, whose examples the linter judges as the server does."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from citus_analytics.github.models import Base
from citus_analytics.lint import RULES, lint_metadata, lint_migrations
from examples.github_stars import models as github_stars
from examples.page_views import models as page_views
from tests.lint_pages import FOLDER, findings, page

if TYPE_CHECKING:
    from pathlib import Path

ROOT = FOLDER.parents[1]


def test_every_code_has_a_page() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} == set(RULES)
    index = (FOLDER.parent / "lint.md").read_text("utf-8")
    assert re.findall(r"^\| \[(CA\d+)\]\(lint/CA\d+\.md\) ", index, re.MULTILINE) == sorted(RULES)


@pytest.mark.parametrize("code", RULES)
def test_an_example_breaks_its_rule_and_the_better_one_does_not(code: str, tmp_path: Path) -> None:
    shown = page(code)
    broken = findings(shown.breaks, tmp_path / "breaks", citus=shown.version)
    severity = RULES[code].severity
    assert {one.code for one in broken if one.severity in ("error", severity)} == {code}
    kept = findings(shown.keeps, tmp_path / "keeps", citus=shown.version)
    # Of another rule, it may only have what an old version of Citus leaves no way around.
    assert [one for one in kept if one.severity == "error" or not RULES[code].until] == []


@pytest.mark.parametrize("code", [code for code, rule in RULES.items() if rule.until])
def test_limits_that_were_lifted(code: str, tmp_path: Path) -> None:
    rule = RULES[code]
    assert rule.until is not None
    now = findings(page(code).breaks, tmp_path, citus=rule.until)
    assert code not in {finding.code for finding in now}


def test_what_the_repository_ships_is_clean() -> None:
    assert lint_metadata(Base.metadata) == []
    assert lint_metadata(page_views.Base.metadata) == []
    assert lint_metadata(github_stars.Base.metadata, Base.metadata) == []
    assert lint_migrations(ROOT / "alembic") == []
    assert lint_migrations(ROOT / "examples" / "page_views" / "alembic") == []
    assert lint_migrations(ROOT / "examples" / "github_stars" / "alembic", ROOT / "alembic") == []
