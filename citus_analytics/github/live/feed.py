"""Whose events are followed, and under which address GitHub has them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from citus_analytics.errors import ArgumentError

GITHUB: Final = "https://api.github.com"
"""The API of github.com."""

_NAME: Final = r"[A-Za-z0-9_.-]+"
_DOTS: Final = (".", "..")


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """The events of a repository, an organization or a user; without any, all public events.

    Attributes:
        repo: A repository, as owner/name.
        org: The name of an organization.
        user: The login of a user: what this user did.
        api: Where the API is; of GitHub Enterprise Server, https://HOSTNAME/api/v3.

    Raises:
        ArgumentError: More than one of them is given, or one is no such name or address.
    """

    repo: str | None = None
    org: str | None = None
    user: str | None = None
    api: str = GITHUB

    def __post_init__(self) -> None:
        given = {"repo": self.repo, "org": self.org, "user": self.user}
        names = {name: value for name, value in given.items() if value is not None}
        if len(names) > 1:
            raise ArgumentError(
                "a feed is of a repository, of an organization or of a user, not of several: "
                f"{', '.join(names)} are given"
            )
        for name, value in names.items():
            parts = value.split("/")
            if len(parts) != (2 if name == "repo" else 1) or not all(map(_is_name, parts)):
                raise ArgumentError(
                    f"{name} is {value!r}, which is no {'owner/name' if name == 'repo' else 'name'}"
                )
        _check_api(self.api)

    @property
    def address(self) -> str:
        """The address of the feed."""
        whose = (
            (f"repos/{self.repo}", self.repo),
            (f"orgs/{self.org}", self.org),
            (f"users/{self.user}", self.user),
        )
        path = next((f"{path}/events" for path, name in whose if name is not None), "events")
        return f"{self.api.rstrip('/')}/{path}"


def _is_name(text: str) -> bool:
    return text not in _DOTS and re.fullmatch(_NAME, text) is not None


def _check_api(api: str) -> None:
    try:
        parts = urlsplit(api)
        # Asked for, a port that is no number is refused.
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or "@" in api or "?" in api or "#" in api or not api.isprintable() or " " in api:
        raise ArgumentError(
            f"the address of the API is {api!r}; write it like {GITHUB} or, for GitHub Enterprise "
            "Server, https://HOSTNAME/api/v3"
        )
