"""Which addresses of databases are understood, and what is said of those that are not."""

from __future__ import annotations

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import make_url

from citus_analytics.errors import ArgumentError
from citus_analytics.github.migrate import configuration, downgrade, upgrade
from citus_analytics.migrations import database_url


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_all_spellings_of_postgresql(scheme: str) -> None:
    url = database_url(f"{scheme}://ada:secret@db.example:6432/analytics?sslmode=require")
    assert url.drivername == "postgresql+psycopg"
    assert (url.username, url.password) == ("ada", "secret")
    assert (url.host, url.port, url.database) == ("db.example", 6432, "analytics")
    assert url.query == {"sslmode": "require"}


def test_a_url_of_sqlalchemy_is_taken_as_it_is() -> None:
    url = make_url("postgresql+psycopg:///analytics?host=/run/postgresql")
    assert database_url(url) == url


@pytest.mark.parametrize("password", ["p@ss/w:rd", "100%", "%(here)s", "a b", "ü"])
def test_passwords_of_any_characters(password: str) -> None:
    url = make_url("postgresql://ada@db/analytics").set(password=password)
    text = url.render_as_string(hide_password=False)
    assert database_url(text).password == password
    assert configuration(text).attributes["url"].password == password


def test_a_path_or_service_needs_no_host() -> None:
    assert database_url("postgresql://").host is None
    assert database_url("postgresql://?service=analytics").query == {"service": "analytics"}


@pytest.mark.parametrize("text", ["", "localhost", "host=db dbname=x", "postgresql:/db", "//db/x"])
def test_what_is_no_url(text: str) -> None:
    message = r"cannot be read; it looks like postgresql://user:password@host:5432/database\.$"
    with pytest.raises(ArgumentError, match=message):
        database_url(text)


@pytest.mark.parametrize("port", ["port", "5432x", "99999999999x"])
def test_what_is_no_port(port: str) -> None:
    with pytest.raises(ArgumentError, match="cannot be read"):
        database_url(f"postgresql://ada@db:{port}/analytics")


@pytest.mark.parametrize(
    "driver", ["mysql", "sqlite", "postgresql+asyncpg", "postgresql+psycopg2", "PostgreSQL"]
)
def test_another_database_or_driver(driver: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        database_url(f"{driver}://ada:secret@db/analytics")
    assert str(caught.value) == (
        f"the database URL must start with postgresql://, got {driver}://."
    )


@pytest.mark.parametrize(
    "text", ["mysql://a:secret@db/x", "a:secret@db", "postgresql://a:secret@b:c"]
)
def test_no_message_tells_the_password(text: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        database_url(text)
    assert "secret" not in str(caught.value)


def test_a_bad_address_is_refused_before_anything_happens() -> None:
    for migrate in (upgrade, downgrade):
        with pytest.raises(ArgumentError, match="got mysql://"):
            migrate("mysql://root@localhost/analytics")


def test_the_configuration_finds_the_migrations() -> None:
    scripts = ScriptDirectory.from_config(configuration("postgresql://db/analytics"))
    assert scripts.get_base() == "ca_0001"
    assert len(scripts.get_heads()) == 1
