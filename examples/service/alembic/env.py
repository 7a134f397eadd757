"""Alembic's environment."""

from __future__ import annotations

from citus_analytics.migrations import run_environment
from examples.service.models import Base

run_environment(Base.metadata)
