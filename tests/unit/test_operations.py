"""Operations as data: what undoes them, what they say, and the Python that they are written as."""

from __future__ import annotations

from citus_analytics.models import GITHUB_ROLLUP_1MIN
from citus_analytics.operations import (
    RollupSpec,
)

SPEC = RollupSpec.of(GITHUB_ROLLUP_1MIN)
