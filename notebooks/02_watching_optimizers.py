# %% [markdown]
# # Watching optimizers
#
# On a surface with two coordinates one can see what an optimizer does. This notebook lets thirteen of them
# run on four surfaces, each with the learning rate that suits it best there, and then takes two pieces of
# Adam apart: what its bias correction is for, and what changes with the place of weight decay.
#
# It needs `pip install 'gradx[notebooks]'`, or `make lab` in a clone.

# %%
import base64
import io
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from PIL import Image

import gradx as gx
import gradx.plot

plt.rcParams.update({"figure.dpi": 80, "figure.constrained_layout.use": True, "font.size": 9})

# %% [markdown]
# ## Four surfaces
#
# Each is a function of one array of shape (2,), with a start, a minimum and a number of steps. The
# **ravine** is 100 times as steep across as along. At the **saddle** the gradient along y is nearly 0 at
# first, and there are minima on both sides. **Rosenbrock's** valley is curved. **Beale's** surface is flat
# around its minimum and steep elsewhere.


# %%
def ravine(xy):
    x, y = xy
    return x**2 / 2 + 50 * y**2


def saddle(xy):
    x, y = xy
    return (x**2 - y**2) / 2 + y**4 / 4 + 1 / 4


def rosenbrock(xy):
    x, y = xy
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def beale(xy):
    x, y = xy
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


surfaces = {
    ravine: {"start": (-4.0, 1.0), "minimum": (0.0, 0.0), "steps": 100},
    saddle: {"start": (-2.0, 0.01), "minimum": (0.0, 1.0), "steps": 50},
    rosenbrock: {"start": (-1.2, 1.0), "minimum": (1.0, 1.0), "steps": 200},
    beale: {"start": (1.0, 1.5), "minimum": (3.0, 0.5), "steps": 200},
}

# %% [markdown]
# ## Thirteen optimizers, four families
#
# They differ in what they make of a gradient. SGD keeps its size, with momentum or without. Adagrad, RMSprop
# and Adam divide each coordinate by the size of its own gradients. Four refine Adam. Lion keeps only signs,
# and LARS and LAMB bring the step to the norm of the parameters.


# %%
families = {
    "one scale for all coordinates": {
        "SGD": gx.sgd,
        "momentum": partial(gx.sgd, momentum=0.9),
        "Nesterov": partial(gx.sgd, momentum=0.9, nesterov=True),
    },
    "a scale for each coordinate": {
        "Adagrad": gx.adagrad,
        "RMSprop": gx.rmsprop,
        "Adam": gx.adam,
    },
    "refinements of Adam": {
        "NAdam": gx.nadam,
        "RAdam": gx.radam,
        "AdaBelief": gx.adabelief,
        "Lookahead(Adam)": lambda learning_rate: gx.lookahead(gx.adam(learning_rate)),
    },
    "signs, and norms": {
        "Lion": gx.lion,
        "LARS": gx.lars,
        "LAMB": gx.lamb,
    },
}
makers = {name: maker for family in families.values() for name, maker in family.items()}

# %% [markdown]
# ## A fair rate for each
#
# A comparison at one rate says which optimizer that rate suits. So each is run with 61 rates on each
# surface, all in one compiled `vmap`: `inject_hyperparams` puts the rate into the state, where it can differ
# from run to run.
#
# The best rate is that with the least mean loss over the last ten steps; the last step alone would let a
# path win that jumps about and was near the minimum just then. For the same reason, a path that ever rises
# above the loss at its start is out.

# %%
rates = jnp.geomspace(1e-4, 100.0, 61)


def last_losses(f, maker, rate, start, steps):
    """The mean loss of the last ten steps; infinite if the path ever rises above its start."""
    tx = gx.inject_hyperparams(maker)(learning_rate=1.0)

    def step(carry, _):
        xy, state = carry
        updates, state = tx.update(jax.grad(f)(xy), state, xy)
        xy = gx.apply_updates(xy, updates)
        return (xy, state), f(xy)

    xy = jnp.array(start)
    state = gx.set_hyperparams(tx.init(xy), learning_rate=rate)
    losses = jax.lax.scan(step, (xy, state), length=steps)[1]
    return jnp.where((losses <= f(xy)).all(), losses[-10:].mean(), jnp.inf)


def best(f, start, steps, **_):
    """For each optimizer the best rate, and the loss with it."""
    run = lambda rate: {name: last_losses(f, maker, rate, start, steps) for name, maker in makers.items()}
    losses = jax.jit(jax.vmap(run))(rates)
    return {name: (float(rates[loss.argmin()]), float(loss.min())) for name, loss in losses.items()}


found = {f: best(f, **surface) for f, surface in surfaces.items()}

# %% [markdown]
# The mean losses of the last ten steps, with the rates in parentheses; the least of each column in bold. All
# minima are 0. (LARS multiplies its rate by a trust coefficient of 0.001.)


# %%
least = {f: min(loss for _, loss in found[f].values()) for f in surfaces}
titles = [f"{f.__name__.capitalize()}, {surface['steps']} steps" for f, surface in surfaces.items()]


def row(cells, tag="td"):
    return f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"


def entry(f, name):
    rate, loss = found[f][name]
    return f"<b>{loss:.1e}</b> ({rate:.2g})" if loss == least[f] else f"{loss:.1e} ({rate:.2g})"


rows = [row([name, *(entry(f, name) for f in surfaces)]) for name in makers]
HTML(f"<table>{row(['', *titles], 'th')}{''.join(rows)}</table>")

# %% [markdown]
# ## The paths
#
# Along the **ravine**, SGD's rate is bounded by the steep direction, and it creeps along the other. Momentum
# gathers speed there, and swings; Nesterov's swings less. With a scale for each coordinate both directions
# are alike. Lion's steps are of one length, so that it zigzags until a schedule shortens them. RAdam's first
# five steps are those of SGD: the rate that they bear is too small for the steps after.


# %%
def draw(f, bounds):
    figure, axes = plt.subplots(2, 2, figsize=(8.5, 6.8))
    for ax, (title, family) in zip(axes.flat, families.items(), strict=True):
        chosen = [maker(found[f][name][0]) for name, maker in family.items()]
        gradx.plot.plot_trajectory(f, *chosen, **surfaces[f], labels=list(family), bounds=bounds, ax=ax)
        ax.set_title(title)
    figure.suptitle(f"{f.__name__.capitalize()}, {surfaces[f]['steps']} steps")


draw(ravine, ((-4.5, 1.5), (-1.2, 1.2)))

# %% [markdown]
# A scale for each coordinate is at its best here, as the ravine lies along an axis. Turned by 45 degrees it
# is the same to SGD, a little harder for Adam, and much harder for Adagrad. Each again at its best rate:


# %%
turn = jnp.array([[1.0, -1.0], [1.0, 1.0]]) / jnp.sqrt(2)


def turned(xy):
    return ravine(turn @ xy)


start = turn.T @ jnp.array(surfaces[ravine]["start"])
found[turned] = best(turned, start, 100)
print(f"{'':9} {'along x':>8} {'turned':>8}")
for name in ["SGD", "Adam", "Adagrad"]:
    print(f"{name:9} {found[ravine][name][1]:8.1e} {found[turned][name][1]:8.1e}")

# %% [markdown]
# At the **saddle** the gradient along y is a two-hundredth of that along x. SGD, momentum and LARS go along
# x first, and leave late; where each coordinate has its own scale, the path leaves at once. NAdam finds the
# other minimum.

# %%
draw(saddle, ((-2.4, 1.8), (-1.4, 2.0)))

# %% [markdown]
# In **Rosenbrock's** valley all come down to the floor in a few steps, and then differ in how far they get
# along it, where the gradient is small (the table above and the animation below tell). SGD, Adagrad and
# RAdam stay near the start. LARS gets to the end: its steps are a share of the norm of xy, however small the
# gradient is, and gather momentum.

# %%
draw(rosenbrock, ((-1.8, 1.6), (-0.6, 2.0)))

# %% [markdown]
# On **Beale's** surface the gradient is large at the start and small at the end. Adam, NAdam, AdaBelief and
# Lookahead get closest. Lion and LAMB stay at a distance: with a constant rate, the length of their steps
# does not go to 0.

# %%
draw(beale, ((-1.0, 4.2), (-1.7, 2.0)))

# %% [markdown]
# This is one start for each surface, in two dimensions, without noise and at constant rates. It shows how
# the rules move; which of them trains a network best is another question.

# %% [markdown]
# ## An animation
#
# Four of them on Rosenbrock's valley at the same pace. The marker is where each is.

# %%
names = ["momentum", "Adam", "Lion", "LARS"]
chosen = [makers[name](found[rosenbrock][name][0]) for name in names]
figure, ax = plt.subplots(figsize=(5.2, 4.2))
bounds = (-1.6, 1.4), (-0.4, 1.5)
gradx.plot.plot_trajectory(rosenbrock, *chosen, **surfaces[rosenbrock], labels=names, bounds=bounds, ax=ax)
lines = ax.get_lines()[: len(names)]
paths = [line.get_xydata() for line in lines]


def picture(i):
    for line, path in zip(lines, paths, strict=True):
        line.set_data(*path[: i + 1].T)
        line.set(markevery=[i], markersize=8)
    ax.set_title(f"step {i}")
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")


frames = [picture(i) for i in range(0, 201, 5)]
# The same colors in all frames: only what moves takes bytes.
colors = frames[-1].quantize(48, Image.Quantize.MAXCOVERAGE)
first, *others = [frame.quantize(palette=colors, dither=Image.Dither.NONE) for frame in frames]
gif = io.BytesIO()
milliseconds = [120] * len(others) + [1500]
first.save(gif, "gif", save_all=True, append_images=others, duration=milliseconds, loop=0)
plt.close(figure)
source = base64.b64encode(gif.getvalue()).decode()
HTML(f'<img src="data:image/gif;base64,{source}" alt="Four paths along Rosenbrock\'s valley, step by step">')

# %% [markdown]
# ## What bias correction is for
#
# Adam's means start at 0. After t steps, `nu` has seen the share 1 - b2ᵗ of the variance of the gradients,
# which is little for long with b2 = 0.999. Adam divides by that share. Here are 4,096 gradients of variance
# 1, and what `scale_by_adam` keeps of them:

# %%
gradients = jax.random.normal(jax.random.key(0), (1000, 4096))


def run(tx, gradients):
    """The updates and the states of every step."""

    def step(state, g):
        updates, state = tx.update(g, state)
        return state, (updates, state)

    return jax.lax.scan(step, tx.init(gradients[0]), gradients)[1]


_, states = run(gx.scale_by_adam(b2=0.999), gradients)
share = states.nu.mean(axis=1)
print("step  mean of nu  1 - b2ᵗ  corrected")
for t in [1, 100, 1000]:
    print(f"{t:4}  {share[t - 1]:10.4f}  {1 - 0.999**t:7.4f}  {share[t - 1] / (1 - 0.999**t):9.2f}")

# %% [markdown]
# Without the correction (`bias_correction=False`) the first updates are not too small, as one might think,
# but too large: the mean of squares, whose root is the divisor, lags more than the mean of gradients. With
# it, they are at the learning rate from the first step on.


# %%
same = jnp.ones((1000, 1))
steps = np.arange(1, 1001)
figure, axes = plt.subplots(1, 2, figsize=(8.5, 3))
axes[0].semilogx(steps, share, "-", label="nu")
axes[0].semilogx(steps, share / (1 - 0.999**steps), "--", label="nu / (1 - b2ᵗ)")
axes[0].set(title="gradients of variance 1", ylabel="mean of nu", ylim=(0, 1.1))
for label, correct, line in [("Adam", True, "--"), ("without correction", False, "-")]:
    updates, _ = run(gx.scale_by_adam(bias_correction=correct), same)
    axes[1].semilogx(steps, updates, line, label=label)
axes[1].set(title="the same gradient at every step", ylabel="update / learning rate", ylim=0)
for ax in axes:
    ax.set_xlabel("step (log scale)")
    ax.legend()
by_step = {t + 1: f"{updates[t, 0]:.2f}" for t in [0, int(updates.argmax()), 999]}
print("update / learning rate without correction, by step:", by_step)

# %% [markdown]
# On the ravine, the same rate without correction is a larger one at first: the path swings wider, and past
# the minimum. (It gets there sooner all the same, as 0.05 is a small rate here.)


# %%
corrected, not_corrected = gx.adam(0.05), gx.adam(0.05, bias_correction=False)
ax = plt.subplots(figsize=(6, 3.4))[1]
ax = gradx.plot.plot_trajectory(ravine, corrected, not_corrected, **surfaces[ravine], ax=ax)


# %% [markdown]
# ## The place of weight decay
#
# In front of `scale_by_adam`, decay is a part of the gradient (L2), and is divided by the size of the
# gradients; behind, it is a share of the weight (AdamW). Here are weights that start at 1, with gradients
# that are noise of sizes from 0.001 to 10, so that decay alone moves their mean: 4,000 weights for each
# size, 1,000 steps.


# %%
sizes = jnp.geomspace(1e-3, 10.0, 13)


def mean_weights(tx):
    """For each step and size of gradients, the mean of the weights."""

    def step(carry, key):
        weights, state = carry
        noise = sizes[:, None] * jax.random.normal(key, weights.shape)
        updates, state = tx.update(noise, state, weights)
        weights = gx.apply_updates(weights, updates)
        return (weights, state), weights.mean(axis=1)

    weights = jnp.ones((len(sizes), 4000))
    return jax.lax.scan(step, (weights, tx.init(weights)), jax.random.split(jax.random.key(1), 1000))[1]


decay, adam, rate = gx.add_decayed_weights(0.1), gx.scale_by_adam(), gx.scale_by_learning_rate(0.01)
orders = {"L2 in Adam": gx.chain(decay, adam, rate), "AdamW": gx.chain(adam, decay, rate)}
means = {label: mean_weights(tx) for label, tx in orders.items()}
figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.4), sharey=True)
for (label, mean), color, marker in zip(means.items(), ["tab:orange", "black"], ["s--", "o-"], strict=True):
    axes[0].plot(steps, mean[:, -1], "-", color=color, label=f"{label}, gradients of 10")
    axes[0].plot(steps, mean[:, 0], ":", color=color, label=f"{label}, gradients of 0.001")
    axes[1].semilogx(sizes, mean[-1], marker, color=color, label=label)
axes[0].set(title="over the run", xlabel="step", ylabel="mean weight", ylim=(-0.05, 1.05))
axes[1].set(title="after 1,000 steps", xlabel="size of the gradients (log scale)")
for ax in axes:
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False)

# %% [markdown]
# AdamW leaves (1 - rate · decay)¹⁰⁰⁰ of each weight, whatever its gradients. L2 in Adam takes small
# gradients' weights to 0, and leaves those with large gradients nearly as they were:

# %%
print(f"{'size':>5} {'L2 in Adam':>10} {'AdamW':>6}    (1 - 0.01 * 0.1) ** 1000 = {0.999**1000:.2f}")
for size, l2, adamw in np.array([sizes, *(mean[-1] for mean in means.values())]).T[[0, 9, 12]]:
    print(f"{size:5.3g} {abs(l2):10.2f} {adamw:6.2f}")

# %% [markdown]
# ## Decay beside the step, or after it
#
# Papers, books and programs write AdamW in two ways: decay takes a share of the weight before the step, or
# of what the step left. gradx does the first, as Optax and PyTorch do, and the second with
# `decay_order="after"`. (That decay is computed "before" the step or with it is the same: the direction does
# not depend on it.)
#
# The two differ by rate² · decay · direction at each step. With a constant gradient Adam's direction is 1,
# and a weight settles where step and decay are equal: at -1 / decay, or at (1 - rate · decay) of that.


# %%
def settled(order, learning_rate):
    """A weight after its first step, and after 20,000."""
    tx = gx.adamw(learning_rate, weight_decay=0.1, decay_order=order)

    def step(carry, _):
        weight, state = carry
        updates, state = tx.update(jnp.ones(()), state, weight)
        weight = gx.apply_updates(weight, updates)
        return (weight, state), weight

    weight = jnp.ones(())
    return jax.lax.scan(step, (weight, tx.init(weight)), length=20_000)[1][jnp.array([0, -1])]


orders = ["simultaneous", "before", "after"]
weights = {(rate, order): settled(order, rate) for rate in [1.0, 0.1, 0.01] for order in orders}
print("rate  order         after 1 step  settled")
for (rate, order), (first, last) in weights.items():
    print(f"{rate:4}  {order:12}  {first:12.5f}  {last:7.3f}")

# %% [markdown]
# At a rate of 0.01 the two settle a thousandth apart. It matters when a result is to be reproduced digit by
# digit, and where rate times decay is not small.
#
# ## Where to go on
#
# [Schedules and the range test](03_schedules.ipynb): rates that are not constant, and how to find one
# without sweeping. [Large batch](05_large_batch.ipynb): LARS and LAMB where they are at home.
