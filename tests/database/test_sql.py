"""Names and values as SQL, read by the server itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from citus_analytics.sql import dollar_quote, literal, qualify, quote

if TYPE_CHECKING:
    from sqlalchemy import Connection

TEXTS = [
    "a",
    "A",
    "it's",
    "back\\slash",
    "\\' ",
    'a "b"',
    "two\nlines",
    "one\n",
    "$a$",
    "é",
    "%s:b",
]


def value(connection: Connection, expression: str) -> object:
    driver = connection.connection.driver_connection
    assert driver is not None
    return driver.execute(f"SELECT {expression}").fetchone()[0]


def test_names_are_read_as_they_are(connection: Connection) -> None:
    for name in (*TEXTS, "select", "time", "_plain_1", "1st", "a$b", "x" * 63):
        assert value(connection, f"x.{quote(name)} FROM (SELECT 7 AS {quote(name)}) AS x") == 7
        assert value(connection, f"parse_ident({literal(quote(name))})") == [name]
        both = value(connection, f"parse_ident({literal(qualify(name, 'A.b'))})")
        assert both == ["A.b", name]


def test_values_are_read_as_they_are(connection: Connection) -> None:
    for conforming in ("on", "off"):
        connection.exec_driver_sql(f"SET LOCAL standard_conforming_strings = {conforming}")
        connection.exec_driver_sql("SET LOCAL escape_string_warning = off")
        for text in ("", *TEXTS):
            assert value(connection, literal(text)) == text


def test_bodies_are_read_as_they_are(connection: Connection) -> None:
    for text in (*TEXTS, "$tag$", "$tag$ $tag_$", "$$"):
        assert value(connection, dollar_quote(text, "tag")) == text
