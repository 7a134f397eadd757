"""Alembic's environment: where to migrate, and what to compare with."""

from __future__ import annotations

from citus_analytics.github.models import Base
from citus_analytics.migrations import run_environment

run_environment(Base.metadata)
