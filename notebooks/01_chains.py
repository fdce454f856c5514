# %% [markdown]
# # Chains
#
# Every optimizer in gradx is a chain of small transformations. This notebook builds one, looks inside,
# compares the paths that six optimizers take, tries thirty learning rates at once, and adds a rule of its
# own.
#
# It needs `pip install 'gradx[examples]'`.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import gradx as gx

plt.rcParams["figure.dpi"] = 64

# %% [markdown]
# ## A chain, and what is in it
#
# Links act from left to right: clip, find a direction, decay the weights, step. A chain prints as the call
# that made it, and two equal ones are equal.

# %%
schedule = gx.warmup_cosine_decay_schedule(0.0, 0.1, warmup_steps=20, decay_steps=200)
tx = gx.chain(
    gx.clip_by_global_norm(1.0),
    gx.scale_by_adam(b2=0.99),
    gx.add_decayed_weights(1e-3, mask="matrices_only"),
    gx.scale_by_learning_rate(schedule),
)
tx

# %% [markdown]
# Its state is the tuple of the states of its links. The moments are float32, even for these bfloat16
# parameters, and `jax.eval_shape` shows it without computing anything.

# %%
params = {"kernel": jnp.ones((2, 3), jnp.bfloat16), "bias": jnp.zeros(3, jnp.bfloat16)}
jax.eval_shape(tx.init, params)


# %% [markdown]
# ## Six paths down one valley
#
# A narrow valley, 30 times steeper across than along. Momentum swings across it, Adam curves into it, every
# step of Lion has one length, and those of LARS and LAMB are in proportion to the norm of the parameters.


# %%
def valley(p):
    x, y = p
    return 0.5 * (x**2 + 30 * y**2)


def path(tx, start, steps):
    def step(carry, _):
        p, state = carry
        updates, state = tx.update(jax.grad(valley)(p), state, p)
        p = gx.apply_updates(p, updates)
        return (p, state), p

    _, points = jax.lax.scan(step, (start, tx.init(start)), length=steps)
    return jnp.concatenate([start[None], points])


run = jax.jit(path, static_argnums=(0, 2))  # equal optimizers are compiled once

start, steps = jnp.array([-4.0, 1.0]), 60
fall = lambda rate: gx.cosine_decay_schedule(rate, steps)
optimizers = [
    gx.sgd(fall(0.03), momentum=0.9),
    gx.adam(fall(0.3)),
    gx.adamw(fall(0.3), weight_decay=0.1),
    gx.lion(fall(0.15)),
    gx.lars(fall(0.1), trust_coefficient=1.0, momentum=0.5),
    gx.lamb(fall(0.2)),
]

# %%
x, y = jnp.meshgrid(jnp.linspace(-5, 2, 120), jnp.linspace(-1.4, 1.4, 120))
figure, axes = plt.subplots(2, 3, figsize=(9, 4), sharex=True, sharey=True, layout="constrained")
for ax, tx in zip(axes.flat, optimizers, strict=True):
    ax.contour(x, y, jnp.sqrt(valley((x, y))), levels=6, linewidths=0.5, colors="grey")
    ax.plot(*run(tx, start, steps).T, marker=".", ms=3, lw=0.8)
    ax.set_title(repr(tx).partition("(")[0], fontsize=9)

# %% [markdown]
# ## Thirty learning rates at once
#
# `inject_hyperparams` moves the numbers into the state, where `vmap` can give each run its own. One
# compilation serves all.

# %%
tx = gx.inject_hyperparams(gx.adam)(1.0)
rates = jnp.logspace(-3, 1, 30)


def last_loss(rate):
    state = gx.set_hyperparams(tx.init(start), learning_rate=rate)

    def step(carry, _):
        p, state = carry
        updates, state = tx.update(jax.grad(valley)(p), state, p)
        return (gx.apply_updates(p, updates), state), None

    (p, _), _ = jax.lax.scan(step, (start, state), length=100)
    return valley(p)


losses = jax.jit(jax.vmap(last_loss))(rates)
plt.figure(figsize=(5, 3))
plt.loglog(rates, losses, marker=".")
plt.xlabel("learning rate of Adam")
plt.ylabel("loss after 100 steps")
# %% [markdown]
# ## A rule of one's own
#
# A rule is written for one array and asks by name for what it uses: the gradient `g`, a slot of the state,
# a hyperparameter. `leafwise` lifts it to any tree of parameters, counts steps, keeps dtypes and resolves
# schedules; `factory` makes equal calls equal.

# %%
from typing import NamedTuple


class CautiousState(NamedTuple):
    trace: jax.Array


@gx.factory
def cautious_momentum(decay=0.9):
    """Momentum, but only where it agrees with the gradient (Liang et al. 2024, arXiv:2411.16085)."""

    def rule(g, trace, decay):
        trace = decay * trace + g
        return jnp.where(trace * g > 0, trace, 0.0), trace

    return gx.leafwise(CautiousState, rule, decay=decay)


cautious = gx.chain(cautious_momentum(0.9), gx.scale_by_learning_rate(fall(0.03)))
plain = gx.chain(gx.trace(0.9), gx.scale_by_learning_rate(fall(0.03)))
{repr(tx).split("(")[1]: float(valley(run(tx, start, steps)[-1])) for tx in (plain, cautious)}
