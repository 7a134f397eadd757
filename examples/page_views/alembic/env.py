"""Alembic's environment."""

from __future__ import annotations

from citus_analytics.migrations import run_environment
from examples.page_views.models import Base

run_environment(Base.metadata)
