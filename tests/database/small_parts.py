"""Small files that are cut into parts as large ones are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from citus_analytics.ingest import parallel as parallel_module
from citus_analytics.ingest.parts import cut

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from citus_analytics.ingest.formats import Kind
    from citus_analytics.ingest.parts import Piece


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut small files into parts as well."""

    def cut_small(blocks: Iterable[bytes], kind: Kind, name: str, *, size: int) -> Iterator[Piece]:
        small = (block[i : i + 999] for block in blocks for i in range(0, len(block), 999))
        return cut(small, kind, name, size=20_000)

    monkeypatch.setattr(parallel_module, "cut", cut_small)
    monkeypatch.setattr("citus_analytics.ingest.files.PART_SIZE", 8)
