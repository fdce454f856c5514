"""Training loops that are written by hand, in the manner of Levanter, MaxText, Brax and NetKet."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.clients.comparing import STEPS, client
from tests.clients.problem import X, Y, apply, loss_of, params, trained

slow = pytest.mark.slow


class SpikeState(NamedTuple):
    inner: Any
    losses: jax.Array
    skipped: jax.Array


def skipping_spikes(optax, inner, window=4, factor=1.05):
    """As in Levanter and MaxText: a step whose loss is above the recent ones is not made."""

    def init(params):
        return SpikeState(inner.init(params), jnp.full(window, jnp.inf), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, *, loss, **extra):
        spike = loss > factor * jnp.median(state.losses)
        updates, new = jax.lax.cond(
            spike,
            lambda: (jax.tree.map(jnp.zeros_like, updates), state.inner),
            lambda: inner.update(updates, state.inner, params, **extra),
        )
        losses = jnp.where(spike, state.losses, jnp.roll(state.losses, 1).at[0].set(loss))
        return updates, SpikeState(new, losses, state.skipped + spike)

    return optax.GradientTransformationExtraArgs(init, update)


def with_spikes(optax, inner, dtype):
    tx = skipping_spikes(optax, inner)
    x, y = X.astype(dtype), Y.astype(dtype)

    @jax.jit
    def train_step(p, state, scale):
        loss, grads = jax.value_and_grad(lambda p: scale * loss_of(p, x, y))(p)
        updates, state = tx.update(grads, state, p, loss=loss.astype(jnp.float32))
        return optax.apply_updates(p, updates), state, loss

    p, losses = params(dtype), []
    state = tx.init(p)
    for i in range(STEPS):
        p, state, loss = train_step(p, state, jnp.asarray(10 if i % 7 == 6 else 1, dtype))
        losses.append(loss)
    assert 0 < int(state.skipped) < STEPS - 5
    return losses, (p, state)


@client("train_step")
def test_skips_on_spikes(optax):
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0, peak_value=0.05, warmup_steps=3, decay_steps=STEPS, end_value=1e-3
    )
    return with_spikes(optax, optax.adamw(schedule, b2=0.95, weight_decay=0.1), jnp.float32)


@client("train_step", rtol=0.02)
def test_skips_on_spikes_in_bf16(optax):
    """The branches of the `cond` are of the gradients' dtypes."""
    losses, (p, state) = with_spikes(optax, optax.sgd(0.05), jnp.bfloat16)
    return losses, (p, state.skipped)


@client("train", rtol=0.02)
def test_a_sum_by_hand_in_bf16(optax):
    """`p + u` in a `fori_loop`, whose carry keeps its dtypes."""
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    x, y = X.astype(jnp.bfloat16), Y.astype(jnp.bfloat16)

    def body(i, carry):
        p, state, losses = carry
        loss, grads = jax.value_and_grad(loss_of)(p, x, y)
        updates, state = tx.update(grads, state, p)
        return jax.tree.map(lambda p, u: p + u, p, updates), state, losses.at[i].set(loss)

    @jax.jit
    def train(p):
        carry = p, tx.init(p), jnp.zeros(STEPS, jnp.bfloat16)
        return jax.lax.fori_loop(0, STEPS, body, carry)

    p, state, losses = train(params(jnp.bfloat16))
    return losses, (p, state)


@client("train")
def test_ppo_over_seeds(optax):
    """As in PureJaxRL: all in one program, the schedule a function that closes over the numbers of steps."""
    epochs, batches = 2, 2

    def linear(count):
        return 0.02 * (1.0 - (count // (epochs * batches)) / STEPS)

    tx = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(learning_rate=linear, eps=1e-5))

    def loss_and_entropy(p, obs, action, old, value, advantage, target):
        out = apply(p["actor"], obs)
        log = jax.nn.log_softmax(out)
        ratio = jnp.exp(jnp.take_along_axis(log, action[:, None], 1)[:, 0] - old)
        gain = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        actor = -jnp.minimum(ratio * gain, jnp.clip(ratio, 0.8, 1.2) * gain).mean()
        entropy = -(jnp.exp(log) * log).sum(-1).mean()
        predicted = apply(p["critic"], obs)[:, 0]
        clipped = value + (predicted - value).clip(-0.2, 0.2)
        critic = 0.5 * jnp.maximum((predicted - target) ** 2, (clipped - target) ** 2).mean()
        return actor + 0.5 * critic - 0.01 * entropy, entropy

    def update_step(carry, _):
        p, state, key = carry
        key, of_obs, of_action, of_order = jax.random.split(key, 4)
        obs = jax.random.normal(of_obs, (16, 3))
        log = jax.nn.log_softmax(apply(p["actor"], obs))
        action = jax.random.categorical(of_action, log)
        reward = jnp.where(action == (obs[:, 0] > 0), 1.0, 0.0)
        value = apply(p["critic"], obs)[:, 0]
        old = jnp.take_along_axis(log, action[:, None], 1)[:, 0]
        batch = obs, action, old, value, reward - value, reward

        def update_epoch(carry, key):
            order = jax.random.permutation(key, 16).reshape(batches, -1)

            def update_minibatch(carry, rows):
                p, state = carry
                grad = jax.value_and_grad(loss_and_entropy, has_aux=True)
                (loss, _), grads = grad(p, *(x[rows] for x in batch))
                updates, state = tx.update(grads, state, p)
                return (optax.apply_updates(p, updates), state), loss

            return jax.lax.scan(update_minibatch, carry, order)

        (p, state), losses = jax.lax.scan(update_epoch, (p, state), jax.random.split(of_order, epochs))
        return (p, state, key), losses.mean()

    def train(key):
        p = {"actor": params(), "critic": params()}
        (p, state, _), losses = jax.lax.scan(update_step, (p, tx.init(p), key), length=STEPS)
        return losses, p, state

    losses, p, state = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), 2))
    return losses.T, (p, state)


@client()
def test_a_rate_that_follows_the_divergence(optax):
    """As in Brax: the rate in the state is written over in place, on each of two devices."""
    tx = optax.chain(
        optax.clip_by_global_norm(1.0), optax.inject_hyperparams(optax.adam)(learning_rate=1e-2, b2=0.99)
    )

    def adaptive(state, divergence):
        inner = state
        if isinstance(state, tuple) and not hasattr(state, "hyperparams"):
            inner = state[-1]
            assert hasattr(inner, "hyperparams")
        rate = inner.hyperparams["learning_rate"]
        rate = jnp.where(divergence > 0.4, jnp.maximum(1e-3, rate / 1.5), rate)
        inner.hyperparams["learning_rate"] = jnp.where(divergence < 0.3, jnp.minimum(0.1, rate * 1.5), rate)
        return state

    traced = []

    def train_step(p, state, x, y):
        traced.append(1)
        loss, grads = jax.value_and_grad(loss_of)(p, x, y)
        grads = jax.lax.pmean(grads, axis_name="i")
        loss = jax.lax.pmean(loss, axis_name="i")
        updates, state = tx.update(grads, state)
        return optax.apply_updates(p, updates), adaptive(state, loss), loss

    on_each = lambda tree: jax.tree.map(lambda x: jnp.stack([x, x]), tree)
    p = params()
    p, state, losses = on_each(p), on_each(tx.init(p)), []
    step = jax.pmap(train_step, axis_name="i", devices=jax.devices()[:2])
    for _ in range(STEPS):
        p, state, loss = step(p, state, X.reshape(2, 8, 3), Y.reshape(2, 8, 2))
        losses.append(loss)
    return [loss[0] for loss in losses], (p, state, len(traced))


def energy_and_gradient(p, spins):
    """Of a chain of spins in a transverse field, with a complex RBM for the amplitudes."""

    def log_psi(p, s):
        hidden = p["kernel"] @ s + p["bias"]
        return jnp.sum(jnp.log(jnp.cosh(hidden))) + p["visible"] @ s

    def local(p, s):
        flips = s * (1 - 2 * jnp.eye(len(s)))
        ratios = jnp.exp(jax.vmap(log_psi, (None, 0))(p, flips) - log_psi(p, s))
        return -jnp.sum(s * jnp.roll(s, 1)) - 0.7 * jnp.sum(ratios)

    logs = jax.vmap(log_psi, (None, 0))(p, spins)
    weights = jax.nn.softmax(2 * logs.real)
    energies = jax.vmap(local, (None, 0))(p, spins)
    energy = jnp.sum(weights * energies)
    one = lambda s: jax.grad(log_psi, holomorphic=True)(p, s)
    jacobian = jax.vmap(one)(spins.astype(jnp.complex64))
    force = lambda o: jnp.tensordot(weights * (energies - energy), o.conj(), 1)
    return energy.real, jax.tree.map(force, jacobian)


def vmc(optax, tx):
    spins = jnp.asarray([[1.0 - 2 * (i >> j & 1) for j in range(4)] for i in range(16)])
    random = np.random.default_rng(2)
    array = lambda *shape: jnp.asarray(
        0.1 * (random.standard_normal(shape) + 1j * random.standard_normal(shape))
    )
    p = {"kernel": array(4, 4), "bias": array(4), "visible": array(4)}
    p = jax.tree.map(lambda x: x.astype(jnp.complex64), p)

    @jax.jit
    def advance(p, state):
        energy, grads = energy_and_gradient(p, spins)
        updates, state = tx.update(grads, state, p)
        return optax.apply_updates(p, updates), state, energy

    state, energies = tx.init(p), []
    for _ in range(STEPS):
        p, state, energy = advance(p, state)
        energies.append(energy)
    return energies, (p, state)


@client("advance")
def test_vmc_with_complex_parameters(optax):
    return vmc(optax, optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.02)))


@slow
@client("advance")
def test_vmc_with_sgd(optax):
    return vmc(optax, optax.sgd(optax.exponential_decay(0.1, 10, 0.9), momentum=0.9, nesterov=True))


@slow
@client("advance")
def test_vmc_with_rmsprop(optax):
    """With the large eps of agents for Atari, which shows where it stands."""
    return vmc(optax, optax.rmsprop(0.01, decay=0.95, eps=1e-2, centered=True))


@client("step")
def test_micro_batches(optax):
    """`MultiSteps`, and the parameters' average where it has made a step."""
    tx = optax.MultiSteps(optax.lamb(0.05), every_k_schedule=lambda step: jnp.where(step < 3, 1, 3))

    @jax.jit
    def step(p, average, state, x, y):
        loss, grads = jax.value_and_grad(loss_of)(p, x, y)
        updates, state = tx.update(grads, state, params=p)
        p = optax.apply_updates(p, updates)
        new = optax.incremental_update(p, average, 0.1)
        average = jax.lax.cond(tx.has_updated(state), lambda: new, lambda: average)
        return p, average, state, loss

    p, losses = params(), []
    average, state = p, tx.init(p)
    for i in range(STEPS):
        rows = slice(i % 4 * 4, i % 4 * 4 + 4)
        p, average, state, loss = step(p, average, state, X[rows], Y[rows])
        losses.append(loss)
    return losses, (p, average, state.mini_step, state.gradient_step, state.inner_opt_state)


@client("train")
def test_lbfgs_as_in_the_documentation(optax):
    """`value_and_grad_from_state`, and the gradient that the line search kept."""
    tx = optax.chain(optax.lbfgs(memory_size=3))
    value_and_grad = optax.value_and_grad_from_state(loss_of)

    def body(carry, _):
        p, state = carry
        value, grad = value_and_grad(p, state=state)
        updates, state = tx.update(grad, state, p, value=value, grad=grad, value_fn=loss_of)
        p = optax.apply_updates(p, updates)
        norm = optax.tree_utils.tree_norm(optax.tree_utils.tree_get(state, "grad"))
        return (p, state), (value, norm)

    @jax.jit
    def train(p):
        return jax.lax.scan(body, (p, tx.init(p)), length=STEPS)

    (_, state), (values, norms) = train(params())
    return values[:STEPS], (norms[:8], optax.tree_utils.tree_get(state, "count"))


@client("step")
def test_a_plateau_and_a_lookahead(optax):
    """The loss as an extra argument, and pairs of fast and slow parameters."""
    tx = optax.chain(
        optax.lookahead(optax.adam(0.05), sync_period=3, slow_step_size=0.5),
    )
    pair = optax.LookaheadParams.init_synced(params())
    plateau = optax.contrib.reduce_on_plateau(patience=2, factor=0.5, rtol=0.5)
    state, at = tx.init(pair), plateau.init(pair.fast)

    @jax.jit
    def step(pair, state, at):
        loss, grads = jax.value_and_grad(loss_of)(pair.fast)
        updates, state = tx.update(grads, state, pair)
        fast, at = plateau.update(updates.fast, at, value=loss)
        return optax.apply_updates(pair, updates._replace(fast=fast)), state, at, loss

    losses = []
    for _ in range(STEPS):
        pair, state, at, loss = step(pair, state, at)
        losses.append(loss)
    assert float(at.scale) < 1
    return losses, (pair, state, at)


@slow
@client("step")
def test_a_loss_with_other_helpers(optax):
    """Losses, projections, noise and the tree functions that only Optax has."""

    def loss(p):
        out = apply(p, X)
        return optax.l2_loss(out, Y).mean() + 1e-3 * optax.tree.norm(p, squared=True)

    tx = optax.chain(
        optax.zero_nans(),
        optax.add_noise(0.01, 0.55, jax.random.key(3)),
        optax.adagrad(0.3, eps=1e-2),
        optax.ema(0.5),
    )
    losses, (p, _) = trained(optax, tx, params(), loss)
    return losses, optax.projections.projection_l2_ball(p, 1.0)
