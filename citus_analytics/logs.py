"""Where the library says what is no error: what migrations notice and autogenerate finds."""

from __future__ import annotations

import logging
from typing import Final

_OWN: Final = logging.getLogger("citus_analytics")


def logger() -> logging.Logger:
    """Return the logger `citus_analytics`, or a child of Alembic's where that is switched off.

    The `env.py` that `alembic init` makes configures logging by a file, and that switches off all
    loggers which the file does not name; Alembic's it names.
    """
    return logging.getLogger("alembic.citus_analytics") if _OWN.disabled else _OWN
