"""Fixtures that all tests share, and the line about Citus at the end of every run."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from sqlalchemy import NullPool, create_engine
from sqlalchemy.orm import Session

from tests.autogenerate import Application
from tests.citus_report import REPORT, CitusReport
from tests.github_api import GitHub, playing
from tests.servers import citus_binaries, running

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from sqlalchemy import URL, Connection, Engine

    from tests.servers import DatabaseServer, Prepared


_MEMORY = Path("/dev/shm")
_ENOUGH = 6 << 30


# An example that takes a fifth of a second has met a busy machine, and no fault.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# In the background of a shell Ctrl-C is ignored, and would be by the programs that the tests start
# and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory that every account can enter, unlike root's `tmp_path`."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all processes of this run know."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return tmp_path_factory.getbasetemp().parent
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="session")
def postgres(home: Path) -> Iterator[DatabaseServer]:
    """A plain PostgreSQL."""
    with running("postgresql", home) as server:
        yield server


@pytest.fixture(scope="session")
def citus_programs(pytestconfig: pytest.Config) -> None:
    """Skips where no PostgreSQL has Citus."""
    if citus_binaries() is None:
        pytestconfig.stash[REPORT].unavailable = True
        pytest.skip("no PostgreSQL of this machine has the extension citus")


@pytest.fixture(scope="session")
def citus(
    citus_programs: None, home: Path, pytestconfig: pytest.Config
) -> Iterator[DatabaseServer]:
    """A Citus cluster: a coordinator and two workers."""
    with running("citus", home) as server:
        pytestconfig.stash[REPORT].version = server.version
        yield server


@pytest.fixture(scope="session")
def single_node_citus(citus: DatabaseServer) -> Iterator[DatabaseServer]:
    """A Citus of one node: a coordinator that has the shards itself."""
    with citus.one_node() as server:
        yield server


@pytest.fixture(scope="session")
def breakable_citus(
    citus_programs: None,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> Iterator[DatabaseServer]:
    """A cluster like `citus` that no other process uses, for tests that kill its nodes."""
    with running("citus", tmp_path_factory.mktemp("breakable")) as server:
        pytestconfig.stash[REPORT].version = server.version
        yield server


@pytest.fixture(scope="session", params=["postgresql", "citus"])
def server(request: pytest.FixtureRequest) -> DatabaseServer:
    """The plain PostgreSQL, then the Citus cluster: whatever uses it runs on both."""
    name = "postgres" if request.param == "postgresql" else request.param
    server: DatabaseServer = request.getfixturevalue(name)
    return server


@pytest.fixture
def empty_database(server: DatabaseServer) -> Iterator[URL]:
    """The address of a new, empty database."""
    with server.database("empty") as url:
        yield url


@pytest.fixture
def application(empty_database: URL, tmp_path: Path) -> Application:
    """An application on a new, empty database, without a migration yet."""
    return Application(empty_database, tmp_path / "migrations")


@pytest.fixture
def database(server: DatabaseServer) -> Iterator[URL]:
    """The address of a new database, migrated to the newest revision."""
    with server.database("migrated") as url:
        yield url


@pytest.fixture
def engine(database: URL) -> Iterator[Engine]:
    """An engine on `database`, which keeps its connections: a new one costs more than its use."""
    engine = create_engine(database, pool_pre_ping=True)
    yield engine
    engine.dispose()


@pytest.fixture
def empty_engine(empty_database: URL) -> Iterator[Engine]:
    """An engine on `empty_database`."""
    engine = create_engine(empty_database, pool_pre_ping=True)
    yield engine
    engine.dispose()


@pytest.fixture
def prepared(server: DatabaseServer) -> Iterator[Prepared]:
    """What returns an engine on a database that a function has prepared, once in a run.

    It is given a name for what it makes, and the function, which gets an engine on the template.
    """
    with ExitStack() as stack:

        def clone(name: str, prepare: Callable[[Engine], object]) -> Engine:
            server.templates[name] = lambda url: prepare(create_engine(url, poolclass=NullPool))
            url = stack.enter_context(server.database(name))
            engine = create_engine(url, pool_pre_ping=True)
            stack.callback(engine.dispose)
            return engine

        yield clone


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """A connection to `database`; what the test does not commit is rolled back."""
    with engine.connect() as connection:
        yield connection


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    """A session on `database`; what the test does not commit is rolled back."""
    with Session(engine) as session:
        yield session


@pytest.fixture
def github() -> Iterator[GitHub]:
    """A server that plays GitHub's API, with a feed that has no events yet."""
    with playing(GitHub()) as github:
        yield github


def pytest_configure(config: pytest.Config) -> None:
    """Start the report about Citus, and keep temporary files in memory."""
    config.stash[REPORT] = CitusReport()
    _work_in_memory()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that need Citus, or a browser, before `-m` looks at the marks."""
    config.stash[REPORT].mark(items)
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note which Citus tests are left after `-m`, `-k` and the like."""
    session.config.stash[REPORT].select(session.items)
    # What all tests have in common is not looked through again whenever one leaves garbage.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Say what was tested on Citus, below everything else and whatever else fails."""
    output: dict[str, object] | None = getattr(session.config, "workeroutput", None)
    report = session.config.stash[REPORT]
    if output is not None:
        # A worker of pytest-xdist: the process that reports on the run gets what it has seen.
        output["citus"] = report.seen()
    try:
        yield
    finally:
        terminal = session.config.pluginmanager.get_plugin("terminalreporter")
        if output is None and terminal is not None:
            terminal.ensure_newline()
            terminal.write_line(_seen_in_a_browser(terminal.stats))
            terminal.write_line(report.summary())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a worker of pytest-xdist has sent; one that crashed has sent nothing."""
    seen = getattr(node, "workeroutput", {}).get("citus")
    if seen is not None:
        node.config.stash[REPORT].add(seen)


def pytest_report_teststatus(report: pytest.TestReport, config: pytest.Config) -> None:
    """Note the Citus tests that came as far as their own code."""
    config.stash[REPORT].note(report)


def _seen_in_a_browser(stats: Mapping[str, list[Any]]) -> str:
    """Return the line that says what was tested in a real browser: without one nothing is."""
    found = {"passed": set[str](), "failed": set[str](), "error": set[str](), "skipped": set[str]()}
    for outcome, tests in found.items():
        reports = [each for each in stats.get(outcome, ()) if hasattr(each, "keywords")]
        tests |= {each.nodeid for each in reports if "browser" in each.keywords}
    skipped = len(found.pop("skipped"))
    if skipped:
        return (
            f"Browser: {skipped} test{' was' if skipped == 1 else 's were'} SKIPPED, because this "
            "machine has no Chromium, or no Playwright to drive it. Nothing that people see has "
            "been tested by this run."
        )
    ran = len(set[str]().union(*found.values()))
    if ran == 0:
        return "Browser: no test in a browser was selected."
    return f"Browser: {ran} test{'' if ran == 1 else 's'} ran in the Chromium of this machine."


def _work_in_memory() -> None:
    """Keep temporary files in memory where there is room: databases are cloned ten times as fast.

    TMPDIR in the environment has its way.
    """
    roomy = os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _ENOUGH
    if roomy and "TMPDIR" not in os.environ:
        os.environ["TMPDIR"] = str(_MEMORY)
        tempfile.tempdir = None
