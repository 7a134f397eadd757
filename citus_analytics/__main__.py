"""The command line `citus-analytics`: the commands of the core and those of GitHub's events.

`python -m citus_analytics` is the same, wherever the script is not on the path.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit code of the process.

    Args:
        argv: The arguments after the name of the program; None for those of the process.

    Raises:
        SystemExit: The arguments are wrong, or ask for help or the version.
    """
    try:
        # Here, because they take a moment, in which Ctrl-C ends the program without a traceback.
        from citus_analytics import __version__
        from citus_analytics.cli.commands import (
            add_explain,
            add_grafana,
            add_lint,
            add_rollups,
            add_status,
        )
        from citus_analytics.cli.main import run
        from citus_analytics.github.cli import add_follow, add_load, add_migrate, add_query
        from citus_analytics.github.demo import add_demo

        return run(
            argv,
            version=__version__,
            commands=(
                add_demo,
                add_migrate,
                add_load,
                add_follow,
                partial(add_rollups, metadata="citus_analytics.github.models:Base"),
                add_query,
                add_status,
                partial(add_grafana, metadata="citus_analytics.github.models:Base"),
                add_explain,
                add_lint,
            ),
        )
    except KeyboardInterrupt:
        sys.stderr.write("citus-analytics: interrupted\n")
        # As a shell reports a program that SIGINT has ended.
        return 130


if __name__ == "__main__":
    sys.exit(main())
