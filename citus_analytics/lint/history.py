"""What is known of the tables at one moment in a folder of migrations."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Column, MetaData, Table

from citus_analytics.lint.finding import Place
from citus_analytics.lint.reading import shape_of
from citus_analytics.lint.shape import PLACE, Spread, TableShape


@dataclass(slots=True)
class History:
    """What is known of the tables at one moment.

    Attributes:
        metadata: The tables, with where each part of them was created.
        spreads: How they are spread, by key; those that are not here are local.
        filled: The tables that got rows, by key, and where.
        triggers: The tables that have triggers, by key.
        unsafe_triggers: Whether the migration at hand lets Citus have triggers on shards.
    """

    metadata: MetaData = field(default_factory=MetaData)
    spreads: dict[str, Spread] = field(default_factory=dict)
    filled: dict[str, Place] = field(default_factory=dict)
    triggers: set[str] = field(default_factory=set)
    unsafe_triggers: bool = False
    _shapes: dict[str, TableShape] = field(default_factory=dict)

    def spread(self, key: str) -> Spread:
        """Return how a table is spread at the moment."""
        return self.spreads.get(key, Spread())

    def tables(self) -> dict[str, TableShape]:
        """Return all tables that are known, as the rules see them."""
        return {key: self._shape(key) for key in list(self.metadata.tables)}

    def table(self, key: str, place: Place) -> Table:
        """Return a table; one that no migration of the folder creates has no columns yet."""
        if key in self.metadata.tables:
            return self.metadata.tables[key]
        schema, _, name = key.rpartition(".")
        return Table(name, self.metadata, schema=schema or None, info={PLACE: place})

    def column(self, table: Table, name: str) -> Column[Any]:
        """Return a column of a table by its name; of one that is not known only the name is."""
        known = next((one for one in table.columns if one.name == name), None)
        if known is not None:
            return known
        column: Column[Any] = Column(name)
        table.append_column(column)
        return column

    def changed(self, key: str) -> None:
        """Forget what was known of a table that has changed."""
        self._shapes.pop(key, None)

    def forget_migration(self) -> None:
        """Note that a migration has ended, with its settings."""
        self.unsafe_triggers = False

    def rename(self, old: str, new: str) -> None:
        """Give a table another name."""
        table = self.metadata.tables[old]
        table.to_metadata(self.metadata, name=new.rpartition(".")[2])
        self.metadata.remove(table)
        self._shapes.clear()
        for known in (self.spreads, self.filled):
            if old in known:
                known[new] = known.pop(old)  # type: ignore[assignment]
        for key, spread in self.spreads.items():
            if spread.colocate_with == old.rpartition(".")[2]:
                self.spreads[key] = replace(spread, colocate_with=new.rpartition(".")[2])

    def _shape(self, key: str) -> TableShape:
        shape = self._shapes.get(key)
        if shape is None or shape.spread != self.spread(key):
            shape = shape_of(self.metadata.tables[key], self.spread(key))
            self._shapes[key] = shape
        return shape
