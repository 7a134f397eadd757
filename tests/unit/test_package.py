"""What `import citus_analytics` gives: its names, and values that cannot be changed."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import typing
from pathlib import Path

import pytest

import citus_analytics as ca
from citus_analytics.copy import LoadResult, Progress

DATACLASSES = [
    value
    for value in (getattr(ca, name) for name in ca.__all__)
    if isinstance(value, type) and dataclasses.is_dataclass(value)
]


def test_every_name_is_there_once() -> None:
    assert len(ca.__all__) == len(set(ca.__all__))
    assert [name for name in ca.__all__ if not hasattr(ca, name)] == []


def test_names_are_those_that_type_checkers_see() -> None:
    """They are imported on demand, each from the module that the package says."""
    tree = ast.parse(Path(ca.__file__).read_text())
    (checked,) = [node for node in tree.body if isinstance(node, ast.If)][:1]
    imports = [node for node in checked.body if isinstance(node, ast.ImportFrom)]
    found = {alias.name: node.module for node in imports for alias in node.names}
    # An application's own Base is not replaced by `from citus_analytics import *`.
    assert set(found) == {*ca.__all__, "Base"} > set(ca.__all__)
    for name, module in found.items():
        assert getattr(ca, name) is getattr(importlib.import_module(str(module)), name)
    assert set(found) <= set(dir(ca))
    with pytest.raises(AttributeError, match="has no attribute 'nonesuch'"):
        typing.cast("typing.Any", ca).nonesuch  # noqa: B018


def test_values_cannot_be_changed() -> None:
    assert {ca.RollupRun, ca.UserActivity} <= set(DATACLASSES)
    for kind in DATACLASSES:
        assert typing.cast("typing.Any", kind).__dataclass_params__.frozen, kind
        assert "__slots__" in vars(kind), kind


@pytest.mark.parametrize(
    "result", [ca.RollupRun, LoadResult, Progress, ca.HourlyCommits, ca.UserActivity]
)
def test_types_of_results_can_be_read_at_run_time(result: type) -> None:
    """Serialisers such as pydantic resolve annotations."""
    hints = typing.get_type_hints(result)
    assert set(hints) == {field.name for field in dataclasses.fields(result)}
