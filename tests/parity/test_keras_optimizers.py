"""gradx.keras gives Keras's numbers: every optimizer, float64, 50 steps, gradients falling 300-fold."""

import inspect
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx
from tests.problems import grads, params
from tests.recorded.rows import KERAS as ROWS

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras", reason="keras is in the extra 'parity': make test-parity")
pytestmark = pytest.mark.usefixtures("x64", "lenient")

STEPS = 50


def ours(tx):
    p, state = params("float64"), tx.init(params("float64"))
    update = jax.jit(tx.update)
    for i in range(STEPS):
        u, state = update(grads(i, p), state, p)
        p = gx.apply_updates(p, u)
        yield jax.tree.leaves(p)


def theirs(optimizer):
    variables = [keras.Variable(np.array(x), dtype="float64") for x in jax.tree.leaves(params("float64"))]
    optimizer.build(variables)
    for i in range(STEPS):
        gs = [np.array(g) for g in jax.tree.leaves(grads(i, params("float64")))]
        optimizer.apply(gs, variables)
        yield [np.asarray(v.value) for v in variables]


@pytest.mark.parametrize(("name", "kwargs"), ROWS, ids=str)
def test_gives_keras_parameters(name, kwargs, monkeypatch):
    keras.backend.set_floatx("float64")
    # Keras has the means of Adafactor in float32, whatever the dtype is.
    mean = lambda x, **kwargs: jnp.mean(keras.ops.convert_to_tensor(x), **kwargs)
    monkeypatch.setattr("keras.src.ops.mean", mean)
    mine = ours(getattr(gx.keras, name)(**kwargs))
    reference = theirs(getattr(keras.optimizers, name)(**kwargs))
    for xs, ys in zip(mine, reference, strict=True):
        for x, y in zip(xs, ys, strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-12)


def test_every_optimizer_of_gradx_keras_has_a_row():
    assert set(gx.keras.__all__) == {name for name, _ in ROWS}


@pytest.mark.parametrize("name", sorted({name for name, _ in ROWS}))
def test_has_keras_arguments_and_defaults_first(name):
    """But for what Keras does around the rule."""
    around = {"use_ema", "ema_momentum", "ema_overwrite_frequency", "loss_scale_factor", "kwargs"}
    around |= {"gradient_accumulation_steps", "name", "self"}
    describe = lambda f: {k: p.default for k, p in inspect.signature(f).parameters.items() if k not in around}
    assert describe(getattr(gx.keras, name)) == describe(getattr(keras.optimizers, name).__init__)
