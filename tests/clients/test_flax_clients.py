"""Flax: Linen's train states, NNX's optimizers with their filters, states written and read."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx, serialization, traverse_util
from flax.training.train_state import TrainState

from tests.clients.comparing import STEPS, client
from tests.clients.problem import X, Y

slow = pytest.mark.slow


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return linen.Dense(2)(linen.tanh(linen.Dense(4)(x)))


class WithStatistics(TrainState):
    batch_stats: Any


def linen_loop(tx, restore=lambda state: state):
    model = Linen()
    variables = model.init(jax.random.key(0), X, train=False)
    state = WithStatistics.create(apply_fn=model.apply, tx=tx, **variables)

    @jax.jit
    def train_step(state):
        def loss_of(params):
            both = {"params": params, "batch_stats": state.batch_stats}
            out, new = state.apply_fn(both, X, train=True, mutable=["batch_stats"])
            return jnp.mean((out - Y) ** 2), new["batch_stats"]

        (loss, statistics), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        return state.apply_gradients(grads=grads, batch_stats=statistics), loss

    losses = []
    for i in range(STEPS):
        state = restore(state) if i == STEPS // 2 else state
        state, loss = train_step(state)
        losses.append(loss)
    return losses, (state.params, state.batch_stats, state.opt_state, state.step)


def read_back(state):
    """The state by its bytes, as `flax.training.checkpoints` keeps it."""
    return serialization.from_bytes(state, serialization.to_bytes(state))


@client("train_step")
def test_a_train_state(optax):
    kernels = lambda params: traverse_util.path_aware_map(lambda path, _: path[-1] == "kernel", params)
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.cosine_decay_schedule(0.05, STEPS), weight_decay=0.1, mask=kernels),
    )
    return linen_loop(tx, read_back)


@slow
@client("train_step")
def test_a_train_state_with_parts(optax):
    """Frozen by path, as Flax's guide to transfer learning has it; the rest with its rate in the state."""
    inject = optax.inject_hyperparams(optax.sgd, static_args=("nesterov", "momentum"))
    parts = {"moving": inject(learning_rate=0.1, momentum=0.9, nesterov=True), "frozen": optax.set_to_zero()}
    labels = lambda params: traverse_util.path_aware_map(
        lambda path, _: "frozen" if path[0] == "Dense_0" else "moving", params
    )
    return linen_loop(optax.multi_transform(parts, labels), read_back)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.last = nnx.Linear(4, 2, rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.calls[...] += 1
        return self.last(nnx.tanh(self.dropout(self.first(x))))


def loss_of(model):
    return jnp.mean((model(X) - Y) ** 2)


def everything(*parts):
    return [nnx.to_pure_dict(nnx.state(part)) for part in parts]


def nnx_loop(tx, wrt=nnx.Param, **extra):
    model = Nnx(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=wrt)

    @nnx.jit
    def train_step(model, optimizer):
        loss, grads = nnx.value_and_grad(loss_of, argnums=nnx.DiffState(0, wrt))(model)
        optimizer.update(model, grads, **extra)
        return loss

    losses = [train_step(model, optimizer) for _ in range(STEPS)]
    return losses, everything(model, optimizer)


@client("train_step")
def test_nnx_optimizer(optax):
    return nnx_loop(optax.chain(optax.clip(0.5), optax.adamw(0.05)))


@slow
@client("train_step")
def test_nnx_optimizer_of_some(optax):
    """A filter by path; the rest keeps its values."""
    return nnx_loop(optax.lion(0.01), nnx.All(nnx.Param, nnx.PathContains("last")))


@slow
@client("train_step")
def test_nnx_optimizer_with_a_value(optax):
    return nnx_loop(optax.polyak_sgd(max_learning_rate=0.2), value=jnp.float32(0.3))


@client("train_step")
def test_nnx_model_and_optimizer(optax):
    both = nnx.ModelAndOptimizer(Nnx(nnx.Rngs(0)), optax.novograd(0.05), wrt=nnx.Param)

    @nnx.jit
    def train_step(both):
        loss, grads = nnx.value_and_grad(loss_of)(both.model)
        both.update(grads)
        return loss

    losses = [train_step(both) for _ in range(STEPS)]
    return losses, everything(both)


@client()
def test_nnx_mutable_variables(optax):
    """Their leaves are no arrays, but variables whose type names no axes of devices."""
    model = nnx.with_vars(Nnx(nnx.Rngs(0)), hijax=True)
    moving = lambda path, x: path[-1] in ("kernel", "bias")
    optimizer = nnx.with_vars(nnx.Optimizer(model, optax.adam(0.05), wrt=moving), hijax=True)
    traced = []

    @jax.jit
    def train_step(model, optimizer):
        traced.append(1)
        graph, params, rest = nnx.split(model, moving, ...)
        loss = lambda params: loss_of(nnx.merge(graph, params, rest))
        value, grads = jax.value_and_grad(loss)(nnx.with_vars(params, hijax=False))
        optimizer.update(params, grads)
        return value

    losses = [train_step(model, optimizer) for _ in range(STEPS)]
    return losses, (everything(model), len(traced))
