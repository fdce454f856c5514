"""Timed turn by turn in one process and compared round by round: what slows the machine slows all."""

import gc
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

SAMPLE = 0.005  # seconds: what takes less is run several times for one sample
PAUSE = 0.005  # seconds before a sample, in which the threads of the one before stop waiting for work


class Limits(NamedTuple):
    """How long a comparison may take: rounds until `seconds` are used, but at least and at most so many."""

    seconds: float
    least: int = 3
    most: int = 50


class Spread(NamedTuple):
    """The median of some samples, and their quartiles."""

    median: float
    low: float
    high: float


def spread(samples: list[float]) -> Spread:
    low, median, high = np.quantile(samples, [0.25, 0.5, 0.75])
    return Spread(float(median), float(low), float(high))


def ratio(samples: list[float], others: list[float]) -> Spread:
    """Of the ratios of each round: not the ratio of the medians, which may be of different minutes."""
    return spread([a / b for a, b in zip(samples, others, strict=True)])


def turns(names: list[str], limits: Limits, clock: Callable[[], float] = time.perf_counter) -> Iterator[str]:
    """Each name once a round, in an order that turns round every time."""
    start = clock()
    for i in range(limits.most):
        if i >= limits.least and clock() - start >= limits.seconds:
            return
        yield from names if i % 2 == 0 else names[::-1]


def seconds(
    run: Callable[[], Any], repeats: int = 1, clock: Callable[[], float] = time.perf_counter
) -> float:
    """How long one run takes, of so many in a row, until the last results are there."""
    start = clock()
    for _ in range(repeats):
        results = run()
    jax.block_until_ready(results)
    return (clock() - start) / repeats


def interleave(
    runs: dict[str, Callable[[], Any]],
    limits: Limits,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds a run of each, one sample a round, after two rounds that are not counted."""
    for run in runs.values():
        seconds(run)
    repeats = {name: 1 + int(SAMPLE / max(seconds(run, clock=clock), 1e-9)) for name, run in runs.items()}
    samples = {name: [] for name in runs}
    gc.collect()
    for name in turns(list(runs), limits, clock):
        time.sleep(PAUSE)
        samples[name].append(seconds(runs[name], repeats[name], clock))
    return samples
