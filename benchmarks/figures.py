"""What a benchmark finds, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Bound: TypeAlias = Literal["at most", "at least"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number with what is promised of it."""

    name: str
    value: float
    bound: Bound
    promised: float

    @property
    def kept(self) -> bool:
        """Whether the promise is kept."""
        if self.bound == "at most":
            return self.value <= self.promised
        return self.value >= self.promised


def as_table(found: dict[str, list[Figure]]) -> str:
    """Return a line for each figure, in aligned columns, below a line of titles."""
    rows = [("benchmark", "figure", "", "promised", "kept")] + [
        (
            benchmark,
            figure.name,
            _number(figure.value),
            f"{figure.bound} {_number(figure.promised)}",
            "yes" if figure.kept else "NO",
        )
        for benchmark, figures in found.items()
        for figure in figures
    ]
    name, what, value, promised, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        f"{row[0]:<{name}}  {row[1]:<{what}}  {row[2]:>{value}}  {row[3]:<{promised}}  {row[4]}"
        for row in rows
    )


def as_records(found: dict[str, list[Figure]]) -> list[dict[str, object]]:
    """Return the figures in the types of JSON."""
    return [
        {
            "benchmark": benchmark,
            "figure": figure.name,
            "value": figure.value,
            "bound": figure.bound,
            "promised": figure.promised,
            "kept": figure.kept,
        }
        for benchmark, figures in found.items()
        for figure in figures
    ]


def _number(value: float) -> str:
    return f"{value:,.2f}" if value < 10 else f"{value:,.0f}"
