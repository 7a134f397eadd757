r"""Loading any table at the speed of COPY, in the caller's transaction.

CSV in the layout of a table goes to the server as the bytes that it is, exactly as with psql's
`\copy rows from 'rows.csv' WITH CSV`. A malformed row is named by its line and column.

    with Session(engine) as session:
        load_csv(session, Reading, "readings.csv.gz")
        session.commit()

Rows come from a source (`citus_analytics.copy.source`): a path, a folder, a range of names, an
open file, an iterable of bytes, an address on the web; compressed or not.
"""

from __future__ import annotations

from citus_analytics.copy.csv import LoadResult, Progress, ProgressCallback, load_csv
from citus_analytics.copy.source import BinaryReader, Block, PathName, Source, expand

__all__ = [
    "BinaryReader",
    "Block",
    "LoadResult",
    "PathName",
    "Progress",
    "ProgressCallback",
    "Source",
    "expand",
    "load_csv",
]
