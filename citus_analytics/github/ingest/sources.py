"""Where rows come from: a file, a stream, a web server or blocks of bytes; or gzip around it.

A source becomes an `Input`, and an `Input` is read as blocks of content, which is CSV or JSON. Gzip
is known by its first two bytes, which no text in UTF-8 begins with, so that any kind of source may
be compressed.
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
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, runtime_checkable
from urllib.parse import urlsplit

from citus_analytics.errors import ArgumentError, LoadError
from citus_analytics.github.ingest.patterns import is_address
from citus_analytics.github.ingest.web import Address

if TYPE_CHECKING:
    from collections.abc import Generator

# Measured: smaller blocks cost time, larger ones gain nothing.
BLOCK_SIZE: Final = 1 << 18
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_OTHER_SCHEME: Final = re.compile(r"(?!https?:)([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


@runtime_checkable
class BinaryReader(Protocol):
    """What is needed of an open file: to read at most so many bytes, and none at the end."""

    def read(self, size: int, /) -> bytes:
        """Return some bytes, or none if there are no more."""


Block: TypeAlias = bytes | bytearray | memoryview
Source: TypeAlias = str | os.PathLike[str] | BinaryReader | Iterable[Block]


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A source that can be read.

    Attributes:
        name: What to call it in messages.
        blocks: Reads it from its start: bytes as they are stored, in blocks of any size.
        total_bytes: How many bytes that will be, or None if nobody knows.
        repeatable: Whether it can be read more than once.
        named_gzip: Whether its name promises gzip.
        first_line: The number of its first line, if it is a part of something.
    """

    name: str
    blocks: Callable[[], Iterator[Block]]
    total_bytes: int | None = None
    repeatable: bool = False
    named_gzip: bool = False
    first_line: int = 1


@dataclass(slots=True)
class Tally:
    """How much has been read: bytes as they are stored."""

    bytes: int = 0


def open_source(source: Source) -> Input:
    """Return the input behind a source; nothing is read yet.

    Raises:
        ArgumentError: The source is open in text mode, or is nothing that bytes come from.
        LoadError: There is no file at the path or address.
    """
    if source == "-":
        return _reader_input(sys.stdin.buffer, "standard input")
    if isinstance(source, str) and (scheme := _OTHER_SCHEME.match(source)):
        raise ArgumentError(
            f"{source!r} is an address of {scheme[1]}, and only those of http and https are read: "
            "fetch the file, and name its path."
        )
    if isinstance(source, str) and is_address(source):
        return _address_input(Address(source))
    if isinstance(source, str | os.PathLike):
        return _path_input(Path(source))
    if isinstance(source, Block):
        raise ArgumentError("the source is the bytes themselves: wrap it in io.BytesIO(...)")
    if isinstance(source, BinaryReader):
        return _reader_input(source, _name_of(source))
    if isinstance(source, Iterable):
        return Input(name="the iterable", blocks=lambda: iter(source))
    raise ArgumentError(
        "a source is a path, an http(s) address, '-', an open binary file or an iterable of bytes, "
        f"not {source!r}"
    )


def content_blocks(source: Input, tally: Tally) -> Generator[bytes]:
    """Read a source as blocks of content, and keep the tally.

    Raises:
        ArgumentError: The source gives something else than bytes.
        LoadError: A file cannot be read, or its gzip is damaged, cut short or none.
    """
    with closing(_gathered(source, tally)) as gathered:
        first = next(gathered, b"")
        blocks: Iterator[bytes] = chain((first,), gathered)
        if first.startswith(_GZIP_MAGIC):
            blocks = _inflated(blocks, source.name)
        elif source.named_gzip:
            raise LoadError(
                f"{source.name} is no gzip file: it begins with {first[:8]!r}. Load the "
                "complete file, or drop .gz from its name if it is not compressed."
            )
        yield from blocks


def watched(blocks: Iterable[bytes], watch: Callable[[bytes], object]) -> Iterator[bytes]:
    """Yield blocks, each after it has been shown."""
    for block in blocks:
        watch(block)
        yield block


def _address_input(address: Address) -> Input:
    size = address.size()
    return Input(
        name=address.url,
        blocks=lambda: address.blocks(size),
        total_bytes=size,
        repeatable=True,
        named_gzip=urlsplit(address.url).path.endswith(".gz"),
    )


def _path_input(path: Path) -> Input:
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    regular = stat.S_ISREG(status.st_mode)
    return Input(
        name=str(path),
        blocks=lambda: _path_blocks(path),
        total_bytes=status.st_size if regular else None,
        repeatable=regular,
        named_gzip=path.suffix == ".gz",
    )


def _path_blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb", buffering=0) as file:
            while block := file.read(BLOCK_SIZE):
                yield block
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> LoadError:
    return LoadError(
        f"{path} cannot be read: {error.strerror}. Nothing of it was loaded; check the path and "
        "its permissions."
    )


def _reader_input(reader: BinaryReader, name: str) -> Input:
    if isinstance(reader, io.TextIOBase):
        raise ArgumentError(
            f"{name} is open in text mode, but COPY takes the bytes as they are: open it with "
            "mode 'rb', or pass its .buffer"
        )
    start = _position(reader)

    def blocks() -> Iterator[bytes]:
        if start is not None and isinstance(reader, io.IOBase):
            reader.seek(start)
        while block := reader.read(BLOCK_SIZE):
            yield block

    return Input(
        name=name,
        blocks=blocks,
        total_bytes=None if start is None else _bytes_after(reader, start),
        repeatable=start is not None,
    )


def _name_of(reader: object) -> str:
    name = getattr(reader, "name", None)
    return name if isinstance(name, str) else f"the {type(reader).__name__}"


def _position(reader: object) -> int | None:
    """Return where a file stands, or None if it cannot come back to it."""
    if isinstance(reader, io.IOBase) and reader.seekable():
        return reader.tell()
    return None


def _bytes_after(reader: object, start: int) -> int | None:
    """Return how many bytes follow, where the file can tell without being read."""
    if isinstance(reader, io.BytesIO):
        return reader.getbuffer().nbytes - start
    # A file that decompresses has the descriptor, and so the size, of what it decompresses.
    raw = reader.raw if isinstance(reader, io.BufferedReader | io.BufferedRandom) else reader
    if isinstance(raw, io.FileIO) and stat.S_ISREG((status := os.fstat(raw.fileno())).st_mode):
        return status.st_size - start
    return None


def _gathered(source: Input, tally: Tally) -> Generator[bytes]:
    """Read blocks of a size worth sending, whatever the size in which they come."""
    parts: list[bytes] = []
    waiting = 0
    for block in source.blocks():
        if not isinstance(block, Block):
            raise ArgumentError(
                f"{source.name} must give bytes, but gave {type(block).__name__}: open files in "
                "binary mode, encode text as UTF-8"
            )
        parts.append(bytes(block))
        waiting += len(parts[-1])
        tally.bytes += len(parts[-1])
        if waiting >= BLOCK_SIZE // 2:
            yield b"".join(parts)
            parts.clear()
            waiting = 0
    if parts:
        yield b"".join(parts)


def _inflated(blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Decompress gzip of one or more members; never more than a block of content at a time."""
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
                if inflated := inflater.decompress(rest, BLOCK_SIZE):
                    yield inflated
                rest = inflater.unconsumed_tail or inflater.unused_data
        if inflated := inflater.flush():
            yield inflated
    except zlib.error as error:
        raise LoadError(
            f"{name} is a damaged gzip file ({error}). Nothing of it was loaded; get the file "
            "again."
        ) from error
    if not inflater.eof:
        raise LoadError(
            f"{name} is cut short: its gzip has no end. Nothing of it was loaded; get the "
            "complete file."
        )
