# %% [markdown]
# # Large batches: LARS and LAMB
#
# More devices make larger batches, and larger batches fewer steps. What the trust ratio of LARS and LAMB
# is, by hand and as a heat map over a run; what to spare from it; how a learning rate follows the batch
# size; what four optimizers lose when the batch grows; and how large a batch is worth its cost.
#
# It needs `pip install 'gradx[notebooks]'`; in a clone, `make lab` installs and opens it. It runs in about
# a minute on two cores.

# %%
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import gradx as gx
import gradx.plot

plt.rcParams |= {"figure.dpi": 80, "axes.titlesize": 10, "legend.fontsize": 9}

# %% [markdown]
# ## The trust ratio, by hand
#
# One rate for all layers moves a layer of small weights and large gradients by much of its size, and its
# neighbour hardly at all. LARS and LAMB multiply the update of each array by a ratio: the norm of the array
# over the norm of its update. So at learning rate η each array moves by the same share η of its norm,
# whatever the scale of its gradient.
#
# - LARS: the update is the gradient with weight decay λ, and the ratio `c ‖p‖ / (‖g‖ + λ ‖p‖)`, with a
#   trust coefficient c; momentum comes after it.
# - LAMB: the update is Adam's direction with weight decay, d, and the ratio `‖p‖ / ‖d‖`.
#
# At the first step Adam's direction is g / (|g| + eps). For one layer:

# %%
p = jax.random.normal(jax.random.key(0), (64, 32)) / 8
g = 1e-3 * jax.random.normal(jax.random.key(1), (64, 32))
norm = jnp.linalg.norm

d = g / (jnp.abs(g) + 1e-6) + 0.01 * p
by_hand = {"LAMB": norm(p) / norm(d), "LARS": 0.02 * norm(p) / (norm(g) + 5e-4 * norm(p))}

links = {
    "LAMB": gx.lamb(0.1, weight_decay=0.01),
    "LARS": gx.lars(0.1, weight_decay=5e-4, trust_coefficient=0.02, variant="mlperf"),
}
for name, tx in links.items():
    tx = gx.measured(tx)
    updates, state = tx.update({"kernel": g}, tx.init({"kernel": p}), {"kernel": p})
    ratio = gx.metrics(state)["trust_ratio/kernel"]
    share = norm(updates["kernel"]) / norm(p)
    print(
        f"{name}: by hand {by_hand[name]:.5f}, gradx {ratio:.5f}; the layer moves by {share:.4f} of its norm"
    )
    np.testing.assert_allclose(ratio, by_hand[name], rtol=1e-5)

# %% [markdown]
# At a rate of 0.1, LAMB moves the layer by 0.1 of its norm; LARS by 0.1 times its coefficient of 0.02, and
# a little less, as the sum of two norms is more than the norm of the sum.
#
# ## Ratios of every layer, over a run
#
# Handwritten digits, 1,024 for training; a network of six layers. `fit` is a run of 20 epochs as one scan:
# warm-up for a tenth of it, then half a cosine. `measured` keeps the trust ratios in the state, and
# `metrics` reads them there.

# %%
digits = load_digits()
shuffled = np.random.default_rng(0).permutation(len(digits.target))
pixels, labels = (digits.data / 16).astype(np.float32)[shuffled], digits.target[shuffled]
train, validation, test = zip(*(np.split(x, [1024, 1280]) for x in (pixels, labels)), strict=True)
train = jax.tree.map(jnp.asarray, train)


class Network(nn.Module):
    """64 pixels in, 10 scores out."""

    @nn.compact
    def __call__(self, x):
        for width in (64, 64, 64, 32, 16):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(10)(x)


def loss_of(params, batch):
    scores = Network().apply({"params": params}, batch[0])
    return optax.losses.softmax_cross_entropy_with_integer_labels(scores, batch[1]).mean()


@jax.jit
def start(seed):
    """What a seed decides: the parameters, and the order of the rows in 20 epochs."""
    keys = jax.random.split(jax.random.key(seed), 1 + 20)
    order = jax.vmap(lambda key: jax.random.permutation(key, 1024))(keys[1:])
    return Network().init(keys[0], pixels[:1])["params"], order.ravel()


@partial(jax.jit, static_argnums=(0, 1))
def fit(make, size, rate, params, order):
    """Train with batches of `size`: the parameters in the end, and what was measured at each step."""
    run = gx.Run(epochs=20, steps_per_epoch=1024 // size)
    curve = gx.warmup_cosine_decay_schedule(0.0, 1.0, run.epochs(2), run.steps)
    tx = gx.measured(make(lambda step: rate * curve(step)), norms=())

    def step(carry, rows):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_of)(params, jax.tree.map(lambda x: x[rows], train))
        updates, state = tx.update(grads, state, params)
        return (gx.apply_updates(params, updates), state), {"loss": loss} | gx.metrics(state)

    (params, _), history = jax.lax.scan(step, (params, tx.init(params)), order.reshape(run.steps, size))
    return params, history


lamb = partial(gx.lamb, weight_decay=0.01)
lars = partial(gx.lars, weight_decay=5e-4, trust_coefficient=0.02)


def ratios(make, rate):
    """The trust ratios of a run with batches of 64."""
    _, history = fit(make, 64, rate, *start(0))
    return {name: x for name, x in history.items() if name.startswith("trust_ratio/")}


for name, make, rate in (("LAMB", lamb, 0.03), ("LARS", lars, 0.5)):
    found = ratios(make, rate)
    (ax,) = gx.plot.plot_history(found)
    ax.set_title(f"{name}, every array has the ratio")
    for kind in ("kernel", "bias"):
        x = np.median([x for path, x in found.items() if path.endswith(kind)], axis=0)
        print(f"{name}, {kind:6} median at step 2: {x[2]:.4f}, at the last: {x[-1]:.2f}")

# %% [markdown]
# Blue, or dark, is below 1. Biases start at 0, where the ratio is 1; from then on their own small norm
# holds them back. At step 2 the median ratio of the biases is 0.0011 under LAMB, that of the kernels 0.20.
# The kernels' ratios grow over the run, to 18: the direction becomes short against the weights. Those of
# LARS flicker, as each is taken from the gradient of one batch, and not from an average.
#
# ## What to spare
#
# `trust_ratio_mask="matrices_only"` spares biases and the scales of norms: their ratio is 1, as in plain
# Adam or momentum. That is what the references of MLPerf do, and `mask="matrices_only"` spares them from
# decay too. What is left are the kernels:

# %%
masked_lamb = partial(lamb, mask="matrices_only", trust_ratio_mask="matrices_only")
masked_lars = partial(lars, trust_ratio_mask="matrices_only", variant="mlperf")

_, axes = plt.subplots(2, figsize=(8.75, 5.0), layout="constrained", sharex=True)
for ax, name, make, rate in zip(axes, ("LAMB", "LARS"), (masked_lamb, masked_lars), (0.03, 0.5), strict=True):
    gx.plot.plot_history(ratios(make, rate), axes=ax)
    ax.set_ylabel(f"{name}, trust ratio\n(log scale)")
    ax.label_outer()

# %% [markdown]
# At any one step the layers are several times apart, and over the run each ratio moves by a factor of about
# a hundred. So a step of LAMB does not get shorter as the gradients do, only as the schedule does: a
# schedule that falls to 0 belongs to LARS and LAMB.
#
# ## A rate for another batch size
#
# `scale_learning_rate` multiplies by k ("linear") or √k ("sqrt") for a batch k times as large. The linear
# rule comes from SGD (Goyal et al. 2017): k small steps in about one direction are one step of k times the
# size. It holds only while the gradient hardly changes over these k steps, which at the start it does,
# hence the warm-up. The root keeps the variance of a step (Krizhevsky 2014), and is common with Adam and
# LAMB.

# %%
print("batch    linear    square root")
for size in (32, 64, 128, 256, 512):
    rates = [gx.scale_learning_rate(0.01, size, base_batch_size=32, rule=rule) for rule in ("linear", "sqrt")]
    print(f"{size:5} {rates[0]:9.3f} {rates[1]:14.3f}")

ax = plt.subplots(figsize=(8.75, 3.0), layout="constrained")[1]
for size in (32, 128, 512):
    run = gx.Run(epochs=20, steps_per_epoch=1024 // size)
    rate = gx.scale_learning_rate(0.01, size, base_batch_size=32, rule="sqrt")
    schedule = gx.warmup_cosine_decay_schedule(0.0, rate, run.epochs(2), run.steps)
    gx.plot.plot_schedule(schedule, steps=run, labels=[f"batch {size}: {run.steps} steps"], ax=ax)
_ = ax.set_title("the same 20 epochs: a tenth of warm-up, the peak by the square root rule")

# %% [markdown]
# ## The batch grows, the epochs stay
#
# Four optimizers, three batch sizes, 20 epochs. The rate is chosen on the validation data for each size, of
# five that are each twice the one before ("tuned"); or it is chosen for batches of 32, and follows the size
# by either rule. Five seeds decide the start and the order; the split is the same for all, with 517 digits
# for the test. The intervals are 95 % confidence intervals of the mean over the seeds.

# %%
OPTIMIZERS = {  # and the middle of the rates that are tried
    "SGD": (partial(gx.sgd, momentum=0.9, nesterov=True), 0.1),
    "AdamW": (partial(gx.adamw, weight_decay=0.01, mask="matrices_only"), 8e-3),
    "LARS": (masked_lars, 0.5),
    "LAMB": (masked_lamb, 2e-2),
}
STYLES = ["ko-", "ks--", "k^-.", "kD:"]
starts = jax.vmap(start)(jnp.arange(5))


@partial(jax.jit, static_argnums=(0, 1))
def accuracies(make, size, rates):
    """In percent, on the validation and the test data: each of shape (rates, seeds)."""

    def one(rate, *start):
        params, _ = fit(make, size, rate, *start)
        right = lambda x, y: jnp.argmax(Network().apply({"params": params}, x), axis=-1) == y
        return [100 * jnp.mean(right(*part), dtype=jnp.float32) for part in (validation, test)]

    return jax.vmap(jax.vmap(one, (None, 0, 0)), (0, None, None))(rates, *starts)


sizes, best = (32, 128, 512), {}
rules = {"tuned": {}, "square root": {}, "linear": {}}  # of each the accuracies, by optimizer and size
for name, (make, middle) in OPTIMIZERS.items():
    tried = [float(middle * 2.0**i) for i in range(-2, 3)]
    for size in sizes:
        rates = list(tried)
        if size > 32:
            rates += [gx.scale_learning_rate(best[name, 32], size, 32, rule) for rule in ("sqrt", "linear")]
        chosen, tested = accuracies(make, size, jnp.array(rates))
        i = int(chosen[:5].mean(axis=1).argmax())
        best[name, size] = tried[i]
        for found, j in zip(rules.values(), (i, -2, -1), strict=True):
            found[name, size] = tested[j if size > 32 else i]

interval = lambda x: 2.78 * x.std(axis=-1, ddof=1) / 5**0.5  # Student's t of 4 degrees of freedom
_, axes = plt.subplots(1, 3, figsize=(8.75, 3.2), layout="constrained", sharey=True)
print(f"{'test, %':18}" + "".join(f"{f'batch {size}':>15}" for size in sizes))
for ax, (rule, found) in zip(axes, rules.items(), strict=True):
    for name, style in zip(OPTIMIZERS, STYLES, strict=True):
        x = np.stack([found[name, size] for size in sizes])
        mean, half = x.mean(axis=1), interval(x)
        ax.errorbar(sizes, mean, half, fmt=style, mfc="white", capsize=3, label=name)
        cells = [f"{m:.1f} ± {h:.1f}" for m, h in zip(mean, half, strict=True)]
        print(f"{rule:12}{name:6}" + "".join(f"{cell:>15}" for cell in cells))
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, [f"{size}\n({20 * 1024 // size})" for size in sizes])
    ax.set(title=f"rate: {rule}", xlabel="batch size (steps)", ylabel="test accuracy, %", ylim=(0, 104))
    ax.label_outer()
    ax.grid(alpha=0.3)
axes[0].legend(loc="lower left")
print(*[f"{name}: {', '.join(f'{best[name, size]:.3g}' for size in sizes)}" for name in OPTIMIZERS], sep="; ")
apart = np.asarray(rules["tuned"]["LAMB", 512] - rules["tuned"]["AdamW", 512])  # of the same seeds
print(f"LAMB - AdamW, tuned, batch 512: {apart.mean():.1f} ± {interval(apart):.1f}")

# %% [markdown]
# - **Batches of 32**: the four cannot be told apart, 97.4 to 97.8 %.
# - **Batches of 512**, 40 steps in all, tuned: everyone loses, LAMB (92.5) and AdamW (91.1) least, LARS
#   (80.0) and SGD (64.9) more. From seed to seed LAMB is 1.4 ± 1.2 points above AdamW, which is little.
# - **By the square root** LAMB arrives at the very rate that tuning finds. AdamW does not bear its scaled
#   rate, 56.0 ± 23.7. LAMB hardly learns better here; it forgives more. Where an interval is as wide as that
#   of SGD, 61.2 ± 49.2, some of the five seeds train and others do not.
# - **In proportion** no one gets to 512. At 128 LARS and LAMB lose less than half a point, and AdamW 3.9,
#   within its interval of 4.1; SGD does not train.
#
# What this cannot say: 40 steps are few, and a warm-up of four is short. Five rates were tried, and two of
# the twelve best are the first or the last of them. One split, one network, 20 epochs.
# [examples/large_batch.py](../examples/large_batch.py) is the whole study, with nine rates, ten seeds and
# two sets of data; [the guide](../docs/guides/large_batch.md) has its tables. There, tuned AdamW
# equals LAMB, and LAMB is the one that forgives a wrong rate.
#
# ## How large a batch is worth it
#
# `gradient_noise_scale` compares the gradients of micro-batches with their mean. Their spread is noise,
# what they agree on is signal, and noise over signal is a number of rows: far below it, twice the batch
# needs half the steps; far above, as many (McCandlish et al. 2018). `accumulate_gradients` gives the norms
# that it needs. Here for AdamW, in batches of 32 of four parts; noise and signal are means over the five
# seeds.


# %%
@jax.jit
def noise_curve(params, order):
    run = gx.Run(epochs=20, steps_per_epoch=32)
    tx = OPTIMIZERS["AdamW"][0](
        gx.warmup_cosine_decay_schedule(0.0, best["AdamW", 32], run.epochs(2), run.steps)
    )
    noise_scale = gx.gradient_noise_scale(0.95)  # 20 steps: both fall fast in so short a run
    in_parts = gx.accumulate_gradients(loss_of, squared_norms=True)

    def step(carry, rows):
        params, state, noise = carry
        batch = gx.micro_batches(jax.tree.map(lambda x: x[rows], train), 4)
        _, grads, squared_norms = in_parts(params, batch)
        noise = noise_scale.update(noise, squared_norms, grads, batch_size=32)
        updates, state = tx.update(grads, state, params)
        return (gx.apply_updates(params, updates), state, noise), noise

    carry = params, tx.init(params), noise_scale.init()
    return jax.lax.scan(step, carry, order.reshape(run.steps, 32))[1]


noise = jax.tree.map(lambda x: x.mean(axis=0), jax.vmap(noise_curve)(*starts)).scale
ax = plt.subplots(figsize=(8.75, 3.2), layout="constrained")[1]
ax.semilogy(np.arange(1, 641) / 32, noise, "k", label="gradient noise scale")
for size, style in zip(sizes, (":", "-.", "--"), strict=True):
    ax.axhline(size, color="0.4", ls=style, label=f"batch {size}")
ax.set(title="gradient noise scale of AdamW, batches of 32", xlabel="epoch", ylabel="rows (log scale)")
ax.grid(alpha=0.3)
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
print("median of each quarter of the run:", *[f"{np.median(x):.0f}" for x in np.split(noise, 4)], "rows")

# %% [markdown]
# Where the line is broken, no gradient stands out of the noise. The curve says when a large batch is
# wasted: in the first quarter of the run, at a median of 32 rows, 512 are sixteen times what a step can
# use; in the last, at 1,421, they are not too many. What a large batch loses, it loses early, and one may
# begin with small batches and let them grow. This is one optimizer and an estimate from few rows: read
# powers of ten.
#
# ## Which, and when
#
# - **AdamW or SGD with momentum** as long as the batch is below the noise scale, and a few runs can be
#   spent on the rate. Tuned, AdamW and LAMB are close: LAMB is 1.4 ± 1.2 points above here, and 0.4 ± 0.6
#   below in the study.
# - **LAMB** where the batch grows and the rate cannot be tuned again: take the root of k, warm up, let the
#   rate fall to 0, and spare biases and norms with `trust_ratio_mask`.
# - **LARS** is SGD's counterpart, from convolutional networks with batches of thousands. Nothing here is of
#   that kind: that it trails LAMB on a small network of dense layers says nothing of a ResNet.
# - **A smaller batch**, if the noise scale is far below yours, and epochs rather than hours are what you
#   pay.
