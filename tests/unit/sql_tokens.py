"""SQL as tokens, so that a test can tell a name from the text around it.

The rules are those of PostgreSQL's documentation, "Lexical Structure". Dollar-quoted bodies are
read as SQL again, and so are strings with names in them, such as `'"Page Views"'::regclass`.
"""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

Tokens: TypeAlias = "tuple[tuple[str, str | Tokens], ...]"

_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<comment>--[^\n]*)
    | "(?P<name>(?:[^"]|"")*)"
    | (?P<escaped>E'(?:[^'\\]|''|\\.)*')
    | '(?P<string>(?:[^']|'')*)'
    | \$(?P<tag>[A-Za-z_]*)\$(?P<body>.*?)\$(?P=tag)\$
    | (?P<word>\d+|[^\W\d][\w$]*)
    | (?P<sign>[^\s\w"'])
    """,
    re.VERBOSE | re.DOTALL,
)


def tokens(sql: str) -> Tokens:
    """Return the tokens of `sql`; a quote that is never closed fails the test."""
    found: list[tuple[str, str | Tokens]] = []
    position = 0
    while position < len(sql):
        match = _TOKEN.match(sql, position)
        assert match is not None, f"not SQL from here: {sql[position : position + 200]!r}"
        position = match.end()
        if match.lastgroup not in ("space", "comment"):
            found.append(_token(match))
    return tuple(found)


def difference(found: Tokens, reference: Tokens, names: Mapping[str, str]) -> str | None:
    """Return where `found` is not `reference` under other names, None if it is.

    The names of `reference` need quotes, so that its strings show whether they hold SQL.
    """
    for (kind, value), (other_kind, other) in zip_longest(found, reference, fillvalue=("end", "")):
        if kind != other_kind:
            return f"{kind} {value!r} in the place of {other_kind} {other!r}"
        if isinstance(value, tuple) and isinstance(other, tuple):
            if inside := difference(value, other, names):
                return inside
        elif kind == "string" and '"' in other and other not in names:
            if inside := difference(tokens(str(value)), tokens(str(other)), names):
                return inside
        elif value != names.get(str(other), other):
            return f"{kind} {value!r} in the place of {other!r}"
    return None


def _token(match: re.Match[str]) -> tuple[str, str | Tokens]:
    if match["name"] is not None:
        return ("name", match["name"].replace('""', '"'))
    if match["body"] is not None:
        return ("body", tokens(_without_placeholders(match["body"], match["tag"])))
    if match["escaped"] is not None:
        return ("string", re.sub(r"\\(.)|''", _unescaped, match["escaped"][2:-1], flags=re.DOTALL))
    if match["string"] is not None:
        return ("string", match["string"].replace("''", "'"))
    # A name that needs no quotes is the same name.
    return ("name", match["word"]) if match["word"] else ("sign", match[0])


def _unescaped(match: re.Match[str]) -> str:
    return {"n": "\n", None: "'"}.get(match[1], match[1])


def _without_placeholders(body: str, tag: str) -> str:
    if not tag.startswith(("log", "absorb")):
        return body
    # What the server's `format` makes of it, with words for its arguments.
    return re.sub(r"%(?:(%)|(\d)\$s)", lambda m: m[1] or f"argument_{m[2]}", body)
