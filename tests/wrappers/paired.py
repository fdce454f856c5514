"""What the tests of pairs of options share: calls, an inner transformation, and how to run and compare."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import gradx as gx
from tests.pairs import described, pairwise

CALLS, DEVICES, SIZE = 16, 2, 6
random = np.random.default_rng(3)
PARAMS = random.normal(size=SIZE)
GRADIENTS = random.normal(1.0, 0.3, (CALLS, DEVICES, SIZE))
WEIGHTS = random.integers(0, 4, (CALLS, DEVICES)) * 0.5
WEIGHTS[5:9] = 0.0  # a step of nothing
LOSSES = random.normal(2.0, 0.1, (CALLS, DEVICES))
NEVER = np.zeros((CALLS, DEVICES), bool)
BAD = random.random((CALLS, DEVICES)) < 0.2
BAD[9:12] = True  # three in a row
BAD[4] = [False, True]  # on one device alone
HUGE = NEVER.copy()
HUGE[[6, 12, 13]] = True


def tree(x):
    """A vector as the parameters of the tests."""
    return {"b": x[:2], "w": x[2:].reshape(2, 2)}


def vector(tree, concatenate=jnp.concatenate):
    return concatenate([x.ravel() for x in jax.tree.leaves(tree)])


def momentum(names=()):
    """`Momentum` of `tests/reference/wrappers.py` as a transformation that is not gradx's."""

    def init(params):
        v = jax.tree.map(jnp.zeros_like, params)
        return {"v": v, "count": jnp.zeros((), jnp.int32), "given": dict.fromkeys(names, jnp.zeros(()))}

    def update(g, state, params=None, **extra):
        count, v = state["count"] + 1, jax.tree.map(lambda v, g: 0.5 * v + g.astype(v.dtype), state["v"], g)
        u = jax.tree.map(lambda v: -0.1 / count.astype(v.dtype) * v, v)
        return u, {"v": v, "count": count, "given": {name: extra[name] for name in names}}

    return optax.GradientTransformationExtraArgs(init, update)


def scanned(tx, params, calls, extra_of=lambda x: {}, read=lambda state: state):
    """The updates and what is read of the state after each call; `params` stay, or are stepped."""

    def step(carry, x):
        p, state = carry
        u, state = tx.update(tree(x[0]), state, p, **extra_of(x))
        return (gx.apply_updates(p, u), state), (vector(u), read(state))

    return jax.lax.scan(step, (params, tx.init(params)), calls)[1]


def on_devices(axis_name, function, *calls):
    """`function` of the calls of each device, stacked; without an axis, of the first alone."""
    if axis_name is None:
        return jax.tree.map(lambda x: x[None], function(*(x[:, 0] for x in calls)))
    mesh = Mesh(np.array(jax.devices()[:DEVICES]), ("d",))
    local = lambda *calls: jax.tree.map(lambda x: x[None], function(*(x[:, 0] for x in calls)))
    return jax.shard_map(local, mesh=mesh, in_specs=P(None, "d"), out_specs=P("d"))(*calls)


class Row(NamedTuple):
    options: dict[str, Any]

    def __str__(self):
        return described(self.options)


def rows(options, allowed=lambda row: True):
    return pytest.mark.parametrize("row", [Row(row) for row in pairwise(options, allowed)], ids=str)


def close(found, expected, tolerance=1e-10):
    """Whether a vector or a tree is a vector, or one number everywhere."""
    found = vector(found, np.concatenate)
    np.testing.assert_allclose(found, np.zeros(found.size) + expected, rtol=tolerance, atol=tolerance)


def check_update(u, expected, tolerance=1e-10):
    """An update, or none: then it is -0 and changes no parameter."""
    close(u, 0.0 if expected is None else expected, tolerance)
    if expected is None:
        assert np.signbit(u).all()


def check_inner(state, model, tolerance=1e-10):
    assert state["count"] == model.count
    close(state["v"], model.v, tolerance)
    for name, value in model.given.items():
        close(state["given"][name], value, tolerance)


def at(results, *place):
    """What is there for one call, as NumPy arrays."""
    return jax.tree.map(lambda x: x[place], results)
