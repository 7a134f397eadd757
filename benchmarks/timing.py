"""Arms that take turns, and what their times say."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import TypeAlias

Arm: TypeAlias = Callable[[], float]
"""Does something once, and returns the seconds of the part that is to be compared."""


def seconds(action: Callable[[], object]) -> float:
    """Return how long an action takes."""
    start = perf_counter()
    action()
    return perf_counter() - start


def alternate(arms: Sequence[Arm], repetitions: int) -> list[list[float]]:
    """Return the times of each arm; another one begins each turn, so that noise hits all alike."""
    times: list[list[float]] = [[] for _ in arms]
    for turn in range(repetitions):
        for step in range(len(arms)):
            which = (turn + step) % len(arms)
            times[which].append(arms[which]())
    return times


def median_ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of the ratios, turn by turn."""
    return median(time / other for time, other in zip(times, others, strict=True))


def milliseconds(times: Sequence[float]) -> str:
    """Return the median of times, for people."""
    return f"{median(times) * 1e3:,.2f} ms"


def say(words: str) -> None:
    """Tell how things go, beside the figures themselves."""
    print(words, file=sys.stderr, flush=True)
