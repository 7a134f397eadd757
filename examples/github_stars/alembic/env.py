"""Alembic's environment: the application's tables, and those of the library."""

from __future__ import annotations

import citus_analytics
from citus_analytics.migrations import run_environment
from examples.github_stars.models import Base

run_environment([Base.metadata, citus_analytics.Base.metadata])
