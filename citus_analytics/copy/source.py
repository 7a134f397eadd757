"""Sources of rows: paths, folders, ranges, open files, iterables of bytes, addresses on the web.

`expand` turns the name of a folder or a range into names of files. `open_source` turns a source
into an `Input`, and `Input.content` reads it as blocks of content. Gzip is recognised by its first
two bytes, with which no UTF-8 text begins, so that any kind of source may be compressed.
"""

from __future__ import annotations

import io
import os
import re
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, TypeVar, runtime_checkable
from urllib.parse import urlsplit

from citus_analytics.errors import ArgumentError, LoadError

if TYPE_CHECKING:
    from collections.abc import Generator

# Measured: smaller blocks cost time, larger ones gain nothing.
BLOCK_SIZE: Final = 1 << 18
CSV_ENDINGS: Final = (".csv", ".csv.gz")

_MOST_FILES: Final = 100_000
_RANGE: Final = re.compile(r"\{(\d+)\.\.(\d+)\}")
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS


@runtime_checkable
class BinaryReader(Protocol):
    """An open binary file, as far as it is needed: `read` returns b"" at the end."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, or none if there are no more."""


Block: TypeAlias = bytes | bytearray | memoryview
PathName: TypeAlias = str | os.PathLike[str]
Source: TypeAlias = PathName | BinaryReader | Iterable[Block]
Found = TypeVar("Found")


@dataclass(slots=True)
class Tally:
    """How much of a source has been read, in bytes as they are stored: compressed, if it is."""

    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A source that can be read.

    Attributes:
        name: What to call it in messages.
        blocks: Reads it from its start: bytes as they are stored, in blocks of any size.
        total_bytes: How many bytes that will be, or None if that is unknown.
        repeatable: Whether it can be read more than once.
        named_gzip: Whether its name promises gzip.
        first_line: The number of its first line, if it is a part of something.
        block_size: The size of the blocks of content, roughly.
    """

    name: str
    blocks: Callable[[], Iterator[Block]]
    total_bytes: int | None = None
    repeatable: bool = False
    named_gzip: bool = False
    first_line: int = 1
    block_size: int = BLOCK_SIZE

    def content(self, tally: Tally | None = None) -> Generator[bytes]:
        """Read the content, uncompressed, in blocks of a size that is worth sending.

        Args:
            tally: Where to count what has been read.

        Raises:
            ArgumentError: The source gives something else than bytes.
            LoadError: A file cannot be read, or its gzip is damaged, cut short or missing.
        """
        with closing(self._gathered(tally or Tally())) as gathered:
            first = next(gathered, b"")
            blocks = chain((first,), gathered)
            if first.startswith(_GZIP_MAGIC):
                yield from self._inflated(blocks)
            elif self.named_gzip:
                raise LoadError(
                    f"{self.name} is not a gzip file: it begins with {first[:8]!r}. Load the "
                    "complete file, or drop .gz from its name if it is not compressed."
                )
            else:
                yield from blocks

    def _gathered(self, tally: Tally) -> Generator[bytes]:
        parts: list[bytes] = []
        waiting = 0
        for block in self.blocks():
            if not isinstance(block, Block):
                advice = "open files in binary mode, encode text as UTF-8"
                if isinstance(block, os.PathLike):
                    advice = "pass paths themselves, one by one or in a list"
                raise ArgumentError(
                    f"{self.name} must give bytes, but gave {type(block).__name__}: {advice}"
                )
            parts.append(bytes(block))
            waiting += len(parts[-1])
            tally.bytes += len(parts[-1])
            if waiting >= self.block_size // 2:
                yield b"".join(parts)
                parts.clear()
                waiting = 0
        if parts:
            yield b"".join(parts)

    def _inflated(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """Decompress gzip of one or more members, never more than one block at a time."""
        inflater = zlib.decompressobj(_GZIP_WINDOW)
        try:
            for block in blocks:
                rest = block
                while rest:
                    if inflater.eof:
                        # Zeros may fill up the last sector of a tape or disk.
                        if not (rest := rest.lstrip(b"\0")):
                            break
                        inflater = zlib.decompressobj(_GZIP_WINDOW)
                    if inflated := inflater.decompress(rest, self.block_size):
                        yield inflated
                    rest = inflater.unconsumed_tail or inflater.unused_data
            if inflated := inflater.flush():
                yield inflated
        except zlib.error as error:
            raise LoadError(
                f"{self.name} is a damaged gzip file ({error}). Nothing of it was loaded; get the "
                "file again."
            ) from error
        if not inflater.eof:
            raise LoadError(
                f"{self.name} is cut short: its gzip has no end. Nothing of it was loaded; get the "
                "complete file."
            )


def open_source(source: Source, *, block_size: int = BLOCK_SIZE) -> Input:
    """Return the input behind one source; nothing is read yet.

    Args:
        source: A path or an http(s) address, "-" for standard input, an open binary file (which
            stays open), or an iterable of bytes in blocks of any size.
        block_size: How much to read at a time.

    Raises:
        ArgumentError: The source is open in text mode, or is not a source at all.
        LoadError: There is no file at the path or address.
    """
    if isinstance(source, str) and source != "-" and (scheme := _SCHEME.match(source)):
        if not is_address(source):
            raise ArgumentError(
                f"{source!r} is an address of {scheme[1]}, and only those of http and https are "
                "read: fetch the file, and name its path."
            )
        # Only here, because it needs httpx.
        from citus_analytics.copy.web import Address

        address = Address(source)
        size = address.size()
        return Input(
            name=without_password(source),
            blocks=lambda: address.blocks(size),
            total_bytes=size,
            repeatable=True,
            named_gzip=urlsplit(source).path.endswith(".gz"),
            block_size=block_size,
        )
    if source == "-":
        return _reader_input(sys.stdin.buffer, "standard input", block_size)
    if isinstance(source, str | os.PathLike):
        return _path_input(Path(source), block_size)
    if isinstance(source, Block):
        raise ArgumentError("the source is the bytes themselves: wrap it in io.BytesIO(...)")
    if isinstance(source, BinaryReader):
        name = getattr(source, "name", None)
        shown = name if isinstance(name, str) else f"the {type(source).__name__}"
        return _reader_input(source, shown, block_size)
    if isinstance(source, Iterable):
        return Input(
            name="the iterable",
            blocks=lambda: iter(source),
            # Any other iterable may be exhausted by its first iteration.
            repeatable=isinstance(source, list | tuple),
            block_size=block_size,
        )
    raise ArgumentError(
        "a source is a path, an http(s) address, '-', an open binary file or an iterable of bytes, "
        f"not {source!r}"
    )


def peek(source: Input, look: Callable[[Iterator[bytes]], Found]) -> tuple[Found, Input]:
    """Look at the start of the content; return what was found, and the source to read from then on.

    What was looked at comes again, without opening the source or asking a server a second time.
    """
    stored = iter(source.blocks())
    taken: list[Block] = []

    def remembered() -> Iterator[Block]:
        for block in stored:
            taken.append(block)
            yield block

    with closing(replace(source, blocks=remembered).content()) as content:
        found = look(content)
    first_time = [chain(taken, stored)]

    def blocks() -> Iterator[Block]:
        return first_time.pop() if first_time else source.blocks()

    return found, replace(source, blocks=blocks)


def without_password(address: str) -> str:
    """Return an address on the web without the user and password in it, as it may be shown."""
    if not is_address(address):
        return address
    scheme, _, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def is_address(source: str) -> bool:
    """Whether this is an address on the web."""
    return source.lower().startswith(("http://", "https://"))


def _path_input(path: Path, block_size: int) -> Input:
    def unreadable(error: OSError) -> LoadError:
        return LoadError(
            f"{path} cannot be read: {error.strerror}. Nothing of it was loaded; check the path "
            "and its permissions."
        )

    def blocks() -> Iterator[bytes]:
        try:
            with path.open("rb", buffering=0) as file:
                while block := file.read(block_size):
                    yield block
        except OSError as error:
            raise unreadable(error) from error

    try:
        status = path.stat()
    except OSError as error:
        raise unreadable(error) from error
    regular = stat.S_ISREG(status.st_mode)
    return Input(
        name=str(path),
        blocks=blocks,
        total_bytes=status.st_size if regular else None,
        repeatable=regular,
        named_gzip=path.suffix == ".gz",
        block_size=block_size,
    )


def _reader_input(reader: BinaryReader, name: str, block_size: int) -> Input:
    if isinstance(reader, io.TextIOBase):
        raise ArgumentError(
            f"{name} is open in text mode, but COPY takes the bytes as they are: open it with "
            "mode 'rb', or pass its .buffer"
        )
    file = reader if isinstance(reader, io.IOBase) and reader.seekable() else None
    start = 0 if file is None else file.tell()

    def blocks() -> Iterator[bytes]:
        if file is not None:
            file.seek(start)
        while block := reader.read(block_size):
            yield block

    total = None
    if isinstance(reader, io.BytesIO):
        total = reader.getbuffer().nbytes - start
    elif file is not None:
        # A file that decompresses has the descriptor, and so the size, of what it decompresses.
        raw = reader.raw if isinstance(reader, io.BufferedReader | io.BufferedRandom) else reader
        if isinstance(raw, io.FileIO) and stat.S_ISREG((status := os.fstat(raw.fileno())).st_mode):
            total = status.st_size - start
    return Input(
        name=name,
        blocks=blocks,
        total_bytes=total,
        repeatable=file is not None,
        block_size=block_size,
    )


def expand(source: PathName, endings: tuple[str, ...] = CSV_ENDINGS) -> list[str]:
    """Return the paths and addresses that a name stands for, in their order.

    `2015-01-{01..31}-{0..23}.json.gz` stands for 744 of them, as in a shell: both ends are
    included, and a zero in front keeps the width. A folder stands for the files in it whose names
    have one of the endings, without hidden ones and those in its subfolders; numbers in names are
    sorted as numbers.

    Raises:
        ArgumentError: The name is empty, a range stands for too many files, or a folder has no such
            files.
    """
    name = os.fspath(source)
    if not name:
        raise ArgumentError("the name of a source is empty: name a file, a folder or an address")
    found: list[str] = []
    for each in _ranges(name, 1):
        if each == "-" or is_address(each) or not Path(each).is_dir():
            found.append(each)
            continue
        files = [
            path
            for path in Path(each).iterdir()
            if path.name.endswith(endings) and not path.name.startswith(".")
        ]
        if not files:
            raise ArgumentError(
                f"the folder {each} has no files whose names end with {', '.join(endings)}"
            )
        found += map(str, sorted(files, key=_natural_order))
    return found


def _ranges(name: str, before: int) -> Iterator[str]:
    match = _RANGE.search(name)
    if match is None:
        yield name
        return
    first, last = int(match[1]), int(match[2])
    count = (abs(last - first) + 1) * before
    if count > _MOST_FILES:
        raise ArgumentError(
            f"{name} stands for more than {_MOST_FILES:,} files: load fewer at a time"
        )
    padded = any(len(end) > 1 and end.startswith("0") for end in match.groups())
    width = max(map(len, match.groups())) if padded else 0
    step = 1 if first <= last else -1
    for number in range(first, last + step, step):
        filled = f"{name[: match.start()]}{number:0{width}d}{name[match.end() :]}"
        yield from _ranges(filled, count)


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts 2015-01-01-9 before 2015-01-01-10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part)
        for part in re.split(r"(\d+)", path.name)
    ]
