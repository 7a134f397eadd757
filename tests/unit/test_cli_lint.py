"""`citus-analytics lint`: targets, formats and exit codes."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from citus_analytics.__main__ import main
from citus_analytics.lint import RULES
from tests.lint_pages import page, write_migrations
from tests.lint_sources import CLICKS, migration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder: a package of models, and migrations, both with something to find."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    package = tmp_path / "shop_of_lint"
    package.mkdir()
    models = page("CA001").breaks + "\n\nclass Base:\n    metadata = metadata\n"
    (package / "models.py").write_text(models)
    (package / "clean.py").write_text(page("CA001").keeps)
    (package / "broken.py").write_text("import nonesuch\n")
    write_migrations(tmp_path / "migrations", migration(CLICKS, downgrade="pass"))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("shop_of_lint")]:
        del sys.modules[name]


def output(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    assert main(["lint", *arguments]) == code
    return capsys.readouterr().out


@pytest.mark.parametrize("attribute", ["metadata", "Base", "Base.metadata"])
def test_metadata(here: Path, attribute: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = output(capsys, 1, f"shop_of_lint.models:{attribute}")
    assert said.startswith("orders: CA001 primary key of table 'orders' does not contain")
    assert len(said.splitlines()) == 1


def test_nothing_to_find(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, 0, "shop_of_lint.clean:metadata") == "No findings.\n"
    assert json.loads(output(capsys, 0, "shop_of_lint.clean:metadata", "--format", "json")) == {
        "citus": "13.2",
        "findings": [],
    }
    assert output(capsys, 0, "shop_of_lint.clean:metadata", "--format", "github") == ""


def test_migrations_and_metadata_together(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = output(capsys, 1, "migrations", "shop_of_lint.models:Base").splitlines()
    assert said[0].startswith("migrations/versions/0001.py:9: CA104 downgrade() does nothing")
    assert said[1].startswith("orders: CA001")


def test_the_number_of_findings_is_on_standard_error(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lint", "migrations"]) == 1
    assert capsys.readouterr().err == "citus-analytics: 1 finding in migrations.\n"


def test_codes_that_are_not_wanted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = ("migrations", "shop_of_lint.models:Base")
    assert "CA001" not in output(capsys, 1, *targets, "--ignore", "CA001")
    assert output(capsys, 0, *targets, "--ignore", "CA001", "--ignore", "CA104")


def test_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(output(capsys, 1, "migrations", "--format", "json", "--citus", "12.1"))
    assert document["citus"] == "12.1"
    (finding,) = document["findings"]
    message = finding.pop("message")
    assert "raise NotImplementedError" in message
    assert finding == {
        "code": "CA104",
        "subject": "1",
        "path": "migrations/versions/0001.py",
        "line": 9,
        "severity": "warning",
    }


def test_annotations_of_a_workflow(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_migrations(here / "odd, 100%: folder", migration(CLICKS, downgrade="pass"))
    said = output(capsys, 1, folder.name, "shop_of_lint.models:Base", "--format", "github")
    first, second = said.splitlines()
    assert first.startswith(
        "::warning file=odd%2C 100%25%3A folder/versions/0001.py,line=9,title=CA104::downgrade() "
    )
    assert second.startswith("::error title=CA001::orders: primary key of table 'orders' ")


def test_versions_of_citus(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "shop_of_lint" / "old.py").write_text(page("CA020").breaks)
    target = ("shop_of_lint.old:metadata", "--ignore", "CA012", "--ignore", "CA013")
    assert output(capsys, 0, *target) == "No findings.\n"
    assert "CA020" in output(capsys, 1, *target, "--citus", "11.3")


def test_the_migrations_that_alembic_ini_names(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s/migrations\n")
    assert output(capsys, 1).startswith("migrations/versions/0001.py:9: CA104")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to check: name a folder"),
        (["nowhere"], "there is no folder 'nowhere'"),
        (["shop_of_lint"], "has no migrations"),
        (["nonesuch:Base"], "'nonesuch' cannot be imported from"),
        (["shop_of_lint.broken:Base"], "ModuleNotFoundError: No module named 'nonesuch'"),
        (
            ["shop_of_lint.models:Nothing"],
            "models:Nothing does not exist: name a MetaData",
        ),
        (["shop_of_lint.models:orders.name"], "name a MetaData of SQLAlchemy's"),
        (["migrations", "--ignore", "CA999"], "'CA999', which is not a code of the linter"),
        (["--explain", "CA999"], "'CA999' is not a code of the linter"),
    ],
)
def test_what_cannot_be_looked_at(
    here: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lint", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize("version", ["13", "thirteen", "13.2.1", ""])
def test_versions_that_are_none(version: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["lint", "--citus", version])
    assert ended.value.code == 2
    assert "is not a version of Citus" in capsys.readouterr().err


def test_a_code_can_be_explained_in_lower_case(capsys: pytest.CaptureFixture[str]) -> None:
    said = output(capsys, 0, "--explain", "ca019")
    assert said.startswith("CA019 (error, before Citus 12.0): ")
    assert RULES["CA019"].explanation in said


def test_the_sql_of_a_revision(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For other linters: no more than the revision itself, from a merge as well."""
    folder = write_migrations(
        here / "shop",
        migration(CLICKS),
        migration('op.add_column("clicks", sa.Column("w", sa.Text()))', number=2),
        migration('op.create_table("other", sa.Column("k", sa.Text()))', number=2).replace(
            'revision = "2"', 'revision = "two"'
        ),
        migration('op.create_index("i", "clicks", ["w"])', number=3).replace(
            'down_revision = "2"', 'down_revision = ("2", "two")'
        ),
    )
    first = output(capsys, 0, "shop", "--sql", "1")
    assert "CREATE TABLE clicks" in first
    assert "ALTER TABLE" not in first
    second = output(capsys, 0, "shop/versions", "--sql", "2")
    assert "ALTER TABLE clicks ADD COLUMN w TEXT;" in second
    assert "CREATE TABLE" not in second
    merged = output(capsys, 0, "shop", "--sql", "3")
    assert "CREATE INDEX i ON clicks (w);" in merged
    assert "ALTER TABLE" not in merged
    several = output(capsys, 0, "shop", "--sql", "1:2")
    assert several == second
    (here / "alembic.ini").write_text(f"[alembic]\nscript_location = {folder}\n")
    assert output(capsys, 0, "--sql", "3") == merged


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("migrations", "--sql", "9"), "9: Can't locate revision identified by '9'"),
        (("migrations", "--sql", "1:9"), "1:9: Can't locate revision identified by '9'"),
        (("migrations", "--sql", "base"), "needs a revision"),
        (("shop_of_lint", "--sql", "1"), "'shop_of_lint' has no env.py"),
        (("migrations", "shop_of_lint", "--sql", "1"), "one folder"),
        (("--sql", "1"), "no alembic.ini"),
    ],
)
def test_sql_that_cannot_be_printed(
    here: Path, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lint", *arguments]) == 2
    assert said in capsys.readouterr().err
