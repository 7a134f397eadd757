"""Sources on the web: one request, and another one for the rest where the connection breaks.

The answer is taken as the bytes that it is: no compression on the way is asked for. The rest is
asked for only where a strong ETag or a Last-Modified tells whether it belongs to the same content.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import unquote

from citus_analytics.copy.source import without_password
from citus_analytics.errors import LoadError

try:
    import httpx
except ImportError as error:
    raise LoadError(
        "sources on the web are read with httpx, which is not installed: install the extra github, "
        "as in pip install 'citus_analytics[github]', or download the file first."
    ) from error

if TYPE_CHECKING:
    from collections.abc import Generator

_TIMEOUT: Final = 60.0
_PAUSES: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
_PARTIAL: Final = 206
_NO_SUCH_RANGE: Final = 416
# Timeouts, too many requests, and failures of servers that may pass.
_WORTH_RETRYING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(\d+|\*)", re.ASCII | re.IGNORECASE)
_NO_RANGE: Final = re.compile(r"bytes \*/(\d+)", re.ASCII | re.IGNORECASE)
_HEADERS: Final = {"User-Agent": "citus_analytics", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Address:
    """An http(s) address, whose answer can be read any number of times.

    Attributes:
        url: The address; a user and password in it are sent to its server alone, and shown nowhere.
        pauses: How many seconds to wait before each further try; progress starts them anew.
        timeout: How many seconds a server may be silent.
    """

    url: str
    pauses: tuple[float, ...] = _PAUSES
    timeout: float = _TIMEOUT

    def size(self) -> int | None:
        """Return the number of bytes, or None if the server does not say.

        Raises:
            LoadError: The address is malformed, or the server refuses or cannot be reached.
        """
        with self._client() as client:
            answer = self._ask(client, "HEAD", {}, list(self.pauses))
        # Some servers do not answer to HEAD, or refuse what is signed for GET.
        if answer.status_code in (403, 405, 501):
            return None
        if not answer.is_success:
            self._refuse(answer)
        return _number(answer.headers.get("Content-Length"))

    def blocks(self, announced: int | None = None) -> Generator[bytes]:
        """Yield the bytes of the answer.

        Args:
            announced: How many there should be, for an answer that does not say so itself.

        Raises:
            LoadError: The address is malformed, or the server refuses, cannot be reached or does
                not give all of the same content.
        """
        position = 0
        # The size of the content and what tells it from a later one, as far as they are known.
        total: int | None = None
        version: str | None = None
        pauses = list(self.pauses)
        with self._client() as client:
            while True:
                headers = {}
                if position and version:
                    headers = {"Range": f"bytes={position}-", "If-Range": version}
                answer = self._ask(client, "GET", headers, pauses)
                try:
                    if position and answer.status_code == _NO_SUCH_RANGE:
                        # The connection broke after the last byte: there is no rest.
                        self._check_all_came(answer, position, total, version)
                        return
                    if not answer.is_success:
                        self._refuse(answer)
                    if position or answer.status_code == _PARTIAL:
                        self._check_rest(answer, position, total, version)
                        # An answer with the rest need not repeat what the first one said.
                        version = version or _version(answer)
                        total = _range(answer)[1] if total is None else total
                    else:
                        version = _version(answer)
                        total = _number(answer.headers.get("Content-Length"))
                        # A chunked answer has an end of its own; without a length, any other ends
                        # with the connection.
                        if total is None and "Transfer-Encoding" not in answer.headers:
                            total = announced
                    for block in answer.iter_raw():
                        position += len(block)
                        pauses = list(self.pauses)
                        yield block
                    if total is None or position >= total:
                        if not position:
                            raise LoadError(
                                f"{self.shown}: the server answers {answer.status_code} "
                                f"{answer.reason_phrase}, with nothing in it. Nothing was loaded; "
                                "look at the address."
                            )
                        return
                    broken: Exception = OSError(f"its last {total - position:,} bytes are missing")
                except httpx.TransportError as error:
                    broken = error
                finally:
                    answer.close()
                if position and version is None:
                    self._refuse_rest(
                        position,
                        "the server gives neither a strong ETag nor a Last-Modified, which would "
                        "tell whether the rest belongs to the same content",
                    )
                self._pause(pauses, broken)

    @property
    def shown(self) -> str:
        """The address as it may be shown."""
        return without_password(self.url)

    def _client(self) -> httpx.Client:
        # httpx itself takes no password with a character that should be quoted.
        host = self.url.partition("://")[2].partition("/")[0]
        user, _, password = host.rpartition("@")[0].partition(":")
        return httpx.Client(
            auth=(unquote(user), unquote(password)) if user or password else None,
            headers=_HEADERS,
            timeout=self.timeout,
            follow_redirects=True,
        )

    def _ask(
        self, client: httpx.Client, method: str, headers: dict[str, str], pauses: list[float]
    ) -> httpx.Response:
        """Return an answer whose body is still to be read, unless it is worth trying again."""
        while True:
            try:
                request = client.build_request(method, self.shown, headers=headers)
                answer = client.send(request, stream=True)
            # Waiting does not make a malformed address a good one.
            except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError) as error:
                raise LoadError(
                    f"{self.shown!r} is not an address that can be read: {error}. Nothing of it "
                    "was loaded; an address is like https://host/path or http://host:8000/path."
                ) from error
            except httpx.RequestError as error:
                self._pause(pauses, error)
            else:
                if answer.status_code not in _WORTH_RETRYING:
                    return answer
                answer.close()
                asked = _number(answer.headers.get("Retry-After")) or 0
                said = f"the server answers {answer.status_code} {answer.reason_phrase}"
                self._pause(pauses, OSError(said), least=min(asked, _TIMEOUT))

    def _pause(self, pauses: list[float], error: Exception, *, least: float = 0.0) -> None:
        """Wait before the next try, or give up after the last."""
        if not pauses:
            # Some errors of httpx have no message.
            reason = str(error) or type(error).__name__
            raise LoadError(
                f"{self.shown} cannot be read: {reason}. Nothing of it was loaded; try again later."
            ) from error
        time.sleep(max(pauses.pop(0), least))

    def _refuse(self, answer: httpx.Response) -> NoReturn:
        missing = answer.status_code in (404, 410)
        advice = "There may be no such file" if missing else "Nothing was read"
        raise LoadError(
            f"{self.shown}: the server answers {answer.status_code} {answer.reason_phrase}. "
            f"{advice}; nothing was loaded."
        )

    def _refuse_rest(self, position: int, why: str) -> NoReturn:
        raise LoadError(
            f"{self.shown}: the connection broke after {position:,} bytes, and {why}. Nothing was "
            "loaded; try again, or download the file first."
        )

    def _check_rest(
        self, answer: httpx.Response, position: int, total: int | None, version: str | None
    ) -> None:
        """Refuse an answer that is not the rest of the same content."""
        start, size = _range(answer)
        if answer.status_code != _PARTIAL or start != position:
            self._refuse_rest(
                position, "the server does not give the rest alone, or has another content by now"
            )
        other = _version(answer)
        if (None not in (size, total) and size != total) or (
            version is not None and other is not None and other != version
        ):
            self._refuse_rest(position, "the server has another content by now")

    def _check_all_came(
        self, answer: httpx.Response, position: int, total: int | None, version: str | None
    ) -> None:
        """Refuse an answer that there is no rest, unless all of this content has come."""
        match = _NO_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        size = int(match[1]) if match else None
        complete = size == position == (position if total is None else total)
        if not complete or _version(answer) not in (None, version):
            has = "no rest" if size is None else f"{size:,} bytes in all"
            self._refuse_rest(position, f"the server now says that it has {has}")


def _version(answer: httpx.Response) -> str | None:
    """Return what tells this content from a later one; weak tags do not tell its bytes apart."""
    tag: str | None = answer.headers.get("ETag")
    return answer.headers.get("Last-Modified") if tag is None or tag.startswith("W/") else tag


def _range(answer: httpx.Response) -> tuple[int | None, int | None]:
    """Return where a part of a content starts, and how large all of it is."""
    match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    return (int(match[1]), _number(match[2])) if match else (None, None)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() else None
