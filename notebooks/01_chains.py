# %% [markdown]
# # Chains
#
# Every optimizer in gradx is a chain of small transformations of the gradient. This notebook goes from SGD
# to LAMB one link at a time and shows what each link does to one gradient. Then it looks at a chain from
# outside (how it prints, what its state holds, when two are equal) and trains a network with it.
#
# It needs `pip install 'gradx[notebooks]'`, or `make lab` in a clone.

# %%
import pickle

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import gradx as gx
import gradx.plot

plt.rcParams.update({"figure.dpi": 80, "figure.constrained_layout.use": True, "font.size": 9})

# %% [markdown]
# ## One gradient
#
# Two parameters, a kernel and a bias, and a gradient whose elements differ in size by far, as those of real
# networks do. A transformation is a pair of functions: `init` makes a state from the parameters, and
# `update` turns gradients and state into updates and the next state. The updates are *added* to the
# parameters.

# %%
params = {"kernel": jnp.array([[0.5, -1.0], [2.0, 1.0], [-0.5, 1.5]]), "bias": jnp.array([0.5, -0.5])}
gradient = {"kernel": jnp.array([[4.0, -2.0], [0.8, 0.2], [-0.05, 0.01]]), "bias": jnp.array([0.3, -0.02])}

tx = gx.scale_by_learning_rate(0.1)  # SGD
state = tx.init(params)
updates, state = tx.update(gradient, state, params)
updates


# %% [markdown]
# The pictures below show such updates, the kernel above the bias. The darker an element, the larger it is
# beside the others of its column. SGD changes the scale of the gradient, and nothing else:


# %%
def first_update(tx):
    return tx.update(gradient, tx.init(params), params)[0]


def show(trees):
    axes = plt.subplots(1, len(trees), figsize=(1.45 * len(trees), 2.5))[1]
    for ax, (title, tree) in zip(axes, trees.items(), strict=True):
        rows = np.concatenate([tree["kernel"], np.full((1, 2), np.nan), tree["bias"][None]])
        rows = np.round(rows, 6) + 0.0  # no rounding errors, no -0
        size = np.abs(rows)
        ax.imshow(size, cmap="Greys", vmin=0, vmax=1.25 * np.nanmax(size) or 1, aspect="auto")
        for (i, j), x in np.ndenumerate(rows):
            color = "w" if size[i, j] > 0.6 * np.nanmax(size) else "k"
            ax.text(j, i, "" if np.isnan(x) else f"{x:.2g}", ha="center", va="center", color=color)
        ax.set_title(title, fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([1, 4], ["kernel", "bias"] if ax is axes[0] else ["", ""])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)


show({"gradient": gradient, "SGD": first_update(tx)})

# %% [markdown]
# ## Momentum: `trace`
#
# `trace` adds each gradient to 0.9 times the sum so far. The first step has no past, so the effect shows
# over several: where the gradient stays the same, updates grow, up to ten times; where its sign changes at
# every step, they shrink to about half. (`nesterov=True` weighs the newest gradient more.)

# %%
chains = {
    "SGD": gx.scale_by_learning_rate(0.1),
    "momentum": gx.chain(gx.trace(0.9), gx.scale_by_learning_rate(0.1)),
    "Adam": gx.chain(gx.scale_by_adam(), gx.scale_by_learning_rate(0.1)),
}


def norms(tx, factors):
    """The norm of the update at each step, if the gradient comes times these factors."""

    def step(state, factor):
        updates, state = tx.update(jax.tree.map(lambda g: factor * g, gradient), state, params)
        return state, optax.tree.norm(updates)

    return jax.lax.scan(step, tx.init(params), factors)[1]


steps = jnp.arange(30)
streams = {
    "the same gradient at every step": steps * 0 + 1.0,
    "its sign changes at every step": (-1.0) ** steps,
}
figure, axes = plt.subplots(1, 2, figsize=(8.5, 2.8), sharey=True)
for ax, (title, factors) in zip(axes, streams.items(), strict=True):
    for (label, tx), line in zip(chains.items(), ["-", "--", ":"], strict=True):
        ax.semilogy(steps + 1, norms(tx, factors), line, label=label)
    ax.set(title=title, xlabel="step")
axes[0].set_ylabel("norm of the update")
_ = axes[0].legend(loc="lower right")

# %% [markdown]
# ## Adam: `scale_by_adam`
#
# `scale_by_adam` divides the mean of each element by its root mean square. At the first step both are that
# one gradient, so that its sign alone is left: all elements move alike, whatever the size of their
# gradients. Above, Adam's updates stay at one length where gradients agree, and become small where they do
# not.

# %%
adam = gx.chain(gx.scale_by_adam(), gx.scale_by_learning_rate(0.1))
show({"SGD": first_update(chains["SGD"]), "Adam": first_update(adam)})

# %% [markdown]
# ## AdamW: `add_decayed_weights`
#
# Decay pulls each parameter towards 0 by a share of itself; this link is why `update` is given the
# parameters. AdamW differs from Adam by -0.1 · 0.2 · parameter. A mask keeps decay from biases and the
# scales of norms, as is usual: the last column differs from Adam in the kernel only.

# %%
adamw = gx.chain(gx.scale_by_adam(), gx.add_decayed_weights(0.2), gx.scale_by_learning_rate(0.1))
masked = gx.chain(
    gx.scale_by_adam(),
    gx.add_decayed_weights(0.2, mask="matrices_only"),
    gx.scale_by_learning_rate(0.1),
)
updates = {"Adam": first_update(adam), "AdamW": first_update(adamw), "AdamW, masked": first_update(masked)}
show({"parameters": params} | updates)

# %% [markdown]
# **The order of links matters.** In front of Adam, the share is a part of the gradient (L2), and is divided
# with it. At the first step, of which Adam keeps the sign, nothing is left of it. Behind Adam, every
# parameter decays by the same share. The columns are what decay adds to Adam's step; [notebook
# 2](02_watching_optimizers.ipynb) shows what that does over a run.

# %%
l2 = gx.chain(gx.add_decayed_weights(0.2), gx.scale_by_adam(), gx.scale_by_learning_rate(0.1))
added = lambda tx: jax.tree.map(jnp.subtract, first_update(tx), first_update(adam))
show({"parameters": params, "by L2": added(l2), "by AdamW": added(adamw)})

# %% [markdown]
# ## Clipping: `clip_by_global_norm`
#
# In front of all, it shortens a gradient whose norm over *all* arrays is above a bound, and keeps its
# direction. Here the gradient is 100 times as large at step 10. Without clipping, Adam's root mean square
# remembers that step long after its mean has forgotten it, and the updates become small.

# %%
clipped = gx.chain(gx.clip_by_global_norm(1.0), gx.scale_by_adam(), gx.scale_by_learning_rate(0.1))
spike = jnp.where(steps == 9, 100.0, 1.0)
figure, ax = plt.subplots(figsize=(6, 2.8))
ax.plot(steps + 1, norms(adam, spike), "--", label="Adam")
ax.plot(steps + 1, norms(clipped, spike), "-", label="clipped")
ax.set(
    title="at step 10 the gradient is 100 times as large",
    xlabel="step",
    ylabel="norm of the update",
    ylim=0,
)
_ = ax.legend()

# %% [markdown]
# ## LAMB: `scale_by_trust_ratio`
#
# Last, each array's update is brought to the norm of its parameter: with a learning rate of 0.1, every array
# moves by a tenth of its own norm. That is LAMB. What leaves each link at the first step:

# %%
links = [
    gx.clip_by_global_norm(1.0),
    gx.scale_by_adam(eps=1e-6),
    gx.add_decayed_weights(0.2, mask="matrices_only"),
    gx.scale_by_trust_ratio(),
    gx.scale_by_learning_rate(0.1),
]
names = ["clip", "Adam", "decay", "trust ratio", "learning rate"]
after = [first_update(gx.chain(*links[: i + 1])) for i in range(len(links))]
stages = {"gradient": gradient} | dict(zip(names, after, strict=True))
show(stages)

# %%
print(f"{'norm of':14} {'kernel':>8} {'bias':>8}")
for name, tree in ({"parameters": params} | stages).items():
    print(f"{name:14} {jnp.linalg.norm(tree['kernel']):8.3f} {jnp.linalg.norm(tree['bias']):8.3f}")

# %% [markdown]
# ## A schedule in the rate
#
# Every number of a link can be a function of the step, counted from 0. A warm-up and a cosine, as the rate:

# %%
schedule = gx.warmup_cosine_decay_schedule(0.0, 0.02, warmup_steps=20, decay_steps=300)
lamb = gx.chain(*links[:-1], gx.scale_by_learning_rate(schedule))
lamb

# %% [markdown]
# ## A chain is a value
#
# It prints as the call that made it (above, point at a name to read what the link does). Equal calls make
# equal values with one hash, so `jit` compiles once for both as a static argument; and pickle keeps them.

# %%
again = gx.chain(*links[:-1], gx.scale_by_learning_rate(schedule))
print(repr(gx.chain(gx.scale_by_adam(), gx.scale_by_learning_rate(1e-3))))
print(lamb == again, hash(lamb) == hash(again), pickle.loads(pickle.dumps(lamb)) == lamb, lamb == adamw)

# %% [markdown]
# The optimizers by name are such chains. Ten steps with either end at the same bits; the largest
# differences:


# %%
def largest_difference(tx, other):
    """Over 10 steps along the gradient."""

    def run(tx):
        state, total = tx.init(params), params
        for _ in range(10):
            updates, state = tx.update(gradient, state, total)
            total = gx.apply_updates(total, updates)
        return jnp.concatenate([x.ravel() for x in jax.tree.leaves(total)])

    return float(abs(run(tx) - run(other)).max())


adamw_by_name = gx.adamw(0.1, weight_decay=0.2)
lamb_by_name = gx.chain(
    gx.clip_by_global_norm(1.0), gx.lamb(schedule, weight_decay=0.2, mask="matrices_only")
)
{
    "AdamW": largest_difference(adamw, adamw_by_name),
    "LAMB": largest_difference(lamb, lamb_by_name),
    "AdamW and LAMB": largest_difference(adamw, lamb),
}

# %% [markdown]
# `explain` lists the links that each parameter goes through, and with what. The bias has no decay:

# %%
gx.explain(lamb, params)

# %% [markdown]
# ## The state
#
# It is the tuple of the states of the links, and `jax.eval_shape` shows it without computing anything.
# Clipping and the trust ratio remember nothing; Adam has two slots for each parameter, `mu` and `nu`. They
# are float32 for these bfloat16 parameters too, as a mean of squares stalls in fewer bits ([notebook
# 6](06_low_precision.ipynb)).

# %%
half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
jax.eval_shape(lamb.init, half)

# %% [markdown]
# `slots` finds, by name, what a state holds for each parameter, wherever in a chain it is. After one step:

# %%
state = lamb.init(params)
_, state = lamb.update(gradient, state, params)
for name, path, value in gx.slots(state, params):
    print(f"{name} {path:8}", np.array2string(value, precision=4).replace("\n", ""))

# %% [markdown]
# ## Optax within, and within Optax
#
# A chain takes any transformation of Optax as a link, and is itself one that `optax.chain` takes. The
# differences from the chain of gradx alone, over ten steps:

# %%
foreign = gx.chain(optax.clip_by_global_norm(1.0), gx.scale_by_adam(), optax.scale(-0.1))
within = optax.chain(optax.clip_by_global_norm(1.0), gx.chain(gx.scale_by_adam(), gx.scale(-0.1)))
print(largest_difference(clipped, foreign), largest_difference(clipped, within))

# %% [markdown]
# ## Ten lines of training
#
# Handwritten digits, a network with one hidden layer, and LAMB with the schedule, 300 steps of 128 digits.
# `measured` keeps in the state what the links do (rate, norms, clipping, trust ratios), and `metrics` reads
# it.

# %%
digits = load_digits()
images, labels = jnp.array(digits.data / 16, jnp.float32), jnp.array(digits.target)
test = slice(1437, None)  # those before are to learn from


def scores(params, x):
    hidden = jax.nn.relu(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["scores"]["kernel"] + params["scores"]["bias"]


def loss(params, x, y):
    return optax.losses.softmax_cross_entropy_with_integer_labels(scores(params, x), y).mean()


def dense(key, n, m):
    return {"kernel": jax.random.normal(key, (n, m)) * jnp.sqrt(2 / n), "bias": jnp.zeros(m)}


first, second, shuffle = jax.random.split(jax.random.key(0), 3)
network = {"hidden": dense(first, 64, 64), "scores": dense(second, 64, 10)}

# %%
tx = gx.measured(lamb)


@jax.jit
def step(params, state, x, y):
    value, grads = jax.value_and_grad(loss)(params, x, y)
    updates, state = tx.update(grads, state, params)
    return gx.apply_updates(params, updates), state, {"loss": value} | gx.metrics(state)


state, history = tx.init(network), []
for rows in jax.random.randint(shuffle, (300, 128), 0, 1437):
    network, state, metrics = step(network, state, images[rows], labels[rows])
    history.append(metrics)

right = jnp.mean(scores(network, images[test]).argmax(axis=1) == labels[test])
print(f"{right:.1%} of the test digits are right")

# %% [markdown]
# `plot_history` draws what was measured. The biases start at 0: without a norm to go by their trust ratio is
# 1 at the first step; then it is small, as they are, which is why many leave biases out of LAMB's scaling.

# %%
axes = gradx.plot.plot_history(history)

# %% [markdown]
# ## Where to go on
#
# [Watching optimizers](02_watching_optimizers.ipynb) compares thirteen of them on surfaces that can be drawn,
# [Schedules and the range test](03_schedules.ipynb) picks a learning rate, and [Your own
# rule](04_your_own_rule.ipynb) adds a link of your own.
