"""What works without extras, and what is said where it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

# As if neither of them was installed.
WITHOUT = "import sys\nsys.modules.update(msgspec=None, httpx=None)\n"


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_and_csv_need_no_extra() -> None:
    program = (
        "import citus_analytics, citus_analytics.copy, citus_analytics.cli\n"
        "from citus_analytics.copy.source import open_source\n"
        "print(b''.join(open_source(['a', b'1,one'][1:]).content()))\n"
    )
    assert run(WITHOUT + program) == "b'1,one'\n"
    # Where they are installed, nobody pays for them before they are needed.
    loaded = run("import citus_analytics, sys; print(*sys.modules)").split()
    assert not {"msgspec", "httpx"} & set(loaded)


@pytest.mark.parametrize(
    ("call", "package"),
    [
        ("open_source('https://host/events.csv')", "httpx"),
        ("convert_event({})", "msgspec"),
        ("read_events([b'{}'], 'events')", "msgspec"),
    ],
)
def test_the_extra_is_named_where_it_is_missing(call: str, package: str) -> None:
    program = (
        "from citus_analytics import LoadError\n"
        "from citus_analytics.copy.source import open_source\n"
        "try:\n"
        "    if 'open_source' not in CALL:\n"
        "        from citus_analytics.github.convert import convert_event, read_events\n"
        "    eval(CALL)\n"
        "except LoadError as error:\n"
        "    print(error)\n"
    ).replace("CALL", repr(call))
    said = run(WITHOUT + program)
    assert f"{package}, which is not installed" in said
    assert "pip install 'citus_analytics[github]'" in said


@pytest.mark.parametrize(
    ("call", "package", "extra"),
    [
        ("to_arrow([], of=UserActivity)", "pyarrow", "arrow"),
        ("to_arrow_batches([], of=UserActivity)", "pyarrow", "arrow"),
        ("to_polars([], of=UserActivity)", "polars", "polars"),
        ("to_pandas([], of=UserActivity)", "pandas", "pandas"),
    ],
)
def test_a_frame_names_the_extra_that_it_needs(call: str, package: str, extra: str) -> None:
    program = (
        "import sys\n"
        f"sys.modules[{package!r}] = None\n"
        "from citus_analytics import MissingPackageError, UserActivity\n"
        "from citus_analytics.frames import to_arrow, to_arrow_batches, to_pandas, to_polars\n"
        "assert not {'pyarrow', 'polars', 'pandas'} & {n for n in sys.modules if sys.modules[n]}\n"
        "try:\n"
        f"    {call}\n"
        "except MissingPackageError as error:\n"
        "    assert isinstance(error, ImportError)\n"
        "    print(error)\n"
    )
    said = run(program)
    assert f"{package}, which is not installed" in said
    assert f"pip install 'citus_analytics[{extra}]'" in said


def test_the_fixtures_name_the_extra_that_they_need() -> None:
    program = (
        "import sys\n"
        "sys.modules.update(pytest=None)\n"
        "try:\n"
        "    import citus_analytics.testing\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    assert "pip install 'citus_analytics[testing]'" in run(program)
