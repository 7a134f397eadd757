"""The distributions that users install: complete, alone, and able to migrate a database."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine, inspect

import citus_analytics
from tests.servers import ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from sqlalchemy import URL

ROOT = Path(citus_analytics.__file__).parents[1]
TABLES = {"github_events", "github_users", "github_rollup_1min", "latest_rollup"}

# The wheel alone: neither the repository nor anything that an editable install adds of it.
PROGRAM = """
import sys
folder, repository, url = sys.argv[1:]
sys.path[:] = [folder, *(entry for entry in sys.path if entry != repository)]
import citus_analytics
from citus_analytics.github import migrate
assert citus_analytics.__file__.startswith(folder), citus_analytics.__file__
migrate.{call}(url)
"""


def build(target: str, source: Path, destination: Path) -> Path:
    """Build a distribution with hatchling itself, which needs no network; return its path."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(destination)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [built] = destination.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def run_alone(call: str, folder: Path, url: URL, elsewhere: Path) -> None:
    """Call a function of the unpacked wheel's migrations, in a Python that has nothing else."""
    done = subprocess.run(
        [
            *(sys.executable, "-I", "-c", PROGRAM.format(call=call)),
            *(str(folder), str(ROOT), url.render_as_string(hide_password=False)),
        ],
        cwd=elsewhere,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@ON_POSTGRESQL_ONLY
def test_the_wheel_alone_migrates_a_database(
    unpacked: Path, empty_database: URL, tmp_path: Path
) -> None:
    engine = create_engine(empty_database, poolclass=NullPool)
    run_alone("upgrade", unpacked, empty_database, tmp_path)
    assert set(inspect(engine).get_table_names()) >= TABLES
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT rollup_http_request()")
    run_alone("downgrade", unpacked, empty_database, tmp_path)
    assert inspect(engine).get_table_names() == ["alembic_version"]


def test_the_wheel_has_all_that_it_needs(wheel: Path) -> None:
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "citus_analytics").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    migrations = {
        f"citus_analytics/_alembic/{path.relative_to(ROOT / 'alembic').as_posix()}"
        for path in (ROOT / "alembic").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "citus_analytics/py.typed" in package
    assert "citus_analytics/_alembic/env.py" in migrations
    assert "citus_analytics/_alembic/script.py.mako" in migrations
    found = {name for name in files(wheel) if ".dist-info/" not in name}
    assert found == package | migrations


def test_the_wheel_puts_nothing_beside_the_package(wheel: Path) -> None:
    tops = {PurePosixPath(name).parts[0] for name in files(wheel)}
    assert tops == {"citus_analytics", f"citus_analytics-{citus_analytics.__version__}.dist-info"}


def test_the_wheel_tells_what_it_is(unpacked: Path) -> None:
    [information] = unpacked.glob("*.dist-info")
    metadata = (information / "METADATA").read_text()
    assert f"\nVersion: {citus_analytics.__version__}\n" in metadata
    assert "\nLicense-Expression: MIT\n" in metadata
    for extra in ("binary", "cli", "embedded"):
        assert f"\nProvides-Extra: {extra}\n" in metadata
    assert (
        "citus-analytics = citus_analytics.__main__:main"
        in (information / "entry_points.txt").read_text()
    )
    assert [*information.rglob("LICENSE")] != []


def test_the_sdist_builds_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    source, destination = tmp_path / "source", tmp_path / "built"
    # Not `extractall`: its filter came with a bugfix of Python 3.11, and later ones want it.
    source.mkdir()
    subprocess.run(["tar", "--extract", "--gzip", "--file", sdist], cwd=source, check=True)
    [top] = source.iterdir()
    assert not (top / "tests").exists()
    assert files(build("wheel", top, destination)) == files(wheel)
