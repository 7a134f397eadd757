"""One request to GitHub's API, and its answer in full or not at all.

The token goes to the host of the feed and to no other one, whatever a redirect says.
"""

from __future__ import annotations

import http.client
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Final
from urllib.error import URLError
from urllib.request import HTTPErrorProcessor, HTTPRedirectHandler, Request, build_opener

from citus_analytics.github.live.answers import Answer, no_answer, read_answer, same_origin

if TYPE_CHECKING:
    from http.client import HTTPMessage, HTTPResponse

_BLOCK_SIZE: Final = 1 << 16
# A hundred events have a few hundred kilobytes.
_LARGEST: Final = 1 << 26
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Asks GitHub's API.

    Attributes:
        token: A token of GitHub's, or None.
        timeout: How many seconds a server may say nothing, and an answer may take in all.
    """

    token: str | None
    timeout: float

    def get(self, url: str, etag: str | None) -> Answer:
        """Return the answer, or that there was none; of what goes wrong, nothing is raised.

        Args:
            url: An http(s) address.
            etag: The tag of an earlier answer, to be told if nothing has changed.
        """
        deadline = time.monotonic() + self.timeout
        opener = build_opener(_Redirects(), _AllAnswers())
        try:
            with opener.open(self._request(url, etag), timeout=self.timeout) as answer:
                body = _body(answer, deadline)
                return read_answer(answer.status, answer.headers, body, datetime.now(UTC))
        except (http.client.HTTPException, OSError, ValueError) as error:
            # ValueError is what urllib and idna have to say of where a redirect leads.
            # What `open` wraps says more than the wrapping.
            reason = error.reason if type(error) is URLError else error
            return no_answer(reason if str(reason) else repr(reason))

    def _request(self, url: str, etag: str | None) -> Request:
        request = Request(url)  # noqa: S310 - the feed takes only http and https
        request.add_header("User-Agent", "citus_analytics")
        request.add_header("Accept", "application/vnd.github+json")
        request.add_header("X-GitHub-Api-Version", "2022-11-28")
        if etag is not None:
            request.add_header("If-None-Match", etag)
        if self.token is not None:
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")
        return request


class _AllAnswers(HTTPErrorProcessor):
    """Lets every answer through: which of them are errors is not for urllib to say."""

    def http_response(self, request: Request, response: HTTPResponse) -> HTTPResponse:
        if response.status not in _REDIRECTS:
            return response
        try:
            followed: HTTPResponse = super().http_response(request, response)
        except Exception:
            response.close()
            raise
        return followed

    https_response = http_response


class _Redirects(HTTPRedirectHandler):
    """Follows redirects, as those of a repository that was renamed."""

    def redirect_request(
        self,
        req: Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> Request | None:
        redirected = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.unredirected_hdrs.get("Authorization")
        if redirected and token and same_origin(req.full_url, newurl):
            redirected.add_unredirected_header("Authorization", token)
        return redirected


def _body(answer: HTTPResponse, deadline: float) -> bytes:
    expected = answer.length
    body = bytearray()
    while expected is None or len(body) < expected:
        block = answer.read1(_BLOCK_SIZE)
        if not block:
            break
        body += block
        # The time out of a socket says nothing of bytes that come one by one.
        if time.monotonic() > deadline:
            raise TimeoutError("the answer takes too long")
        if len(body) > _LARGEST:
            raise OSError(f"the answer is longer than {_LARGEST:,} bytes")
    if expected is not None and len(body) < expected:
        raise http.client.IncompleteRead(bytes(body), expected - len(body))
    return bytes(body)
