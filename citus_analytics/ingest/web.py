"""Sources on the web: one request, and another for the rest where the connection breaks.

The answer is taken as the bytes that it is; nothing is asked to be compressed on the way.
"""

from __future__ import annotations

import http.client
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.error import HTTPError, URLError
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
            LoadError: The server refuses, or cannot be reached.
        """
        try:
            answer = self._open(self._request("HEAD"), list(self.pauses))
        except HTTPError as error:
            # Some servers do not answer to HEAD, or refuse what is signed for GET.
            if error.code in (403, 405, 501):
                return None
            raise self._refused(error) from error
        with answer:
            return _number(answer.headers["Content-Length"])

    def blocks(self) -> Generator[bytes]:
        """Yield the bytes of the answer.

        Raises:
            LoadError: The server refuses, cannot be reached, or does not give all of them.
        """
        position = 0
        version: str | None = None
        pauses = list(self.pauses)
        complete = False
        while not complete:
            try:
                with self._open(self._request("GET", position, version), pauses) as answer:
                    version = _version(answer)
                    self._check_start(answer, position)
                    for block in _read(answer):
                        position += len(block)
                        pauses = list(self.pauses)
                        yield block
                complete = True
            except HTTPError as error:
                raise self._refused(error) from error
            except _BROKEN as error:
                self._pause(pauses, error)

    def _request(self, method: str, position: int = 0, version: str | None = None) -> Request:
        # `open_source` takes only http and https for addresses.
        request = Request(self.url, method=method)  # noqa: S310
        request.add_header("User-Agent", "citus_analytics")
        if position:
            request.add_header("Range", f"bytes={position}-")
            if version:
                request.add_header("If-Range", version)
        return request

    def _open(self, request: Request, pauses: list[float]) -> http.client.HTTPResponse:
        while True:
            try:
                answer: http.client.HTTPResponse = urlopen(  # noqa: S310
                    request, timeout=self.timeout
                )
            except HTTPError as error:
                if error.code not in _WORTH_RETRYING:
                    raise
                with error:
                    self._pause(pauses, error, _number(error.headers["Retry-After"]))
            except _BROKEN as error:
                self._pause(pauses, error)
            else:
                return answer

    def _check_start(self, answer: http.client.HTTPResponse, position: int) -> None:
        """Refuse an answer that begins anew where its rest was asked for."""
        if position and answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            raise LoadError(
                f"{self.url}: the connection broke after {position:,} bytes, and the server does "
                "not give the rest alone, or has another content by now. Nothing was loaded; try "
                "again, or download the file first."
            )

    def _pause(self, pauses: list[float], error: Exception, asked: int | None = None) -> None:
        if not pauses:
            # What `urlopen` wraps says more than the wrapping.
            reason = error.reason if type(error) is URLError else error
            raise LoadError(
                f"{self.url} cannot be read: {reason}. Nothing was loaded; try again later."
            ) from error
        time.sleep(max(pauses.pop(0), min(asked or 0, _TIMEOUT)))

    def _refused(self, error: HTTPError) -> LoadError:
        with error:
            advice = "There may be no such file" if error.code in (404, 410) else "Nothing was read"
        return LoadError(
            f"{self.url}: the server answers {error.code} {error.reason}. {advice}; nothing was "
            "loaded."
        )


def _version(answer: http.client.HTTPResponse) -> str | None:
    """Return what tells this content from a later one; weak tags do not tell its bytes apart."""
    tag = answer.headers["ETag"]
    return answer.headers["Last-Modified"] if tag is None or tag.startswith("W/") else tag


def _read(answer: http.client.HTTPResponse) -> Generator[bytes]:
    while block := answer.read(_BLOCK_SIZE):
        yield block
    # `read` with a size says nothing of an answer that ends too early.
    if answer.length:
        raise http.client.IncompleteRead(b"", answer.length)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() else None
