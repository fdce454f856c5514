"""Flax: Linen's TrainState, and NNX's Optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from flax.training.train_state import TrainState

import gradx as gx
from tests.cases import FIRST

pytestmark = pytest.mark.usefixtures("lenient")
each_case = pytest.mark.parametrize("case", FIRST, ids=str)

X = jax.random.normal(jax.random.key(0), (16, 4))
Y = jnp.sin(X[:, :2])


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(2)(linen.relu(linen.LayerNorm()(linen.Dense(8)(x))))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.last = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x))))


@each_case
def test_linen_with_a_train_state(case):
    """Ten donated steps are those of a loop by hand."""
    model = Linen()
    params = model.init(jax.random.key(0), X)["params"]
    loss = lambda params: jnp.mean((model.apply({"params": params}, X) - Y) ** 2)
    tx = case.make()
    state = TrainState.create(apply_fn=model.apply, params=jax.tree.map(jnp.copy, params), tx=tx)
    step = jax.jit(lambda s: s.apply_gradients(grads=jax.grad(loss)(s.params)), donate_argnums=0)

    @jax.jit
    def step_by_hand(params, opt_state):
        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
        return gx.apply_updates(params, updates), opt_state

    by_hand, opt_state = params, tx.init(params)
    for _ in range(10):
        state = step(state)
        by_hand, opt_state = step_by_hand(by_hand, opt_state)
    assert int(state.step) == 10
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-2, atol=1e-3), state.params, by_hand)


@each_case
def test_two_equal_optimizers_in_train_states_trace_once(case):
    traced = []
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}

    @jax.jit
    def step(state):
        traced.append(1)
        return state.apply_gradients(grads=state.params)

    for _ in range(2):
        step(TrainState.create(apply_fn=None, params=params, tx=case.make()))
    assert len(traced) == 1


def test_optax_would_trace_twice():
    """The same with Optax, so that the test above is known to test something."""
    traced = []

    @jax.jit
    def step(state):
        traced.append(1)
        return state.apply_gradients(grads=state.params)

    for _ in range(2):
        step(TrainState.create(apply_fn=None, params={"w": jnp.ones(2)}, tx=optax.adamw(1e-3)))
    assert len(traced) == 2


@each_case
def test_nnx_optimizer(case):
    """Ten steps through nnx.Optimizer are those of a loop by hand on the pure state."""
    model = Nnx(nnx.Rngs(0))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    pure = nnx.to_pure_dict(params)
    optimizer = nnx.Optimizer(model, case.make(), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean((m(X) - Y) ** 2))(model)
        optimizer.update(model, grads)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(10)]

    def loss(pure):
        state = jax.tree.map(lambda x: x, params)
        nnx.replace_by_pure_dict(state, pure)
        return jnp.mean((nnx.merge(graph, state, rest)(X) - Y) ** 2)

    tx = case.make()

    @jax.jit
    def step_by_hand(pure, state):
        value, grads = jax.value_and_grad(loss)(pure)
        updates, state = tx.update(grads, state, pure)
        return value, gx.apply_updates(pure, updates), state

    state, by_hand = tx.init(pure), []
    for _ in range(10):
        value, pure, state = step_by_hand(pure, state)
        by_hand.append(float(value))
    np.testing.assert_allclose(losses, by_hand, rtol=1e-2, atol=1e-3)


def test_masks_by_name_find_flax_parameters():
    params = Linen().init(jax.random.key(0), X)["params"]
    for mask in (gx.matrices_only(params), gx.no_bias_or_norm(params)):
        flat = {jax.tree_util.keystr(path): m for path, m in jax.tree_util.tree_leaves_with_path(mask)}
        assert flat == {
            "['Dense_0']['kernel']": True,
            "['Dense_0']['bias']": False,
            "['Dense_1']['kernel']": True,
            "['Dense_1']['bias']": False,
            "['LayerNorm_0']['scale']": False,
            "['LayerNorm_0']['bias']": False,
        }


def test_masks_by_name_find_nnx_parameters():
    """There the last name on the path is `value`, whose owner counts."""
    params = nnx.state(Nnx(nnx.Rngs(0)), nnx.Param)
    for mask in (gx.matrices_only(params), gx.no_bias_or_norm(params)):
        kept = [jax.tree_util.keystr(path) for path, m in jax.tree_util.tree_leaves_with_path(mask) if m]
        assert kept == ["['first']['kernel'].value", "['last']['kernel'].value"]
