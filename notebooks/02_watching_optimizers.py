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
# **ravine** is 100 times steeper across than along. At the **saddle** the gradient along y is nearly 0 at
# first. **Rosenbrock's** valley is curved. **Beale's** surface is flat around its minimum, and very steep
# elsewhere.


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
# They differ in what they make of a gradient: SGD and its momentum keep its size; Adagrad, RMSprop and Adam
# divide each coordinate by the size of its own gradients; four refine Adam; and three keep only signs, or
# bring the step to the norm of the parameters.

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


def best(f, maker, start, steps, minimum):
    """The best rate, and its mean loss over the last ten steps."""
    tx = gx.inject_hyperparams(maker)(learning_rate=1.0)

    def run(rate):
        def step(carry, _):
            xy, state = carry
            updates, state = tx.update(jax.grad(f)(xy), state, xy)
            xy = gx.apply_updates(xy, updates)
            return (xy, state), f(xy)

        xy = jnp.array(start)
        state = gx.set_hyperparams(tx.init(xy), learning_rate=rate)
        losses = jax.lax.scan(step, (xy, state), length=steps)[1]
        return jnp.where((losses <= f(xy)).all(), losses[-10:].mean(), jnp.inf)

    losses = jax.jit(jax.vmap(run))(rates)
    return float(rates[losses.argmin()]), float(losses.min())


found = {
    (f, name): best(f, maker, **surface)
    for f, surface in surfaces.items()
    for makers in families.values()
    for name, maker in makers.items()
}

# %% [markdown]
# The losses, with the rates in parentheses; the least of each column in bold. All four minima are 0.

# %%
least = {f: min(loss for (g, _), (_, loss) in found.items() if g is f) for f in surfaces}
cells = []
for name in dict.fromkeys(name for _, name in found):
    cells.append(f"<tr><td style='text-align: left'>{name}</td>")
    for f in surfaces:
        rate, loss = found[f, name]
        shown = f"<b>{loss:.1e}</b>" if loss == least[f] else f"{loss:.1e}"
        cells.append(f"<td>{shown} ({rate:.2g})</td>")
    cells.append("</tr>")
HTML(
    "<table><tr><th></th>"
    + "".join(
        f"<th>{f.__name__.capitalize()}, {surface['steps']} steps</th>" for f, surface in surfaces.items()
    )
    + f"</tr>{''.join(cells)}</table>"
)


# %% [markdown]
# ## The paths


# %%
def draw(f, bounds):
    figure, axes = plt.subplots(2, 2, figsize=(8.5, 6.8))
    for ax, (family, makers) in zip(axes.flat, families.items(), strict=True):
        chosen = [maker(found[f, name][0]) for name, maker in makers.items()]
        gradx.plot.plot_trajectory(f, *chosen, **surfaces[f], labels=list(makers), bounds=bounds, ax=ax)
        ax.set_title(family)
    figure.suptitle(f"{f.__name__.capitalize()}, {surfaces[f]['steps']} steps")


draw(ravine, ((-4.5, 1.5), (-1.2, 1.2)))

# %%
draw(saddle, ((-2.4, 1.8), (-1.4, 2.0)))

# %%
draw(rosenbrock, ((-1.8, 1.6), (-0.6, 2.0)))

# %%
draw(beale, ((-1.0, 4.2), (-1.7, 2.0)))

# %% [markdown]
# ## An animation
#
# Four of them on Rosenbrock's valley at the same pace. The marker is where each is.

# %%
names = ["momentum", "Adam", "Lion", "LARS"]
makers = {name: maker for family in families.values() for name, maker in family.items()}
chosen = [makers[name](found[rosenbrock, name][0]) for name in names]
figure, ax = plt.subplots(figsize=(5.6, 4.6))
bounds = (-1.6, 1.4), (-0.4, 1.5)
gradx.plot.plot_trajectory(rosenbrock, *chosen, **surfaces[rosenbrock], labels=names, bounds=bounds, ax=ax)
lines = ax.get_lines()[: len(names)]
paths = [line.get_xydata() for line in lines]


def picture(i):
    for line, path in zip(lines, paths, strict=True):
        line.set_data(*path[: i + 1].T)
        line.set_markevery([i])
    ax.set_title(f"step {i}")
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")


frames = [picture(i) for i in [*range(0, 201, 5), *[200] * 10]]
colors = frames[-1].quantize(32)  # the same in all frames: only what moves takes bytes
first, *others = [frame.quantize(palette=colors, dither=Image.Dither.NONE) for frame in frames]
gif = io.BytesIO()
first.save(gif, "gif", save_all=True, append_images=others, duration=120, loop=0)
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
# but too large: `nu` lags more than `mu` does, and its root is the divisor.

# %%
same = jnp.ones((1000, 1))
steps = np.arange(1, 1001)
figure, axes = plt.subplots(1, 2, figsize=(8.7, 3.2))
axes[0].semilogx(steps, share, "-", label="nu")
axes[0].semilogx(steps, share / (1 - 0.999**steps), "--", label="nu / (1 - b2ᵗ)")
axes[0].set(title="share of the variance seen", xlabel="step (log scale)", ylim=(0, 1.1))
for label, correct, line in [("without correction", False, "-"), ("Adam", True, "--")]:
    updates, _ = run(gx.scale_by_adam(bias_correction=correct), same)
    axes[1].semilogx(steps, updates, line, label=label)
    print(
        f"{label}: {updates[0, 0]:.2f} at step 1, at most {updates.max():.2f} (step {updates.argmax() + 1})"
    )
axes[1].set(title="update by learning rate, one gradient", xlabel="step (log scale)", ylim=0)
for ax in axes:
    ax.legend()

# %%
corrected, not_corrected = gx.adam(0.05), gx.adam(0.05, bias_correction=False)
ax = gradx.plot.plot_trajectory(ravine, corrected, not_corrected, **surfaces[ravine])

# %% [markdown]
# ## The place of weight decay
#
# In front of `scale_by_adam`, decay is part of the gradient (L2), and is divided by its size as all of it
# is; behind, it is a share of the weight (AdamW). Here are weights that start at 1, with gradients that are
# noise of sizes from 0.001 to 10, so that decay alone moves their mean; 1,000 weights for each size.

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

    weights = jnp.ones((len(sizes), 1000))
    return jax.lax.scan(step, (weights, tx.init(weights)), jax.random.split(jax.random.key(1), 1000))[1]


decay, adam, rate = gx.add_decayed_weights(0.1), gx.scale_by_adam(), gx.scale_by_learning_rate(0.01)
orders = {"L2 in Adam": gx.chain(decay, adam, rate), "AdamW": gx.chain(adam, decay, rate)}
figure, axes = plt.subplots(1, 2, figsize=(8.7, 3.2), sharey=True)
for (label, tx), color in zip(orders.items(), ["tab:orange", "black"], strict=True):
    means = mean_weights(tx)
    axes[0].plot(steps, means[:, -1], "-", color=color, label=f"{label}, gradients of 10")
    axes[0].plot(steps, means[:, 3], ":", color=color, label=f"{label}, gradients of {sizes[3]:.2g}")
    axes[1].semilogx(sizes, means[-1], "o-" if color == "black" else "s--", color=color, label=label)
axes[0].set(title="over the run", xlabel="step", ylabel="mean weight", ylim=(-0.05, 1.05))
axes[1].set(title="after 1,000 steps", xlabel="size of the gradients (log scale)")
for ax in axes:
    ax.legend()

# %% [markdown]
# ## Decay beside the step, or after it
#
# Texts and programs write AdamW in two ways: the share of the weight before the step, or of what the step
# left. gradx, as Optax and PyTorch, takes the first; `decay_order="after"` takes the second. They differ by
# learning rate² · decay · direction at each step. With a constant gradient Adam's direction is 1, and the
# weight settles where step and decay are equal:


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
