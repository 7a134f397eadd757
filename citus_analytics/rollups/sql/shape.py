"""What a rollup's machinery looks like in a database that has it whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """The parts of a rollup's machinery that a database can be asked about.

    Attributes:
        functions: The body of each function, by its name.
        triggers: The table and the name of each trigger that is enabled.
    """

    functions: Mapping[str, str]
    triggers: frozenset[tuple[str, str]]

    def faults(self, found: Shape) -> tuple[str, ...]:
        """Return in words what is missing or different in what a database was found to have."""
        functions = (
            f"function {name} {'has been changed' if name in found.functions else 'is missing'}"
            for name, body in self.functions.items()
            if found.functions.get(name) != body
        )
        triggers = (
            f"trigger {name} on {table} is missing or disabled"
            for table, name in sorted(self.triggers - found.triggers)
        )
        return (*functions, *triggers)
