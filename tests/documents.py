"""Documents whose snippets are run: Python, SQL for psql, and commands for a shell.

Within one document they run in order, Python in one namespace. A block of text that follows a
block of Python directly is what it prints; in the output of a command `...` stands for anything.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from citus_analytics.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[1]

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code: its language, its text, its line in the document, and what it prints."""

    language: str
    text: str
    line: int
    printed: str | None


def documents() -> list[Path]:
    """Return the documents of the project."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(document: str) -> list[Block]:
    """Return the blocks of a document, in order."""
    found = list(_BLOCK.finditer(document))
    return [
        Block(
            match[1],
            match[2],
            document.count("\n", 0, match.start()) + 1,
            after[2] if after and _is_output(document, match, after) else None,
        )
        for match, after in zip_longest(found, found[1:])
    ]


def _is_output(document: str, match: re.Match[str], after: re.Match[str]) -> bool:
    between = document[match.end() : after.start()]
    return match[1] == "python" and after[1] == "text" and not between.strip()


def run_python(block: Block, name: str, namespace: dict[str, object]) -> None:
    """Run a block of Python; fail if it does not print what the document says."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        # Line numbers are those of the document; the imports from __future__ are not those of here.
        source = "\n" * block.line + block.text
        exec(compile(source, name, "exec", dont_inherit=True), namespace)
    if block.printed is not None:
        assert printed.getvalue() == block.printed


def dispose_engines(namespace: Mapping[str, object]) -> None:
    """Close the connections that the Python of a document has left open, as its exit would."""
    for value in namespace.values():
        if isinstance(value, Engine):
            value.dispose()


def run_commands(block: Block) -> None:
    """Run the commands behind `$`; fail if one fails, or does not print what the document says."""
    for command, expected in _commands(block.text):
        if re.match(r"citus-analytics [^$&|<>]+$", command):
            # In this process, because starting one takes longer than most commands.
            with (
                contextlib.redirect_stdout(io.StringIO()) as out,
                contextlib.redirect_stderr(io.StringIO()) as err,
            ):
                try:
                    code: object = main(shlex.split(command)[1:])
                except SystemExit as end:
                    code = end.code
            printed, said = out.getvalue(), err.getvalue()
        else:
            done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
            code, printed, said = done.returncode, done.stdout, done.stderr
        assert code == 0, f"{command}: {said}"
        if expected:
            pattern = ".*".join(map(re.escape, expected.split("...\n")))
            assert re.fullmatch(pattern, printed, re.DOTALL), f"{command} says {printed}"


def _commands(text: str) -> list[tuple[str, str]]:
    parts = re.split(r"^\$ (.*)\n", text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))
