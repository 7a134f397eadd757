"""Signals to a command that follows: what the first, the second and the third one end."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from citus_analytics.cli.main import Interrupts

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def twice(number: signal.Signals) -> None:
    signal.raise_signal(number)
    signal.raise_signal(number)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda each: each.name)
def test_the_first_ends_what_can_be_done_again(number: signal.Signals) -> None:
    interrupts = Interrupts()
    with interrupts.handled(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert (interrupts.asked, interrupts.forced) == (True, False)


def test_the_first_lets_finish_what_is_held() -> None:
    interrupts = Interrupts()
    with interrupts.handled(), interrupts.held():
        signal.raise_signal(signal.SIGINT)
    assert (interrupts.asked, interrupts.forced) == (True, False)
    assert interrupts.wait(3600)


@pytest.mark.parametrize("third", SIGNALS, ids=lambda each: each.name)
def test_a_third_one_does_not_take_back_what_the_second_one_forced(third: signal.Signals) -> None:
    """It comes while what was held is cleaned up after, and not held any more."""
    interrupts = Interrupts()
    with interrupts.handled():
        with pytest.raises(KeyboardInterrupt), interrupts.held():
            twice(signal.SIGINT)
        assert interrupts.forced
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(third)
    assert (interrupts.asked, interrupts.forced) == (True, True)


def test_the_handlers_are_those_of_before() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interrupts().handled():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("module", ["sqlalchemy", "psycopg", "citus_analytics.cli.main"])
@pytest.mark.parametrize(
    "start",
    [
        "from citus_analytics.__main__ import main; sys.exit(main(['--version']))",
        "sys.argv[1:] = ['--version']; runpy.run_module('citus_analytics', run_name='__main__')",
    ],
    ids=["script", "module"],
)
def test_an_interrupt_while_the_program_starts_leaves_no_traceback(start: str, module: str) -> None:
    script = f"""
import runpy, sys

class Interrupt:
    def find_spec(self, name, *rest):
        if name == {module!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
{start}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "citus-analytics: interrupted\n")
