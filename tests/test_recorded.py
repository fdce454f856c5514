"""gradx.torch and gradx.keras give the numbers of PyTorch and Keras, which are recorded in files.

Longer runs beside PyTorch and Keras themselves are in tests/parity, and there the files are held to them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx
from gradx.torch import lr_scheduler
from tests import recorded
from tests.recorded.rows import KERAS, PAIRS, RATES, TORCH


class Row(NamedTuple):
    i: int  # in the file
    module: str
    name: str
    kwargs: dict[str, Any]

    def make(self):
        return getattr(getattr(gx, self.module), self.name)(**self.kwargs)

    def __str__(self):
        return f"{self.i}-{self.name}"


FILES = {"torch": recorded.load("torch"), "keras": recorded.load("keras")}
OPTIMIZERS = [Row(i, "torch", *row) for i, row in enumerate(TORCH)]
OPTIMIZERS += [Row(i, "keras", *row) for i, row in enumerate(KERAS)]
GRADIENTS = [np.stack(g) for g in zip(*map(recorded.gradient, range(recorded.STEPS)), strict=True)]


def run(row, gradients):
    """The parameters before each step and at the end, and the states."""
    tx = row.make()

    def step(carry, g):
        p, state = carry
        u, state = tx.update(g, state, p)
        return (gx.apply_updates(p, u), state), carry

    p = list(map(jnp.asarray, recorded.start()))
    (end, _), (before, states) = jax.lax.scan(step, (p, tx.init(p)), gradients)
    return end, jax.tree.map(lambda x: x[recorded.HALF], (before, states))


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-12), a, b)


@pytest.mark.parametrize("row", OPTIMIZERS, ids=str)
def test_optimizers_give_the_recorded_numbers(row, together, x64):
    end, (middle, state) = jax.device_get(together(run, GRADIENTS, row="row"))
    numbers = FILES[row.module][row.i]
    close(middle, recorded.arrays(numbers["middle"]))
    close(end, recorded.arrays(numbers["end"]))
    if row.module == "torch":
        check_import(row, middle, state, numbers["state"])


def check_import(row, p, state, saved):
    """torch's recorded state, carried over, is the state that gradx came to by itself."""
    saved = {int(k): {name: np.array(x) for name, x in arrays.items()} for k, arrays in saved.items()}
    given = {"state": saved, "param_groups": [{"params": [0, 1]}]}
    # torch does not count the steps of SGD.
    found = gx.import_torch_state(row.make(), p, given, step=recorded.HALF if row.name == "SGD" else None)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    close(found, state)


class Scheduler(NamedTuple):
    i: int
    name: str
    kwargs: dict[str, Any]
    steps: int

    def make(self, *lr):
        return getattr(lr_scheduler, self.name)(*lr, **self.kwargs)

    def __str__(self):
        return f"{self.i}-{self.name}"


SCHEDULERS = [Scheduler(i, *row) for i, row in enumerate(RATES)]
CYCLES = [Scheduler(i, *row, 100) for i, row in enumerate(PAIRS)]


def rates(row):
    return jax.vmap(row.make(0.3))(jnp.arange(row.steps, dtype=jnp.int32))


@pytest.mark.parametrize("row", SCHEDULERS, ids=str)
def test_schedulers_give_the_recorded_rates(row, together, x64, lenient):
    found = together(rates, row="row")
    assert found.dtype == jnp.float64
    close(found, np.array(recorded.load("rates")[row.i]))


def rates_and_momenta(row):
    pair, steps = row.make(), jnp.arange(row.steps, dtype=jnp.int32)
    return jax.vmap(pair.learning_rate)(steps), jax.vmap(pair.momentum)(steps)


@pytest.mark.parametrize("row", CYCLES, ids=str)
def test_cycles_give_the_recorded_rates_and_momenta(row, together, x64, lenient):
    found, numbers = together(rates_and_momenta, row="row"), recorded.load("pairs")[row.i]
    close(found, (np.array(numbers["rates"]), np.array(numbers["momenta"])))
    without = row._replace(kwargs=row.kwargs | {"cycle_momentum": False})
    assert without.make() == row.make().learning_rate


def test_sequences_and_chains_are_made_of_the_recorded_rates(x64, lenient):
    """One after another, each from its own start; or all at once, as factors of one rate."""
    parts = [SCHEDULERS[i].make(0.3) for i in (1, 6, 7)]
    numbers = [np.array(recorded.load("rates")[i]) for i in (1, 6, 7)]
    run = lambda schedule: jax.jit(jax.vmap(schedule))(jnp.arange(50, dtype=jnp.int32))
    sequence = np.concatenate([numbers[0][:10], numbers[1][:25], numbers[2][:15]])
    close(run(lr_scheduler.SequentialLR(parts, [10, 35])), sequence)
    chain = numbers[0] * numbers[1] * numbers[2][:50] / 0.3**2
    close(run(lr_scheduler.ChainedScheduler(parts, 0.3)), chain)


def test_a_plateau_has_each_argument_in_its_place():
    """torch's order is another one; tests/schedules/test_plateau.py has the rule."""
    ours = lr_scheduler.ReduceLROnPlateau(0.5, "max", 0.3, 4, 0.05, "abs", 2, 1e-3, 1e-5)
    named = dict(factor=0.3, patience=4, mode="max", threshold=0.05, threshold_mode="abs", cooldown=2)
    assert ours == gx.reduce_on_plateau(0.5, **named, min_value=1e-3, eps=1e-5)
    defaults = dict(factor=0.1, patience=10, mode="min", threshold=1e-4, threshold_mode="rel", cooldown=0)
    again = gx.reduce_on_plateau(0.5, **defaults, min_value=0.0, eps=1e-8)
    assert lr_scheduler.ReduceLROnPlateau(0.5) == again


def test_every_name_has_a_recorded_row():
    """A new one wants a row in tests/recorded/rows.py, and `python -m tests.recorded`."""
    from gradx.torch import optim

    assert {name for name, _ in TORCH} == set(optim.__all__)
    assert {name for name, _ in KERAS} == set(gx.keras.__all__)
    others = {"ReduceLROnPlateau", "SequentialLR", "ChainedScheduler"}
    assert {row.name for row in SCHEDULERS + CYCLES} == set(lr_scheduler.__all__) - others
    for name, rows in {"torch": TORCH, "keras": KERAS, "rates": RATES, "pairs": PAIRS}.items():
        assert len(recorded.load(name)) == len(rows), f"run python -m tests.recorded for {name}"
