# %% [markdown]
# # Chains
#
# Every optimizer in gradx is a chain of small transformations of the gradient. This notebook goes from SGD to
# LAMB one link at a time and shows what each link does to one gradient; then it looks at a chain from outside
# (how it prints, what its state holds, when two are equal) and trains a network with it.
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
# Two parameters, a kernel and a bias, and a gradient whose elements are of very different sizes, as those of
# real networks are. A transformation is a pair of functions: `init` makes a state from the parameters, and
# `update` takes gradients and state to updates and the next state. The updates are *added* to the parameters.

# %%
params = {"kernel": jnp.array([[0.5, -1.0], [2.0, 1.0], [-0.5, 1.5]]), "bias": jnp.array([0.1, -0.1])}
gradient = {"kernel": jnp.array([[4.0, -2.0], [0.8, 0.2], [-0.05, 0.01]]), "bias": jnp.array([0.3, -0.02])}

tx = gx.scale_by_learning_rate(0.1)  # SGD
state = tx.init(params)
updates, state = tx.update(gradient, state, params)
updates


# %% [markdown]
# The pictures below show such updates, the kernel above the bias. The darker an element, the larger it is
# beside the others of its picture.


# %%
def first_update(tx):
    return tx.update(gradient, tx.init(params), params)[0]


def show(trees):
    figure, axes = plt.subplots(1, len(trees), figsize=(1.45 * len(trees), 2.5), squeeze=False)
    for ax, (title, tree) in zip(axes.flat, trees.items(), strict=True):
        rows = np.concatenate([tree["kernel"], np.full((1, 2), np.nan), tree["bias"][None]])
        size = np.abs(rows)
        ax.imshow(size, cmap="Greys", vmin=0, vmax=1.25 * np.nanmax(size), aspect="auto")
        for (i, j), x in np.ndenumerate(rows):
            dark = size[i, j] > 0.6 * np.nanmax(size)
            ax.text(j, i, "" if np.isnan(x) else f"{x:.2g}", ha="center", va="center", color="w" if dark else "k")
        ax.set_title(title, fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([1, 4] if ax is axes.flat[0] else [], ["kernel", "bias"] if ax is axes.flat[0] else [])
        ax.spines[:].set_visible(False)


show({"gradient": gradient, "SGD": first_update(tx)})

# %% [markdown]
# ## Momentum: `trace`
#
# `trace` adds up the gradients of the past, each step 0.9 times as much of them as before. At the first step there is
# no past. Its effect shows over steps: where the gradient stays the same the updates grow, up to ten times;
# where its sign changes at every step, they shrink. `nesterov=True` looks one step ahead.

# %%
chains = {
    "SGD": gx.scale_by_learning_rate(0.1),
    "momentum": gx.chain(gx.trace(0.9), gx.scale_by_learning_rate(0.1)),
    "Nesterov": gx.chain(gx.trace(0.9, nesterov=True), gx.scale_by_learning_rate(0.1)),
    "Adam": gx.chain(gx.scale_by_adam(), gx.scale_by_learning_rate(0.1)),
}


def norms(tx, signs):
    """The norm of the update at each step, if the gradient comes with these signs."""

    def step(state, sign):
        updates, state = tx.update(jax.tree.map(lambda g: sign * g, gradient), state, params)
        return state, optax.global_norm(updates)

    return jax.lax.scan(step, tx.init(params), signs)[1]


steps = jnp.arange(30)
figure, axes = plt.subplots(1, 2, figsize=(8.5, 2.8), sharey=True)
for ax, name, signs in [(axes[0], "the same gradient", steps * 0 + 1.0), (axes[1], "signs in turn", (-1.0) ** steps)]:
    for (label, tx), line in zip(chains.items(), ["-", "--", ":", "-."], strict=True):
        ax.semilogy(steps + 1, norms(tx, signs), line, label=label)
    ax.set(title=name, xlabel="step")
axes[0].set_ylabel("norm of the update")
axes[1].legend(loc="lower right")
_ = figure

# %% [markdown]
# ## Adam: `scale_by_adam`
#
# The same picture shows what Adam's link does: its updates have one size, whatever that of the gradient. It divides
# the mean of each element by its root mean square, so that at the first step only the sign is left.

# %%
tx = gx.chain(gx.scale_by_adam(), gx.scale_by_learning_rate(0.1))
show({"SGD": first_update(chains["SGD"]), "Adam": first_update(tx)})

# %% [markdown]
# ## AdamW: `add_decayed_weights`
#
# Decay pulls each parameter towards 0 by a share of itself. It needs the parameters, which is why `update` is given
# them, and it is often kept from biases and norms by a mask. Beside the parameters, what decay by 0.2 adds to
# the step: the second differs from Adam by -0.1 · 0.2 · parameter, and the third only in the kernel.

# %%
adamw = gx.chain(gx.scale_by_adam(), gx.add_decayed_weights(0.2), gx.scale_by_learning_rate(0.1))
masked = gx.chain(
    gx.scale_by_adam(),
    gx.add_decayed_weights(0.2, mask="matrices_only"),
    gx.scale_by_learning_rate(0.1),
)
show({"parameters": params, "Adam": first_update(tx), "AdamW": first_update(adamw), "masked": first_update(masked)})

# %% [markdown]
# **The order of links matters.** In front of Adam, the share is part of the gradient (L2), and is divided as it is:
# where the gradient is large nothing of it is left. Behind Adam, all parameters decay alike.
# Notebook [2](02_watching_optimizers.ipynb) measures what that does over a run.

# %%
l2 = gx.chain(gx.add_decayed_weights(0.2), gx.scale_by_adam(), gx.scale_by_learning_rate(0.1))
difference = lambda a, b: jax.tree.map(lambda x, y: x - y, first_update(a), first_update(b))
show({"parameters": params, "decay, L2": difference(l2, tx), "decay, AdamW": difference(adamw, tx)})

# %% [markdown]
# ## Clipping: `clip_by_global_norm`
#
# In front of all, it shortens a gradient whose norm over *all* arrays is above a bound, and keeps its direction. Behind
# it Adam would hide a common factor; what is left of it is one bad step that weighs less. Here the gradient is
# 100 times as large at one step of 30: without clipping, that step is what Adam remembers.

# %%
clipped = gx.chain(gx.clip_by_global_norm(1.0), gx.scale_by_adam(), gx.scale_by_learning_rate(0.1))
spike = jnp.where(steps == 9, 100.0, 1.0)
figure, ax = plt.subplots(figsize=(6, 2.8))
ax.plot(steps + 1, norms(tx, spike), "--", label="Adam")
ax.plot(steps + 1, norms(clipped, spike), "-", label="clipped")
ax.set(title="one gradient of 30 is 100 times as large", xlabel="step", ylabel="norm of the update")
_ = ax.legend()

# %% [markdown]
# ## LAMB: `scale_by_trust_ratio`
#
# Last, each array's update is brought to the norm of its parameter, so that with a learning rate of 0.1 every array moves
# by a tenth of itself. With that, the whole of LAMB, link by link: what leaves each link at the first step.

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
show({"gradient": gradient} | dict(zip(names, after, strict=True)))

# %%
norm = lambda tree, name: float(jnp.linalg.norm(tree[name]))
print(f"{'norm of':14} {'kernel':>8} {'bias':>8}")
for name, tree in {"parameters": params, "gradient": gradient, **dict(zip(names, after, strict=True))}.items():
    print(f"{name:14} {norm(tree, 'kernel'):8.3f} {norm(tree, 'bias'):8.3f}")

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
# It prints as the call that made it. Two of equal calls are equal, have one hash, and are compiled once where one is a
# static argument of `jit`; and pickle keeps them.

# %%
again = gx.chain(*links[:-1], gx.scale_by_learning_rate(schedule))
print(repr(gx.chain(gx.scale_by_adam(), gx.scale_by_learning_rate(1e-3))))
assert lamb == again
assert hash(lamb) == hash(again)
assert pickle.loads(pickle.dumps(lamb)) == lamb
assert lamb != adamw

# %% [markdown]
# The optimizers by name are such chains, to the last bit:


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


by_name = gx.lamb(schedule, weight_decay=0.2, mask="matrices_only")
print("AdamW:", largest_difference(adamw, gx.adamw(0.1, weight_decay=0.2)))
print("LAMB: ", largest_difference(lamb, gx.chain(gx.clip_by_global_norm(1.0), by_name)))

# %% [markdown]
# `explain` tells which links each parameter goes through, and with what. The bias has no decay:

# %%
gx.explain(lamb, params)

# %% [markdown]
# ## The state
#
# It is the tuple of the states of the links, and `jax.eval_shape` shows it without computing anything. Clipping and
# the trust ratio remember nothing; Adam has two slots for each parameter. They are float32 for these bfloat16 parameters
# too, as the mean of squares stalls in fewer bits (notebook [6](06_low_precision.ipynb)).

# %%
half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
jax.eval_shape(lamb.init, half)

# %% [markdown]
# `slots` lists what a state holds of each parameter by name, wherever in a chain it is:

# %%
state = lamb.init(params)
_, state = lamb.update(gradient, state, params)
for name, path, value in gx.slots(state, params):
    print(f"{name} {path:8}", np.array2string(value, precision=4).replace("\n", ""))

# %% [markdown]
# ## Optax within, and within Optax
#
# A chain takes any transformation of Optax as a link, and is itself one of Optax.

# %%
foreign = gx.chain(optax.clip_by_global_norm(1.0), gx.scale_by_adam(), optax.scale(-0.1))
within = optax.chain(optax.clip_by_global_norm(1.0), gx.chain(gx.scale_by_adam(), gx.scale(-0.1)))
print(largest_difference(clipped, foreign), largest_difference(clipped, within))

# %% [markdown]
# ## Ten lines of training
#
# Handwritten digits, a network with one hidden layer, and the LAMB from above. `measured` around it keeps in the state what the
# links do, and computes nothing else anew.

# %%
digits = load_digits()
images, labels = jnp.array(digits.data / 16, jnp.float32), jnp.array(digits.target)
train, test = slice(0, 1437), slice(1437, None)


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
# `plot_history` draws what was measured.

# %%
axes = gradx.plot.plot_history(history)

# %% [markdown]
# ## Where to go on
#
# [Watching optimizers](02_watching_optimizers.ipynb) compares sixteen of them on surfaces that can be drawn,
# [Schedules and the range test](03_schedules.ipynb) picks a learning rate, and
# [Your own rule](04_your_own_rule.ipynb) adds a link of your own.
