"""Alembic's environment: where to migrate, and what to compare with."""

from __future__ import annotations

from citus_analytics.migrations import run_environment
from citus_analytics.models import Base

run_environment(Base.metadata)
