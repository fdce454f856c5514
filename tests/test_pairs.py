"""Two options of an optimizer at once: in each row of few, against the reference of the paper."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx
from tests import reference
from tests.pairs import described, pairs_of, pairwise, real, values

STEPS = 8
SHAPES = {"b": (3,), "m": (3, 4)}
STACK = {"stack": (4, 2, 3)}  # where the last two axes are not the longest
MASK = [None, gx.matrices_only]


def falling(count):
    """A learning rate that falls from 0.1."""
    return 0.1 / (1 + 0.5 * real(count))


def rising(count):
    """A decay rate that rises from 0.5 towards 0.9."""
    return 0.9 - 0.4 / (1 + real(count))


RATE = {"learning_rate": [0.1, falling]}
BOOLS = [False, True]
ADAM = RATE | {
    "b1": [0.9, 0.0, rising],
    "b2": [0.99, rising],
    "eps": [1e-8, 1e-2],
    "eps_root": [0.0, 1e-3],
    "nesterov": BOOLS,
    "bias_correction": BOOLS,
    "eps_hat": BOOLS,
}


def knows_its_peak(row):
    """A schedule has no peak of its own, and L2 no order."""
    needs = row.get("decay_mode") in ("independent", "corrected") and row.get("learning_rate") is falling
    return not (needs and row.get("max_learning_rate", 1.0) is None) and not (
        row.get("decay_mode") == "l2" and row.get("decay_order") == "after"
    )


def has_one_mask(row):
    """Only Optax's LARS has a mask of decay."""
    return row.get("variant", "optax") == "optax" or row.get("weight_decay_mask", True) is True


FAMILIES: dict[Any, tuple] = {
    gx.adam: (ADAM, None),
    gx.adamw: (
        RATE
        | {
            "weight_decay": [0.1, falling],
            "mask": MASK,
            "decay_mode": ["decoupled", "l2", "independent", "corrected"],
            "decay_order": ["simultaneous", "before", "after"],
            "max_learning_rate": [0.2, None],
            "nesterov": BOOLS,
            "bias_correction": BOOLS,
            "eps_hat": BOOLS,
        },
        knows_its_peak,
    ),
    gx.rmsprop: (
        RATE
        | {
            "eps": [1e-8, 1e-2],
            "initial_scale": [0.0, 0.5],
            "eps_in_sqrt": BOOLS,
            "centered": BOOLS,
            "momentum": [None, 0.9],
            "nesterov": BOOLS,
            "bias_correction": BOOLS,
            "rate_in_velocity": BOOLS,
        },
        # The first variance that is corrected is 0, or with a scale at the start not one of squares.
        lambda row: not (row.get("centered") and row.get("bias_correction") and row.get("eps") == 1e-8),
    ),
    gx.radam: (
        RATE
        | {
            "b1": [0.9, 0.5],
            "b2": [0.999, 0.9],
            "eps": [1e-8, 1e-2],
            "eps_root": [0.0, 1e-3],
            "threshold": [5.0, 4.0, float("inf")],
            "nesterov": BOOLS,
            "eps_before_correction": BOOLS,
        },
        # The reference of torch's form has no eps_root.
        lambda row: not (row.get("eps_before_correction") and row.get("eps_root")),
    ),
    gx.adafactor: (
        {
            "learning_rate": [0.1, falling, None],
            "min_dim_size_to_factor": [3, 2, 128],
            "decay_rate": [0.8, 0.5],
            "decay_offset": [0, 2],
            "multiply_by_parameter_scale": BOOLS,
            "clipping_threshold": [1.0, 0.5, None],
            "momentum": [None, 0.8],
            "weight_decay_rate": [0.0, 0.01],
            "eps": [1e-30, 1e-3],
            "factored": [True, False],
            "weight_decay_mask": MASK,
            "relative_step": BOOLS,
            "floor": [None, 0.5, "machine"],
            "factored_axes": ["largest", "last"],
            "min_scale": [1e-3, 2.0],
            "dtype_momentum": [None],
        },
        None,
    ),
    gx.lars: (
        RATE
        | {
            "weight_decay": [0.0, 0.1],
            "weight_decay_mask": [True, gx.matrices_only],
            "trust_coefficient": [0.001, 0.1],
            "eps": [0.0, 0.1],
            "trust_ratio_mask": [True, None, gx.matrices_only],
            "momentum": [0.9, 0.0],
            "nesterov": BOOLS,
            "phi_bounds": [None, (0.5, 1.0)],
            "variant": ["optax", "paper", "mlperf", "nvidia"],
        },
        has_one_mask,
    ),
    gx.lamb: (
        RATE
        | {
            "b2": [0.999, 0.9],
            "eps_root": [0.0, 1e-3],
            "weight_decay": [0.0, 0.1],
            "mask": MASK,
            "trust_ratio_mask": [None, True, gx.matrices_only],
            "phi_bounds": [None, (0.5, 1.0)],
            "bias_correction": [True, False],
            "variant": ["paper", "mlperf", "nvidia", "nvlamb"],
            "max_grad_norm": [None, 0.5],
        },
        None,
    ),
}
anything = lambda row: True


class Row(NamedTuple):
    optimizer: Any
    kwargs: dict[str, Any]

    def __str__(self):
        return f"{self.optimizer.__name__}-{described(self.kwargs)}"


ROWS = [Row(f, row) for f, (options, ok) in FAMILIES.items() for row in pairwise(options, ok or anything)]


def shapes_of(row):
    return SHAPES | (STACK if row.optimizer is gx.adafactor else {})


def normal(seed, shape):
    return np.random.default_rng(seed).normal(size=shape)


def start(row):
    return {name: normal(i, shape) for i, (name, shape) in enumerate(shapes_of(row).items())}


GRADIENTS = {
    name: normal(7, (*shape, STEPS)) * 0.7 ** np.arange(STEPS) for name, shape in (SHAPES | STACK).items()
}
FALLING = 0.7 ** np.arange(STEPS)  # the size of the gradients
GRADIENTS = {
    name: np.moveaxis(normal(7, (*shape, STEPS)) * FALLING, -1, 0) for name, shape in (SHAPES | STACK).items()
}


def updates(row, gradients):
    tx, p = row.optimizer(**row.kwargs), jax.tree.map(jnp.asarray, start(row))

    def step(carry, g):
        p, state = carry
        u, state = tx.update(g, state, p)
        return (gx.apply_updates(p, u), state), u

    return jax.lax.scan(step, (p, tx.init(p)), {name: gradients[name] for name in p})[1]


def expected(row):
    """The updates of the reference, one generator for each array; the norm of all arrays is taken here."""
    kwargs = dict(row.kwargs)
    if kwargs.get("phi_bounds", ()) is None:
        del kwargs["phi_bounds"]
    most = kwargs.pop("max_grad_norm", None)
    if row.optimizer is gx.lamb and most is None and kwargs["variant"] != "paper":
        most = 1.0
    rules = {name: getattr(reference, row.optimizer.__name__)(**kwargs) for name in start(row)}
    for rule in rules.values():
        next(rule)
    ps = start(row)
    for i in range(STEPS):
        gs = {name: GRADIENTS[name][i] for name in ps}
        whole = np.sqrt(sum(np.sum(g**2) for g in gs.values()))
        share = 1.0 if most is None else min(1.0, most / whole)
        us = {name: rules[name].send((share * gs[name], ps[name])) for name in ps}
        ps = {name: ps[name] + us[name] for name in ps}
        yield us


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_two_options_at_once_follow_the_paper(row, together, x64):
    found = together(updates, GRADIENTS, row="row")
    for i, us in enumerate(expected(row)):
        for name, u in us.items():
            np.testing.assert_allclose(found[name][i], u, rtol=1e-9, atol=1e-12, err_msg=f"{name}, step {i}")


@pytest.mark.parametrize("optimizer", FAMILIES, ids=lambda f: f.__name__)
def test_every_pair_of_values_occurs(optimizer):
    options, allowed = FAMILIES[optimizer]
    rows = [row.kwargs for row in ROWS if row.optimizer is optimizer]
    for pair in map(dict, pairs_of(options)):
        given = values(options, pair)
        occurs = any(all(row[name] is value for name, value in given.items()) for row in rows)
        assert occurs == (allowed or anything)(given), given
