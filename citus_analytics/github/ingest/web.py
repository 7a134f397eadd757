"""Sources on the web: one request, and another for the rest where the connection breaks.

The answer is taken as the bytes that it is; nothing is asked to be compressed on the way.
"""

from __future__ import annotations

import http.client
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from citus_analytics.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Generator

_TIMEOUT: Final = 60.0
_BLOCK_SIZE: Final = 1 << 18
_PAUSES: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
# Too many requests, and what a server says when it is not at its best.
_WORTH_RETRYING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_BROKEN: Final = (http.client.HTTPException, OSError)
_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(\d+|\*)", re.ASCII | re.IGNORECASE)
_NO_RANGE: Final = re.compile(r"bytes \*/(\d+)", re.ASCII | re.IGNORECASE)


@dataclass(slots=True)
class _SoFar:
    """What came of a content, and what is known of it.

    Attributes:
        position: How many bytes came.
        total: How many there are, if anything says so.
        version: What tells it from a later content at the same address, if anything does.
    """

    position: int = 0
    total: int | None = None
    version: str | None = None

    def begin(self, answer: http.client.HTTPResponse, announced: int | None) -> None:
        """Note what an answer says of the content: of all of it, or of its rest."""
        if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
            # The answer with the rest need not say again what the first one said.
            self.version = self.version or _version(answer)
            self.total = _range(answer)[1] if self.total is None else self.total
        else:
            self.version = _version(answer)
            self.total = answer.length
            # A chunked answer has an end of its own; any other ends with the connection.
            if answer.length is None and not answer.chunked:
                self.total = announced

    def check_end(self) -> None:
        """Find out whether an answer that ended like a complete one ended too early."""
        if self.total is not None and self.position < self.total:
            raise http.client.IncompleteRead(b"", self.total - self.position)


@dataclass(frozen=True, slots=True)
class Address:
    """An http(s) address, whose answer can be read any number of times.

    Attributes:
        url: The address.
        pauses: How many seconds to wait before each further try; progress starts them anew.
        timeout: How many seconds a server may say nothing.
    """

    url: str
    pauses: tuple[float, ...] = _PAUSES
    timeout: float = _TIMEOUT

    def size(self) -> int | None:
        """Return the number of bytes, or None if the server does not say.

        Raises:
            LoadError: This is no address, or the server refuses or cannot be reached.
        """
        try:
            answer = self._open("HEAD", list(self.pauses), _SoFar())
        except HTTPError as error:
            # Some servers do not answer to HEAD, or refuse what is signed for GET.
            if error.code in (403, 405, 501):
                return None
            raise self._refused(error) from error
        with answer:
            return _number(answer.headers["Content-Length"])

    def blocks(self, announced: int | None = None) -> Generator[bytes]:
        """Yield the bytes of the answer.

        Args:
            announced: How many there should be, for an answer that does not say so itself.

        Raises:
            LoadError: This is no address, or the server refuses, cannot be reached or does not
                give all of the same content.
        """
        so_far = _SoFar()
        pauses = list(self.pauses)
        complete = False
        while not complete:
            try:
                with self._open("GET", pauses, so_far) as answer:
                    self._check_start(answer, so_far)
                    so_far.begin(answer, announced)
                    for block in _read(answer):
                        so_far.position += len(block)
                        pauses = list(self.pauses)
                        yield block
                so_far.check_end()
                complete = True
            except HTTPError as error:
                self._check_all_came(error, so_far)
                complete = True
            except _BROKEN as error:
                self._check_resumable(so_far, error)
                self._pause(pauses, error)

    def _request(self, method: str, so_far: _SoFar) -> Request:
        # `open_source` takes only http and https for addresses.
        request = Request(_quoted(self.url), method=method)  # noqa: S310
        request.add_header("User-Agent", "citus_analytics")
        if so_far.position and so_far.version:
            request.add_header("Range", f"bytes={so_far.position}-")
            request.add_header("If-Range", so_far.version)
        return request

    def _open(self, method: str, pauses: list[float], so_far: _SoFar) -> http.client.HTTPResponse:
        while True:
            try:
                answer: http.client.HTTPResponse = urlopen(  # noqa: S310
                    self._request(method, so_far), timeout=self.timeout
                )
            except HTTPError as error:
                if error.code not in _WORTH_RETRYING:
                    raise
                with error:
                    self._pause(pauses, error, _number(error.headers["Retry-After"]))
            # What is no address does not become one by waiting.
            except (ValueError, http.client.InvalidURL) as error:
                raise LoadError(
                    f"{self.url!r} is no address that can be read: {error}. Nothing of it was "
                    "loaded; an address is like https://host/path or http://host:8000/path."
                ) from error
            except _BROKEN as error:
                self._pause(pauses, error)
            else:
                return answer

    def _check_start(self, answer: http.client.HTTPResponse, so_far: _SoFar) -> None:
        """Refuse an answer that is not the rest, of the same content, where that was asked for."""
        partial = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        if not so_far.position and not partial:
            return
        start, total = _range(answer)
        if not partial or start != so_far.position:
            raise self._broke(
                so_far,
                "the server does not give the rest alone, or has another content by now",
            )
        version = _version(answer)
        other_size = None not in (total, so_far.total) and total != so_far.total
        if other_size or (so_far.version and version and version != so_far.version):
            raise self._broke(so_far, "the server has another content by now")

    def _check_resumable(self, so_far: _SoFar, error: Exception) -> None:
        """Refuse to ask for a rest that could be the rest of another content."""
        if so_far.position and not so_far.version:
            raise self._broke(
                so_far,
                "the server gives neither a strong ETag nor a Last-Modified, which would tell "
                "whether the rest belongs to the same content",
            ) from error

    def _check_all_came(self, error: HTTPError, so_far: _SoFar) -> None:
        """Refuse a refusal, unless the connection broke after the last byte: there is no rest."""
        if not so_far.position or error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise self._refused(error) from error
        with error:
            match = _NO_RANGE.fullmatch(error.headers["Content-Range"] or "")
            version = _version(error)
        size = int(match[1]) if match else None
        expected = so_far.position if so_far.total is None else so_far.total
        if size == so_far.position == expected and version in (None, so_far.version):
            return
        has = "no rest" if size is None else f"{size:,} bytes in all"
        raise self._broke(so_far, f"the server now says that it has {has}") from error

    def _broke(self, so_far: _SoFar, why: str) -> LoadError:
        return LoadError(
            f"{self.url}: the connection broke after {so_far.position:,} bytes, and {why}. Nothing "
            "was loaded; try again, or download the file first."
        )

    def _pause(self, pauses: list[float], error: Exception, asked: int | None = None) -> None:
        if not pauses:
            # What `urlopen` wraps says more than the wrapping.
            reason = error.reason if type(error) is URLError else error
            raise LoadError(
                f"{self.url} cannot be read: {reason}. Nothing of it was loaded; try again later."
            ) from error
        time.sleep(max(pauses.pop(0), min(asked or 0, _TIMEOUT)))

    def _refused(self, error: HTTPError) -> LoadError:
        with error:
            advice = "There may be no such file" if error.code in (404, 410) else "Nothing was read"
        return LoadError(
            f"{self.url}: the server answers {error.code} {error.reason}. {advice}; nothing was "
            "loaded."
        )


def _quoted(url: str) -> str:
    """Return an address as servers take it: what is quoted already, or a delimiter, stays."""
    return quote(url, safe="%/:?#[]@!$&'()*+,;=~")


def _version(answer: http.client.HTTPResponse | HTTPError) -> str | None:
    """Return what tells this content from a later one; weak tags do not tell its bytes apart."""
    tag: str | None = answer.headers["ETag"]
    return answer.headers["Last-Modified"] if tag is None or tag.startswith("W/") else tag


def _range(answer: http.client.HTTPResponse) -> tuple[int | None, int | None]:
    """Return where a part of a content starts, and how large all of it is."""
    match = _RANGE.fullmatch(answer.headers["Content-Range"] or "")
    return (int(match[1]), _number(match[2])) if match else (None, None)


def _read(answer: http.client.HTTPResponse) -> Generator[bytes]:
    while block := answer.read(_BLOCK_SIZE):
        yield block
    # `read` with a size says nothing of an answer that ends too early.
    if answer.length:
        raise http.client.IncompleteRead(b"", answer.length)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() else None
