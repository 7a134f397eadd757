"""Other people's Alembic environments, with the two lines that the documentation shows."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import BigInteger, Column, MetaData, NullPool, Table, create_engine, inspect

import citus_analytics
from citus_analytics.errors import ArgumentError
from tests.documents import ROOT, blocks
from tests.servers import ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from alembic.script import Script
    from sqlalchemy import URL

    from tests.servers import DatabaseServer

MODELS = """
from sqlalchemy import BigInteger, Column, ForeignKey, ForeignKeyConstraint, MetaData, Table

from citus_analytics import Distributed, Reference, distribute

CONVENTION = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(referred_table_name)s",
    "ix": "ix_%(table_name)s_%(column_0_name)s",
}
accounts = MetaData(naming_convention=CONVENTION)
orders = MetaData(naming_convention=CONVENTION)

plans = Table("plans", accounts, Column("id", BigInteger, primary_key=True))
users = Table(
    "users",
    accounts,
    Column("tenant", BigInteger, primary_key=True),
    Column("id", BigInteger, primary_key=True),
    Column("plan", ForeignKey("plans.id"), index=True),
)
placed = Table(
    "orders",
    orders,
    Column("tenant", BigInteger, primary_key=True),
    Column("id", BigInteger, primary_key=True),
    Column("first", BigInteger),
    ForeignKeyConstraint(["tenant", "first"], ["orders.tenant", "orders.id"]),
)
distribute(plans, Reference())
distribute(users, Distributed(column="tenant"))
distribute(placed, Distributed(column="tenant", colocate_with="users"))
"""


def documented_lines() -> tuple[str, str, str]:
    """Return the import, the call and the argument that docs/migrations.md adds to an `env.py`."""
    document = (ROOT / "docs" / "migrations.md").read_text("utf-8")
    [text] = [block.text for block in blocks(document) if "autogenerate_plugins=" in block.text]
    imported, call, configured = (line.strip() for line in text.splitlines() if line)
    argument = configured.removeprefix("context.configure(connection=connection, ..., ")
    return imported, call, argument.removesuffix(")")


@pytest.fixture
def config(empty_database: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The environment that `alembic init` makes, with the two lines and two metadata in it."""
    (tmp_path / "shop_models.py").write_text(MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shop_models", raising=False)
    config = Config(tmp_path / "alembic.ini")
    folder = tmp_path / "migrations"
    command.init(config, str(folder))
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    url = empty_database.render_as_string(hide_password=False)
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    imported, call, argument = documented_lines()
    environment = folder / "env.py"
    text = environment.read_text()
    text = text.replace(
        "from alembic import context\n", f"from alembic import context\n{imported}\n"
    )
    # It would switch off every logger of this process, for good, and not just ours for a while.
    switch = 'import logging; logging.getLogger("citus_analytics").disabled = True'
    text = text.replace("fileConfig(config.config_file_name)", switch)
    indent = " " * 8
    text = text.replace(
        f"{indent}context.configure(\n{indent}    connection=connection,",
        f"{indent}{call}\n{indent}context.configure(connection=connection, {argument},",
    )
    text = text.replace(
        "target_metadata = None",
        "import shop_models\ntarget_metadata = [shop_models.accounts, shop_models.orders]",
    )
    environment.write_text(text)
    monkeypatch.setattr(logging.getLogger("citus_analytics"), "disabled", False)
    return config


def revise(config: Config) -> Path:
    script = command.revision(config, "orders", autogenerate=True)
    assert script is not None
    assert not isinstance(script, list)
    return Path(script.path)


def test_an_environment_of_alembic_init(
    config: Config, empty_database: URL, server: DatabaseServer, caplog: pytest.LogCaptureFixture
) -> None:
    revise(config)
    with caplog.at_level(logging.DEBUG, "alembic.citus_analytics"):
        command.upgrade(config, "head")
    heard = [
        (record.name, record.levelname)
        for record in caplog.records
        if "it stays local" in record.message
    ]
    levels = [] if server.kind == "citus" else ["WARNING", "DEBUG", "DEBUG"]
    assert heard == [("alembic.citus_analytics", level) for level in levels]
    command.check(config)
    engine = create_engine(empty_database, poolclass=NullPool)
    keys = inspect(engine).get_foreign_keys("orders")
    assert [key["name"] for key in keys] == ["fk_orders_orders"]
    command.downgrade(config, "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]


@ON_POSTGRESQL_ONLY
def test_a_generated_migration_passes_strict_typing(config: Config) -> None:
    folder = Path(config.get_main_option("script_location") or "")
    template = (ROOT / "alembic" / "script.py.mako").read_text()
    (folder / "script.py.mako").write_text(template)
    path = revise(config)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@ON_POSTGRESQL_ONLY
@pytest.mark.parametrize("empty", [False, True])
def test_revisions_beside_the_built_in_ones(
    server: DatabaseServer, tmp_path: Path, empty: bool
) -> None:
    """With the documented configuration, `alembic revision` leaves the package as it is."""
    document = (ROOT / "docs" / "migrations.md").read_text("utf-8")
    [ini] = [block.text for block in blocks(document) if "version_locations =" in block.text]
    (tmp_path / "alembic.ini").write_text(ini)
    folder = tmp_path / "alembic"
    versions = folder / "versions"
    folder.mkdir()
    (folder / "script.py.mako").write_text((ROOT / "alembic" / "script.py.mako").read_text())
    (folder / "env.py").write_text(
        "from alembic import context\n"
        "import citus_analytics\n"
        "from citus_analytics.migrations import run_environment\n"
        "own = context.config.attributes['metadata']\n"
        "run_environment([own, citus_analytics.Base.metadata])\n"
    )
    package = Path(citus_analytics.__file__).parent / "_alembic" / "versions"
    before = {path.name for path in package.iterdir()}
    metadata = MetaData()
    Table("shops", metadata, Column("user_id", BigInteger, primary_key=True))

    def revision(**options: Any) -> Script:
        made = command.revision(settings, "own", **options)
        assert made is not None
        assert not isinstance(made, list)
        assert Path(made.path).parent == versions
        assert {path.name for path in package.iterdir()} <= before | {"__pycache__"}
        return made

    with server.database("empty" if empty else "migrated") as url:
        settings = Config(tmp_path / "alembic.ini")
        settings.attributes |= {"url": url, "metadata": metadata}
        command.upgrade(settings, "heads")
        (built_in,) = ScriptDirectory.from_config(settings).get_heads()
        first = revision(autogenerate=True)
        assert (first.down_revision, first.dependencies) == (None, built_in)
        command.upgrade(settings, "heads")
        Table("stock", metadata, Column("user_id", BigInteger, primary_key=True))
        second = revision(autogenerate=True)
        assert (second.down_revision, second.dependencies) == (first.revision, None)
        by_hand = revision() if empty else None
        if by_hand is not None:
            assert by_hand.down_revision == second.revision
        command.upgrade(settings, "heads")
        command.check(settings)
        # One of these follows the built-in revisions because it is told to.
        assert revision(head=built_in).down_revision == built_in
        with pytest.raises(ArgumentError, match=f"such as {versions}"):
            command.revision(settings, "own", version_path=str(package))
    # Nothing but the revisions says in which order a new database gets them.
    with server.database("empty") as url:
        settings.attributes["url"] = url
        command.upgrade(settings, "heads")
        assert {"shops", "stock", "github_events"} <= set(
            inspect(create_engine(url, poolclass=NullPool)).get_table_names()
        )
