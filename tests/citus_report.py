"""The line at the end of a run that says what it has, and has not, tested on Citus.

A run that skips every test of distribution looks as green as one that passes them all. So every
run says which it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNKNOWN = "version unknown"
_UNTESTED = "Nothing about distribution has been tested by this run."


@dataclass(slots=True)
class CitusReport:
    """What happened to the Citus tests of one run.

    Attributes:
        selected: The ids of the tests that need Citus.
        ran: The ids of those that came as far as their own code.
        unavailable: Whether this machine has no Citus.
        version: The versions that they ran on.
    """

    selected: set[str] = field(default_factory=set)
    ran: set[str] = field(default_factory=set)
    unavailable: bool = False
    version: str = _UNKNOWN

    def mark(self, items: list[pytest.Item]) -> None:
        """Mark the tests that need Citus with `citus`."""
        for item in filter(_needs_citus, items):
            item.add_marker("citus")

    def select(self, items: list[pytest.Item]) -> None:
        """Note which tests need Citus among those that will run."""
        self.selected.update(item.nodeid for item in items if item.get_closest_marker("citus"))

    def note(self, report: pytest.TestReport) -> None:
        """Note a test that came as far as its own code, and did not skip itself there."""
        if report.when == "call" and not report.skipped:
            self.ran.add(report.nodeid)

    def seen(self) -> dict[str, list[str] | bool | str]:
        """Return what a worker of pytest-xdist has seen, in types that it can send."""
        return {
            "selected": sorted(self.selected),
            "unavailable": self.unavailable,
            "version": self.version,
        }

    def add(self, seen: Mapping[str, Any]) -> None:
        """Add what a worker has seen."""
        self.selected.update(seen["selected"])
        self.unavailable = self.unavailable or seen["unavailable"]
        if seen["version"] != _UNKNOWN:
            self.version = seen["version"]

    def summary(self) -> str:
        """Return the line."""
        count = len(self.selected)
        if count == 0:
            return f"Citus: no Citus test was selected. {_UNTESTED}"
        if self.unavailable:
            return (
                f"Citus: not installed on this machine, so {_tests(count)} "
                f"{'was' if count == 1 else 'were'} SKIPPED. {_UNTESTED}"
            )
        ran = len(self.selected & self.ran)
        if ran == 0:
            return f"Citus: none of the {_tests(count)} ran. {_UNTESTED}"
        others = f" {_tests(count - ran)} did not run." if ran < count else ""
        clusters = "a coordinator and two workers, or on a single node"
        return f"Citus: {_tests(ran)} ran on {clusters} ({self.version}).{others}"


REPORT = pytest.StashKey[CitusReport]()


def _needs_citus(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function):
        return False
    # `citus`, `single_node_citus` and `breakable_citus`, used directly or as the `server`.
    names = [*item.fixturenames]
    if hasattr(item, "callspec"):
        names.append(str(item.callspec.params.get("server")))
    return any(name.endswith("citus") for name in names)


def _tests(count: int) -> str:
    return f"{count} Citus test{'' if count == 1 else 's'}"
