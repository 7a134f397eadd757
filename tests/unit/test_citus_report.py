"""The line about Citus at the end of a run, which must not claim more than was tested."""

from __future__ import annotations

import pytest

from tests.citus_report import CitusReport

VERSION = "Citus 13.2, PostgreSQL 15.18"
CLUSTERS = "a coordinator and two workers, or on a single node"
UNTESTED = "Nothing about distribution has been tested by this run."


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (CitusReport(), f"Citus: no Citus test was selected. {UNTESTED}"),
        (
            CitusReport(selected={"a", "b"}, unavailable=True),
            "Citus: not installed on this machine, so 2 Citus tests were SKIPPED. " + UNTESTED,
        ),
        (
            CitusReport(selected={"a"}, unavailable=True),
            "Citus: not installed on this machine, so 1 Citus test was SKIPPED. " + UNTESTED,
        ),
        (
            CitusReport(selected={"a", "b"}, ran={"c"}, version=VERSION),
            f"Citus: none of the 2 Citus tests ran. {UNTESTED}",
        ),
        (
            CitusReport(selected={"a", "b"}, ran={"a", "b", "c"}, version=VERSION),
            f"Citus: 2 Citus tests ran on {CLUSTERS} ({VERSION}).",
        ),
        (
            CitusReport(selected={"a", "b", "c"}, ran={"a", "b"}, version=VERSION),
            f"Citus: 2 Citus tests ran on {CLUSTERS} ({VERSION}). 1 Citus test did not run.",
        ),
    ],
)
def test_summary(report: CitusReport, line: str) -> None:
    assert report.summary() == line
