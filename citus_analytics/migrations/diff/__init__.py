"""From what is declared and what a database has to the operations in between.

Pure: no database is asked. Alembic's own comparison says which tables are created, changed and
dropped; this adds how they are distributed and rolled up, and puts all of it into an order that
Citus accepts:

1. rollups and foreign keys that go are dropped;
2. each table is created, stored and distributed, then indexed, and comes after the table that it
   is colocated with;
3. foreign keys are added, then rollups.

What is not declared is not compared: a table without a distribution, or without a
`postgresql_using`, is left as it is. Write `Local()` or `postgresql_using="heap"` to have it so.
"""

from __future__ import annotations

from citus_analytics.migrations.diff.plan import plan
from citus_analytics.migrations.diff.state import (
    Declared,
    DeclaredTable,
    ForeignKey,
    Live,
    TableKey,
)

__all__ = ["Declared", "DeclaredTable", "ForeignKey", "Live", "TableKey", "plan"]
