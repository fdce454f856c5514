# %% [markdown]
# # Schedules and the range test
#
# Every schedule of gradx in one place, drawn; the momentum that goes with a cycle; a rate that listens to
# the loss. Then how to pick a learning rate for a network and data of your own: the range test, thirty
# rates at once, and what the form of a schedule changes, measured over ten seeds.
#
# It needs `pip install 'gradx[notebooks]'`; in a clone, `make lab` installs and opens it. It runs in about
# a minute on two cores.

# %%
import inspect
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gradx as gx
import gradx.plot

plt.rcParams |= {"figure.dpi": 80, "axes.titlesize": 10, "legend.fontsize": 9}

# %% [markdown]
# ## A function of the step
#
# A schedule is a function from the step, 0 first, to a number. It may stand where any numeric
# hyperparameter stands, and it prints and compares as the call that made it.

# %%
schedule = gx.warmup_cosine_decay_schedule(0.0, 0.1, warmup_steps=20, decay_steps=200)
print(schedule, *[f"{schedule(step):.3f}" for step in (0, 10, 20, 110, 200)])
print(gx.adamw(schedule, weight_decay=gx.linear_schedule(0.1, 0.0, 200)))
print(gx.adamw(schedule) == gx.adamw(gx.warmup_cosine_decay_schedule(0.0, 0.1, 20, 200)))

# %% [markdown]
# `plot_schedule` draws any number of them over steps. Given a `Run`, which knows how many steps an epoch
# has, it draws them over epochs; and the same `Run` turns epochs and shares of the run into the steps that
# schedules are made with.

# %%
run = gx.Run(epochs=10, steps_per_epoch=20)
print(run.steps, run.epochs(1), run.fraction(0.7))
cooled = gx.wsd_schedule(0.0, 0.1, run.epochs(1), run.fraction(0.7), run.fraction(0.2))

_, axes = plt.subplots(1, 2, figsize=(8.75, 2.8), layout="constrained", sharey=True)
for ax, steps in zip(axes, (200, run), strict=True):
    gx.plot.plot_schedule(
        schedule, cooled, steps=steps, labels=["warm-up, cosine", "warm-up, stable, decay"], ax=ax
    )

# %% [markdown]
# ## All of them
#
# Each panel has the name of a schedule, and the cell above it the call. All run for 200 steps with a
# largest value of 0.1. First those of **one curve**.


# %%
shown = set()


def panels(schedules, steps=200):
    """A panel for each, three in a row; what follows a comma in a name tells variants apart."""
    rows = len(schedules) // 3
    _, axes = plt.subplots(
        rows, 3, figsize=(8.75, 1.55 * rows + 0.4), layout="constrained", sharex=True, sharey=True
    )
    for ax, (name, schedule) in zip(axes.flat, schedules.items(), strict=True):
        gx.plot.plot_schedule(schedule, steps=steps, ax=ax).get_legend().remove()  # the title says it
        ax.set_title(name, fontsize=9)
        ax.label_outer()
        shown.add(name.partition(",")[0])


panels(
    {
        "constant_schedule": gx.constant_schedule(0.1),
        "linear_schedule": gx.linear_schedule(0.1, 0.0, 200),
        "polynomial_schedule, power=2": gx.polynomial_schedule(0.1, 0.0, 2, 200),
        "exponential_decay": gx.exponential_decay(0.1, 50, 0.5),
        "exponential_decay, staircase": gx.exponential_decay(0.1, 50, 0.5, staircase=True),
        "step_schedule": gx.step_schedule(0.1, 80, gamma=0.3),
        "inverse_time_schedule": gx.inverse_time_schedule(0.1, 50, 1.0),
        "cosine_decay_schedule": gx.cosine_decay_schedule(0.1, 200),
        "cosine_decay_schedule, alpha=0.3": gx.cosine_decay_schedule(0.1, 160, alpha=0.3),
    }
)

# %% [markdown]
# Through **given points**, which are multiplied up (`piecewise_…`, `multi_step_schedule`) or simply named
# (`knots_schedule`).

# %%
points = {60: 0.5, 120: 0.5, 180: 0.1}
panels(
    {
        "piecewise_constant_schedule": gx.piecewise_constant_schedule(0.1, points),
        "piecewise_interpolate_schedule, linear": gx.piecewise_interpolate_schedule("linear", 0.1, points),
        "piecewise_interpolate_schedule, cosine": gx.piecewise_interpolate_schedule("cosine", 0.1, points),
        "multi_step_schedule": gx.multi_step_schedule(0.1, [100, 150], gamma=0.3),
        "knots_schedule": gx.knots_schedule({0: 0.02, 80: 0.1, 120: 0.05, 180: 0.0}),
        "knots_schedule, cosine": gx.knots_schedule({0: 0.02, 80: 0.1, 120: 0.05, 180: 0.0}, "cosine"),
    }
)

# %% [markdown]
# With **a rise first**. `warmup_schedule` puts one before any other schedule; the rest are the usual pairs
# under their usual names, here over epochs.

# %%
warm = run.epochs(1.5)
panels(
    {
        "warmup_schedule, of a step_schedule": gx.warmup_schedule(gx.step_schedule(0.1, 60, 0.5), warm),
        "warmup_constant_schedule": gx.warmup_constant_schedule(0.0, 0.1, warm),
        "warmup_cosine_decay_schedule": gx.warmup_cosine_decay_schedule(0.0, 0.1, warm, run.steps),
        "warmup_exponential_decay_schedule": gx.warmup_exponential_decay_schedule(0.0, 0.1, warm, 50, 0.5),
        "inverse_sqrt_schedule": gx.inverse_sqrt_schedule(0.0, 0.1, warm),
        "wsd_schedule": gx.wsd_schedule(0.0, 0.1, warm, run.fraction(0.6), run.fraction(0.25)),
    },
    steps=run,
)

# %% [markdown]
# **Cycles**: once, or again and again.

# %%
cycle = {"init_value": 0.0, "warmup_steps": 20}
panels(
    {
        "linear_onecycle_schedule": gx.linear_onecycle_schedule(200, 0.1),
        "cosine_onecycle_schedule": gx.cosine_onecycle_schedule(200, 0.1),
        "cosine_restarts_schedule": gx.cosine_restarts_schedule(0.1, 30, t_mult=2, m_mult=0.8),
        "sgdr_schedule": gx.sgdr_schedule(
            [cycle | {"peak_value": 0.1, "decay_steps": 80}, cycle | {"peak_value": 0.06, "decay_steps": 120}]
        ),
        "cyclic_schedule": gx.cyclic_schedule(0.01, 0.1, 25),
        "cyclic_schedule, triangular2": gx.cyclic_schedule(0.01, 0.1, 25, mode="triangular2"),
    }
)

# %% [markdown]
# **Of schedules**: one after another, the product of several, one that is ahead or behind.

# %%
restarts = gx.cosine_restarts_schedule(0.1, 50)
panels(
    {
        "join_schedules": gx.join_schedules([gx.linear_schedule(0.0, 0.1, 40), restarts], [40]),
        "product_schedule": gx.product_schedule([gx.linear_schedule(1.0, 0.2, 200), restarts]),
        "shift_schedule": gx.shift_schedule(gx.linear_schedule(0.1, 0.0, 140), -60),
    }
)

# %% [markdown]
# **Cycles with their momentum** come as a pair: while the learning rate is large, the momentum is small
# (Smith & Topin 2018). The pair goes into `gx.sgd(*pair)`, or into Adam as `gx.adamw(pair.learning_rate,
# b1=pair.momentum)`.

# %%
pairs = {
    "one_cycle_schedule": gx.one_cycle_schedule(0.1, 200),
    "cyclic_with_momentum": gx.cyclic_with_momentum(0.01, 0.1, 50),
}
_, axes = plt.subplots(2, 2, figsize=(8.75, 3.6), layout="constrained", sharex=True, sharey="row")
for column, (name, pair) in zip(axes.T, pairs.items(), strict=True):
    for ax, schedule, what in zip(column, pair, ("learning rate", "momentum"), strict=True):
        gx.plot.plot_schedule(schedule, steps=200, ylabel=what, ax=ax).get_legend().remove()
        ax.label_outer()
    column[0].set_title(name)
shown |= set(pairs)

# %% [markdown]
# The last of them, `reduce_on_plateau`, needs a loss, and gets one below. With it, none is missing:

# %%
schedules = {
    name for name, x in vars(gx).items() if inspect.isfunction(x) and "gradx.schedules" in x.__module__
}
missing = schedules - shown - {"scale_learning_rate"}  # which scales any of them for another batch size
assert missing == {"reduce_on_plateau"}, missing
print(len(schedules) - 1, "schedules")

# %% [markdown]
# ## A network and data
#
# 1,797 handwritten digits of 8 × 8 pixels, a fifth of them for validation; a network with two hidden
# layers; 30 epochs of batches of 64. `fit` is a whole run as one compiled scan. `measured` keeps the
# learning rate in the state, where `metrics` finds it, whatever schedule it comes from.

# %%
digits = load_digits()
pixels = (digits.data / 16).astype(np.float32)
parts = train_test_split(pixels, digits.target, test_size=360, stratify=digits.target, random_state=0)
train, validation = parts[::2], parts[1::2]
run = gx.Run(epochs=30, steps_per_epoch=len(train[1]) // 64)
train = jax.tree.map(jnp.asarray, train)


class Network(nn.Module):
    """64 pixels in, 10 scores out."""

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.relu(nn.Dense(64)(x))
        return nn.Dense(10)(x)


def loss_of(params, batch):
    scores = Network().apply(params, batch[0])
    return optax.losses.softmax_cross_entropy_with_integer_labels(scores, batch[1]).mean()


@jax.jit
def start(seed):
    """What a seed decides: the parameters, and which rows are in which batch."""
    keys = jax.random.split(jax.random.key(seed), 1 + 30)
    order = jax.vmap(lambda key: jax.random.permutation(key, len(train[1])))(keys[1:])
    return Network().init(keys[0], pixels[:1]), order[:, : run.steps_per_epoch * 64].reshape(-1, 64)


@partial(jax.jit, static_argnums=0)
def fit(tx, params, order, **hyperparams):
    """Loss and learning rate at each step, and the validation accuracy in the end, in percent."""
    tx = gx.measured(tx, norms=())
    state = gx.set_hyperparams(tx.init(params), **hyperparams)

    def step(carry, rows):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_of)(params, jax.tree.map(lambda x: x[rows], train))
        updates, state = tx.update(grads, state, params, value=loss)
        return (gx.apply_updates(params, updates), state), {"loss": loss} | gx.metrics(state)

    (params, _), history = jax.lax.scan(step, (params, state), order)
    right = jnp.argmax(Network().apply(params, validation[0]), axis=-1) == validation[1]
    return history, 100 * right.mean()


print(f"{run.steps} steps, {run.steps_per_epoch} an epoch")

# %% [markdown]
# ## A rate that listens
#
# `reduce_on_plateau` stands for a number under `inject_hyperparams`, and each `update` is told the loss:
# `tx.update(grads, state, params, value=loss)`. Here an epoch is one evaluation, the first rate is too
# large on purpose, and more than two epochs without improvement divide it by three. The rate below is read
# back from the state.

# %%
plateau = gx.reduce_on_plateau(0.05, factor=1 / 3, patience=2, accumulation_size=run.steps_per_epoch)
params, order = start(0)
history, accuracy = fit(gx.inject_hyperparams(gx.adamw)(plateau), params, order)
_ = gx.plot.plot_history(history)
print("rates:", *[f"{x:.4f}" for x in np.unique(history["learning_rate"])[::-1]])
print(f"validation accuracy {accuracy:.1f} %")

# %% [markdown]
# ## The range test
#
# Which rate to begin with? `lr_range_test` trains while the rate grows by the same factor each step, until
# the loss diverges; parameters and states stay as they were. It suggests the smaller of two rates: where
# the smoothed loss falls fastest, and a tenth of that at its minimum.

# %%
batches = jax.tree.map(lambda x: x[order], train)
found = gx.lr_range_test(loss_of, gx.adamw, params, batches, min_lr=1e-5)
_ = gx.plot.plot_range_test(found)
found

# %% [markdown]
# Is it any good? Whole runs at a constant rate: the suggestion, a tenth of it and ten times it, with ten
# seeds each, all in one program: `inject_hyperparams` moves the numbers of an optimizer into its state,
# where `vmap` can give each run its own. A seed decides the start and the order of the batches; all share
# one split of the data. The intervals, here and below, are 95 % confidence intervals of the mean over the
# seeds.

# %%
tx = gx.inject_hyperparams(gx.adamw)(1.0)
starts = jax.vmap(start)(jnp.arange(10))
factors = np.array([0.1, 1, 10])


def at(rate, *start):
    return fit(tx, *start, learning_rate=rate)


def mean(accuracies):
    return (
        f"{accuracies.mean():.1f} ± {2.26 * accuracies.std(ddof=1) / 10**0.5:.1f}"  # Student's t of 9 degrees
    )


rates = jnp.asarray(factors * found.suggestion)
history, accuracies = jax.vmap(jax.vmap(at, (None, 0, 0)), (0, None, None))(rates, *starts)
epochs = np.arange(1, 31)
losses = history["loss"].mean(axis=1).reshape(3, 30, -1).mean(axis=-1)

_, ax = plt.subplots(figsize=(8.75, 3.2), layout="constrained")
for factor, y, style in zip(factors, losses, (":", "-", "--"), strict=True):
    ax.semilogy(epochs, y, style, color="black", marker=".", label=f"{factor:g} × the suggestion")
ax.set(
    title="AdamW at a constant rate, mean of ten seeds", xlabel="epoch", ylabel="training loss (log scale)"
)
ax.grid(alpha=0.3)
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
for factor, rate, y, x in zip(factors, rates, losses, accuracies, strict=True):
    print(f"{factor:>4g} × = {rate:<6.2g} loss {y[0]:.2f} -> {y[-1]:.4f}, validation {mean(x)} %")

# %% [markdown]
# Ten times the suggestion hardly trains. A tenth of it does, only more slowly: its loss in the first epoch
# is twice that of the suggestion. At the suggestion the loss falls fastest, and later does not come to
# rest: after 30 epochs the accuracies of the two, 96.9 ± 0.5 and 96.8 ± 1.1, cannot be told apart. The test
# found the right power of ten in 79 steps, an eighth of a run; what it suggests is the peak of a schedule
# that falls, rather than a constant.
#
# ## Thirty rates at once
#
# Where a whole run is cheap, run it at every rate, and see the test's suggestion among them:

# %%
rates = jnp.geomspace(1e-4, 1.0, 30)
history, accuracies = jax.vmap(at, (0, None, None))(rates, params, order)
last = history["loss"][:, -run.steps_per_epoch :].mean(axis=1)

_, axes = plt.subplots(1, 2, figsize=(8.75, 3.0), layout="constrained")
axes[0].loglog(rates, last, "k.-")
axes[0].set(title="training loss, last epoch", xlabel="learning rate (log scale)", ylabel="loss (log scale)")
axes[1].semilogx(rates, accuracies, "k.-")
axes[1].set(title="validation accuracy", xlabel="learning rate (log scale)", ylabel="%")
for ax in axes:
    ax.axvline(found.suggestion, color="0.4", ls="--", label="suggestion")
    ax.grid(alpha=0.3)
    ax.legend(loc="lower left")
good, best = rates[accuracies >= accuracies.max() - 1], accuracies.max()
print(f"{len(good)} rates are within a point of the best, {best:.1f} %: {good[0]:.2g} to {good[-1]:.2g}")

# %% [markdown]
# The suggestion is at the upper end of the rates that are good in the long run: one step further is
# restless. This is one seed, and neighbours differ by chance; the cliff to the right of it does not.
#
# ## What the form of the schedule changes
#
# One optimizer, three peaks, three schedules: constant, warm-up and cosine, one-cycle with its momentum.
# Ten seeds each, the same for all.


# %%
def forms(peak):
    rate, b1 = gx.one_cycle_schedule(peak, run.steps)
    return {
        "constant": gx.adamw(peak),
        "warm-up, cosine": gx.adamw(gx.warmup_cosine_decay_schedule(0.0, peak, run.epochs(3), run.steps)),
        "one-cycle": gx.adamw(rate, b1=b1),
    }


table = [f"{'validation, %':16}" + "".join(f"{name:>18}" for name in forms(1.0))]
for factor in (0.25, 1, 2):
    runs = [jax.vmap(partial(fit, tx))(*starts) for tx in forms(factor * found.suggestion).values()]
    cells = "".join(f"{mean(accuracies):>18}" for _, accuracies in runs)
    table.append(f"{f'peak {factor * found.suggestion:.2g}':16}{cells}")
print("\n".join(table))

# %% [markdown]
# At a quarter of the suggestion the three forms are as good as each other. At twice the suggestion the
# constant rate loses about three points (94.9 ± 1.5), and the two that fall lose nothing: what a schedule
# buys here is not accuracy, but room for error in its peak.
#
# What this cannot say: which of the two is better. Cosine is half a point ahead in one row of three, which
# is two of the 360 images. One small network, one split, 30 epochs; the peak was not chosen anew for each
# form. And the constant rate of 0.02 was trained twice, above with its number in the state: same seeds,
# another order of rounding, 96.8 ± 1.1 against 97.4 ± 0.5. Where a rate is restless, rounding alone makes
# another run of it, so a difference of that size means nothing.
