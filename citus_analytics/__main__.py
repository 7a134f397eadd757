"""`python -m citus_analytics` is the command line, wherever its script is not on the path."""

from __future__ import annotations

import sys

from citus_analytics.cli import main

if __name__ == "__main__":
    sys.exit(main())
