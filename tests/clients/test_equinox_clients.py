"""Equinox: filtered models, closures as pytrees, ensembles; Optimistix around an optimizer."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix
import pytest

from tests.clients.comparing import STEPS, client
from tests.clients.problem import X, Y, loss_of, params

slow = pytest.mark.slow


class Counted(eqx.Module):
    """A network with an integer, a key and a function among its leaves."""

    layers: eqx.nn.MLP
    calls: jax.Array
    key: jax.Array

    def __init__(self, key):
        self.layers = eqx.nn.MLP(3, 2, width_size=4, depth=1, activation=jnp.tanh, key=key)
        self.calls, self.key = jnp.zeros((), jnp.int32), key

    def __call__(self, x):
        return self.layers(x)


@eqx.filter_value_and_grad
def loss_and_grads(model):
    return jnp.mean((jax.vmap(model)(X) - Y) ** 2)


def looped(tx, model):
    state, losses = tx.init(eqx.filter(model, eqx.is_inexact_array)), []

    @eqx.filter_jit
    def make_step(model, state, tx):
        loss, grads = loss_and_grads(model)
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, loss

    for _ in range(STEPS):
        model, state, loss = make_step(model, state, tx)
        losses.append(loss)
    return losses, (eqx.filter(model, eqx.is_array), state)


@client("make_step")
def test_filter_jit(optax):
    """The optimizer is an argument of the compiled step."""
    return looped(optax.chain(optax.clip(1.0), optax.adamw(0.03)), Counted(jax.random.key(0)))


@client("make_step")
def test_closure_to_pytree(optax):
    """Numbers within the closures become leaves."""
    tx = optax.adam(optax.linear_schedule(0.05, 0.0, 30))
    return looped(eqx.internal.closure_to_pytree(tx), Counted(jax.random.key(0)))


@slow
@client("make_step")
def test_an_ensemble(optax):
    """States are made under vmap, and updated under it."""
    tx = optax.adabelief(0.03)
    models = eqx.filter_vmap(Counted)(jax.random.split(jax.random.key(0), 3))
    states = eqx.filter_vmap(lambda model: tx.init(eqx.filter(model, eqx.is_inexact_array)))(models)

    def one(model, state):
        loss, grads = loss_and_grads(model)
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, loss

    @eqx.filter_jit
    def make_step(models, states):
        return eqx.filter_vmap(one)(models, states)

    losses = []
    for _ in range(STEPS):
        models, states, loss = make_step(models, states)
        losses.append(loss)
    return losses, (eqx.filter(models, eqx.is_array), states)


def minimised(tx, p):
    """The values at each step, by the solver's interactive interface, and the end of a whole run."""
    solver = optimistix.OptaxMinimiser(tx, rtol=1e-8, atol=1e-8)
    fn = lambda p, args: (loss_of(p), None)
    struct = jax.ShapeDtypeStruct((), jnp.float32)
    state = solver.init(fn, p, None, {}, struct, None, frozenset())
    losses, y = [], p

    @eqx.filter_jit
    def take_step(y, state):
        return solver.step(fn, y, None, {}, state, frozenset())

    for _ in range(STEPS):
        y, state, _ = take_step(y, state)
        losses.append(state.f)
    whole = optimistix.minimise(lambda p, args: loss_of(p), solver, p, max_steps=STEPS, throw=False)
    return losses, (y, whole.value, whole.stats["num_steps"])


@client("take_step")
def test_optimistix(optax):
    return minimised(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.03)), params())


@slow
@client("take_step", rtol=1e-3)
def test_optimistix_with_a_line_search(optax):
    return minimised(optax.lbfgs(linesearch=optax.scale_by_backtracking_linesearch(10)), params())
