"""Many sources by one name: ranges of hours, and folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from citus_analytics.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator

_RANGE: Final = re.compile(r"\{(\d+)\.\.(\d+)\}")
_ENDINGS: Final = (".csv", ".csv.gz", ".json", ".json.gz", ".jsonl", ".jsonl.gz", ".ndjson")
_MOST: Final = 100_000


def expand(source: str) -> list[str]:
    """Return the paths and addresses that a name stands for, in their order.

    `2015-01-{01..31}-{0..23}.json.gz` stands for 744 of them, as in a shell: both ends are
    included, and a zero in front keeps the width. A folder stands for the files in it whose names
    end like those of events, but for hidden ones and those in folders of its own; numbers in names
    are sorted as numbers.

    Raises:
        ArgumentError: There is no name, a range stands for too many, or a folder has no such files.
    """
    if not source:
        raise ArgumentError("the name of a source is empty: name a file, a folder or an address")
    found = list(_ranges(source, 1))
    return [name for each in found for name in _files(each)]


def is_address(source: str) -> bool:
    """Whether this is an address on the web."""
    return source.lower().startswith(("http://", "https://"))


def _ranges(source: str, before: int) -> Iterator[str]:
    match = _RANGE.search(source)
    if match is None:
        yield source
        return
    first, last = int(match[1]), int(match[2])
    count = (abs(last - first) + 1) * before
    if count > _MOST:
        raise ArgumentError(f"{source} stands for more than {_MOST:,} files: load fewer at a time")
    padded = any(len(end) > 1 and end.startswith("0") for end in match.groups())
    width = max(map(len, match.groups())) if padded else 0
    step = 1 if first <= last else -1
    for number in range(first, last + step, step):
        filled = f"{source[: match.start()]}{number:0{width}d}{source[match.end() :]}"
        yield from _ranges(filled, count)


def _files(source: str) -> list[str]:
    if source == "-" or is_address(source) or not Path(source).is_dir():
        return [source]
    found = [
        path
        for path in Path(source).iterdir()
        if path.name.endswith(_ENDINGS) and not path.name.startswith(".")
    ]
    if not found:
        raise ArgumentError(
            f"the folder {source} has no files whose names end with {', '.join(_ENDINGS)}"
        )
    return [str(path) for path in sorted(found, key=lambda path: _natural(path.name))]


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts 2015-01-01-9 before 2015-01-01-10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]
