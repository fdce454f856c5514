# %% [markdown]
# # Low precision
#
# AdamW in float32 holds 12 bytes for each parameter: the parameter and two moments. In bfloat16 it is 6, and
# training goes wrong in silence. Here you see the two things that go wrong, what cures each, how an
# optimizer state fits in 8 bits, and what a small network loses by all of it.
#
# It needs `pip install 'gradx[notebooks]'`, or `make lab` in a clone.

# %%
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits

import gradx as gx
import gradx.plot

plt.rcParams["figure.dpi"] = 80

# %% [markdown]
# ## What goes wrong
#
# **Small steps are lost.** A bfloat16 number has 8 significant bits. Between 1 and 2 its neighbours are
# 1/128 apart, and a step of less than half of that rounds back to where it was:

# %%
bf16 = lambda x: jnp.asarray(x, jnp.bfloat16)
print("the next above 1:", float(jnp.nextafter(bf16(1), bf16(2))))
print("1 + 0.003:       ", float(bf16(1) + bf16(0.003)))
print("0.999:           ", float(bf16(0.999)))

# %% [markdown]
# **Averages stall.** The last line is worse than it looks: Adam's `b2` of 0.999 *is* 1 in bfloat16, and the
# second moment can grow, but never fall. Where slots take the dtype of the parameters, as in Optax, that is
# what happens. Below, all gradients are 1, and from step 3,000 on 0.1.


# %%
def second_moment(tx, dtype, gradients):
    """Adam's `nu` after each step."""
    p = jnp.zeros((), dtype)

    def step(state, g):
        _, state = tx.update(g.astype(dtype), state, p)
        return state, state.nu.astype(jnp.float32)

    return jax.lax.scan(step, tx.init(p), gradients)[1]


gradients = jnp.concatenate([jnp.ones(3000), jnp.full(4000, 0.1)])
moments = {
    "float64": (np.zeros(7000), "k", 3.5),
    "gradx, bf16 parameter": (second_moment(gx.scale_by_adam(), jnp.bfloat16, gradients), "C1--", 1.5),
    "Optax, bf16 parameter": (second_moment(optax.scale_by_adam(), jnp.bfloat16, gradients), "C0-.", 1.5),
}
nu = 0.0
for t, g in enumerate(np.asarray(gradients, float)):
    nu = 0.999 * nu + 0.001 * g * g
    moments["float64"][0][t] = nu

x = 2.0 ** np.linspace(-8, 1, 1000)
_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for dtype, line in ((jnp.bfloat16, "C0-"), (jnp.float16, "C1--"), (jnp.float32, "C2-.")):
    bits = jnp.finfo(dtype).nmant
    left.loglog(x, 0.5 * 2.0 ** (np.floor(np.log2(x)) - bits), line, label=f"lost in {jnp.dtype(dtype).name}")
left.axhline(1e-3, color="k", lw=1)
left.text(x[0], 1.2e-3, "a step of Adam at a rate of 0.001", fontsize=9)
left.set(xlabel="parameter", ylabel="step", title="Steps below the line are lost")
left.legend(fontsize=9, loc="center right", bbox_to_anchor=(1, 0.53))
for name, (moment, line, width) in moments.items():
    right.plot(moment, line, lw=width, label=name)
right.set(xlabel="step", ylabel="nu", title="Adam's second moment")
right.legend(fontsize=9)
print(f"at step 3,000: {', '.join(f'{name} {moment[2999]:.2f}' for name, (moment, *_) in moments.items())}")
print(f"in the end:    {', '.join(f'{name} {moment[-1]:.2f}' for name, (moment, *_) in moments.items())}")

# %% [markdown]
# In Optax the moment stops where adding 0.001 is less than half of a spacing, and stays there when the
# gradients become smaller: by the end its root, and so Adam's step, is four times off. In gradx slots are
# float32 unless one asks for less, which cures this one.
#
# ## Parameters in 16 bits
#
# It does not cure the other: what rounding takes from a 16-bit parameter must be kept somewhere, or taken on
# average. Four links do it; each is the last of a chain.
#
# | link | the parameter is | bytes beside it |
# |---|---|---|
# | `stochastic_rounding` | rounded up or down by chance, right on average | 0 |
# | `split_weights` | rounded to the nearest; the rest is kept, in int8 | 1 |
# | `kahan` | rounded to the nearest; the rest is kept, in bfloat16 | 2 |
# | `master_weights` | rounded from a float32 copy | 4 |
#
# One parameter of 1 walks 2,000 steps of 0.0003, to 0.4:


# %%
def walk(tx, steps=2000):
    def step(carry, _):
        p, state = carry
        updates, state = tx.update(jnp.ones_like(p), state, p)
        p = gx.apply_updates(p, updates)
        return (p, state), p.astype(jnp.float32)

    p = jnp.ones(1000, jnp.bfloat16)
    return np.asarray(jax.lax.scan(step, (p, tx.init(p)), length=steps)[1])


sgd = gx.sgd(3e-4)
walks = {
    "nearest": (walk(sgd), "C0-"),
    "stochastic_rounding": (walk(gx.chain(sgd, gx.stochastic_rounding(key=0))), "C1-"),
    "split_weights": (walk(gx.chain(sgd, gx.split_weights())), "C2--"),
    "kahan": (walk(gx.chain(sgd, gx.kahan())), "C3:"),
    "master_weights": (walk(gx.chain(sgd, gx.master_weights())), "k-."),
}
exact = 1 - 3e-4 * np.arange(1, 2001)
_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
at = np.arange(49, 2000, 50)
for (name, (found, line)), marker in zip(walks.items(), " o^sx", strict=True):
    left.plot(found[:, 0], line, lw=1.3, label=name)
    if name != "nearest":
        right.plot(at, 1000 * (found[at, 0] - exact[at]), line, marker=marker, ms=4, lw=1, label=name)
left.set(xlabel="step", ylabel="parameter", title="A bf16 parameter in steps of 0.0003")
right.set(xlabel="step", ylabel="error, thousandths", title="The same, less where it should be")
left.legend(fontsize=9)
right.legend(fontsize=9)
print(f"{'error at the end, thousandths:':30}{'typical':>9}{'mean of all':>13}")
for name, (found, _) in walks.items():
    error = 1000 * (found[-1] - exact[-1])
    print(f"{name:30}{np.sqrt(np.mean(error**2)):9.2f}{error.mean():+13.2f}")

# %% [markdown]
# Rounded to the nearest it never moves. Master weights and Kahan's are off by what a bf16 number near 0.4
# cannot show. `split_weights` rounds each step to a multiple of 1/256 of the spacing, here a twentieth of
# the step, and so goes a little too fast; of steps that differ, as they do in training, such errors cancel.
# By chance each parameter wanders, and their mean stays on course.
#
# ## All of it in one word
#
# `precision(tx, word)` puts together what goes together: how the slots are held, and what rounds the
# parameters. What each word takes is computed from shapes alone:

# %%
WORDS = ("bf16-stochastic", "8-bit", "bf16-kahan", "split", "master")
half = {"kernel": jax.ShapeDtypeStruct((1024, 1024), jnp.bfloat16)}
print("2 bytes for a parameter, and for the state of AdamW:")
for word in WORDS:
    print(f"  {word:16} {gx.summarize(gx.precision(gx.adamw(1e-3), word), half).bytes_per_parameter:5.2f}")
print(gx.summarize(gx.precision(gx.adamw(1e-3), "8-bit"), half))

# %% [markdown]
# ## What a network loses
#
# A network of 17,226 parameters learns handwritten digits under noise (without noise its loss would go to 0,
# and a percentage of it mean nothing). For each of five seeds, every format starts from the same weights and
# sees the same batches. All compute in float32, and gradients come in the dtype of the parameters. The
# second row is a control: float32 throughout, from weights that were once rounded to bf16.

# %%
images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(images))
images, labels = jnp.asarray(images[order] / 16, jnp.float32), jnp.asarray(labels[order])
TRAIN, STEPS, SEEDS = 1297, 500, 5
SIZES = (64, 128, 64, 10)


def initial(key):
    keys = jax.random.split(key, len(SIZES) - 1)
    normal = lambda key, n, m: jax.random.normal(key, (n, m)) * np.sqrt(2 / n)
    pairs = zip(keys, SIZES[:-1], SIZES[1:], strict=True)
    return [{"kernel": normal(key, n, m), "bias": jnp.zeros(m)} for key, n, m in pairs]


def loss_of(params, x, y):
    for i, layer in enumerate(params):
        x = (jax.nn.relu(x) if i else x) @ layer["kernel"].astype(x.dtype) + layer["bias"].astype(x.dtype)
    return optax.losses.softmax_cross_entropy_with_integer_labels(x.astype(jnp.float32), y).mean()


def noisy(key, i):
    return images[i] + 0.5 * jax.random.normal(key, (len(i), 64)), labels[i]


def batch(key):
    chosen, noise = jax.random.split(key)
    return noisy(noise, jax.random.randint(chosen, (64,), 0, TRAIN))


@jax.jit
@jax.vmap
def begun(key):
    """The weights to begin with, and all batches."""
    weights, order = jax.random.split(key)
    return initial(weights), jax.vmap(batch)(jax.random.split(order, STEPS))


@partial(jax.jit, static_argnums=(0, 1))
@partial(jax.vmap, in_axes=(None, None, 0, 0))
def train(tx, dtype, weights, batches):
    """The parameters and the state in the end, and the losses on the way."""
    params = jax.tree.map(lambda p: p.astype(dtype), weights)

    def step(carry, batch):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_of)(params, *batch)
        updates, state = tx.update(grads, state, params)
        return (gx.apply_updates(params, updates), state), loss

    (params, state), losses = jax.lax.scan(step, (params, tx.init(params)), batches)
    return params, state, losses


held_out = noisy(jax.random.key(0), jnp.tile(jnp.arange(TRAIN, len(images)), 10))
final = jax.jit(jax.vmap(lambda params: loss_of(params, *held_out)))

# %% [markdown]
# The formats, trained one after the other, each with all seeds under one `vmap`:

# %%

schedule = gx.warmup_cosine_decay_schedule(0.0, 2e-3, warmup_steps=30, decay_steps=STEPS + 1)
adamw = gx.adamw(schedule, weight_decay=0.01)
ROUNDED = "float32, bf16 start"
formats = {
    "float32": (adamw, "float32"),
    ROUNDED: (adamw, "float32"),
    "Optax, bf16": (optax.adamw(schedule, weight_decay=0.01), "bfloat16"),
    "gradx, bf16, nearest": (adamw, "bfloat16"),
} | {word: (gx.precision(adamw, word), "bfloat16") for word in WORDS}

bytes_of = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
weights, batches = begun(jax.random.split(jax.random.key(1), SEEDS))
rounded = jax.tree.map(lambda p: p.astype(jnp.bfloat16), weights)
starts = {name: rounded if name == ROUNDED else weights for name in formats}
runs = {name: train(tx, dtype, starts[name], batches) for name, (tx, dtype) in formats.items()}
ends = {name: final(params) for name, (params, *_) in runs.items()}
base = runs["float32"]
size = sum(p[0].size for p in jax.tree.leaves(base[0]))
off = {name: 100 * np.asarray(end / ends["float32"] - 1) for name, end in ends.items()}

print(f"{size:,} parameters, {STEPS} steps, {SEEDS} seeds")
print(f"{'':22}{'loss':>8}{'above float32, mean':>21}{'furthest':>10}{'B/parameter':>13}")
for name, (params, state, _) in runs.items():
    furthest = off[name][np.argmax(np.abs(off[name]))]
    held = bytes_of((params, state)) / size / SEEDS
    print(f"{name:22}{ends[name].mean():8.4f}{off[name].mean():+19.2f} %{furthest:+8.2f} %{held:13.2f}")

# %%
POINTS = 20
steps = (np.arange(POINTS) + 0.5) * STEPS / POINTS
curve = lambda run: np.asarray(run[2]).reshape(SEEDS, POINTS, -1).mean(axis=(0, 2))
names = [name for name in formats if name != "float32"]
_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
for name, line in zip(names, ("k.-", "C0o-", "C1s--", "C2^-.", "C3v:", "C4D-", "C5x--", "k+:"), strict=True):
    left.plot(steps, 100 * (curve(runs[name]) / curve(base) - 1), line, ms=4, lw=1.2, label=name)
left.set(xlabel="step", ylabel="above float32's, %", title="Training loss, mean of the seeds")
left.set_ylim(top=1.6 * left.get_ylim()[1])
left.legend(fontsize=8, ncols=2, loc="upper center")
for row, name in enumerate(reversed(names)):
    right.plot(off[name], np.full(SEEDS, row), "o", mfc="none", mec="0.5", ms=5)
    right.plot(off[name].mean(), row, "kD", ms=6)
right.axvline(0, color="k", lw=0.8)
right.set_yticks(range(len(names)), names[::-1])
right.set(xlabel="above float32's, %", title="Held-out loss: each seed, and the mean")
for ax in (left, right):
    ax.grid(alpha=0.3)

# %% [markdown]
# Small steps that are lost, and a second moment that stalls, cost about 3 % here. The five words end 0.1 or
# 0.2 % above float32 on average, single seeds up to half a percent. The control moves single seeds by up to
# 0.3 %, and so no order among the five is shown. A network this small, in 500 steps, says that a format does
# no gross harm; [a larger study](../examples/low_precision.py) has a million parameters, other data and
# longer runs, with the same result.
#
# ## Eight bits
#
# How can a moment fit in 8 bits? `Blockwise` takes 256 neighbours, or the largest number below that divides
# the axis, holds the largest of them in float32, and for each other the nearest of 255 shares of it. Which
# shares matters. Here are the second moments of the network's first layer after training, as shares of their
# block's largest.

# %%
params, state = jax.tree.map(lambda x: x[0], base[:2])  # of the first seed
mu, nu = (gx.get_slot(state, params, slot)[0]["kernel"] for slot in ("mu", "nu"))
shares = np.asarray(nu / nu.max(axis=1, keepdims=True)).ravel()  # blocks of 128
maps = {name: gx.Blockwise(map=name, rounding="nearest") for name in ("log2", "dynamic", "linear")}
codes = jnp.arange(1, 256, dtype=jnp.uint8)[None]

_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
bins = np.logspace(-9, 0, 46)
left.hist(shares, bins, color="0.8", edgecolor="0.5")
top = left.get_ylim()[1]
for row, (name, codec) in enumerate(maps.items()):
    levels = codec.decode({"codes": codes, "scales": jnp.ones((1, 1))}, True)[0]
    y = -top * (0.12 + 0.13 * row)
    left.plot(levels, np.full(255, y), "k|", ms=9, mew=0.5)
    left.text(2e-11, y, name, va="center", fontsize=9)
left.axvline(0.5 / 255, color="C3", ls="--", lw=1)
left.text(0.4 / 255, 0.9 * top, "0 in 255\nequal steps", color="C3", ha="right", va="top", fontsize=9)
left.set(xscale="log", xlim=(1e-11, 2), xlabel="share of the block's largest", ylabel="elements of nu")
left.set(title="A second moment, and what codes stand for")
left.set_yticks([y for y in left.get_yticks() if 0 <= y <= top])
x = jnp.logspace(-9, 0, 9 * 512).reshape(1, -1)
for (name, codec), line in zip(maps.items(), ("-", "--", "-."), strict=True):
    one_block = codec.decode(
        gx.Blockwise(map=name, rounding="nearest", block=x.size).encode(x, True, None), True
    )
    error = 100 * jnp.abs(jnp.sqrt(one_block / x) - 1)
    worst = error.reshape(-1, 128).max(axis=1)
    right.loglog(x[0, ::128], worst, line, label=name)
right.set(xlabel="share of the block's largest", ylabel="worst error of the root, %")
right.set(title="What is read back, rounded to the nearest")
_ = right.legend(fontsize=9)

# %%
equal = jnp.round(255 * nu / nu.max(axis=1, keepdims=True)) / 255 * nu.max(axis=1, keepdims=True)
steps = jnp.abs(mu) / (jnp.sqrt(jnp.stack([nu, equal])) + 1e-8)
print(f"in 255 equal steps {jnp.mean(equal == 0):.1%} would be 0, and the largest step of Adam")
print(f"would be {steps[1].max():.3g} times the learning rate, where it is {steps[0].max():.3g}")

# %% [markdown]
# A few elements far below the largest are enough: that is why equal steps do not do, and why no map of gradx
# makes a square above 0 into 0. `log2`, the default, is as exact far below the largest as near to it.
# `dynamic`, of bitsandbytes, and `linear`, in equal steps of the root, are finer at the top, where most
# elements of this network are, and coarser below, where those of an embedding may be.
#
# What that does to a step of Adam, `mu / √nu`, format by format. Rounding is by chance, as it is in
# training, where it keeps averages from stalling; a single step is then further off, and the mean of many is
# not.

# %%
codecs = [
    gx.Rounded("bfloat16"),
    gx.Blockwise(),
    gx.Float8("e4m3"),
    gx.Blockwise(map="dynamic"),
    gx.Blockwise(bits=4),
]
keys = jax.random.split(jax.random.key(0))
print(f"{'format':28}{'bytes':>7}{'error of a step':>18}")
for codec in codecs:
    held = [
        codec.encode(x, positive, jax.random.bits(key, x.shape, "uint32"))
        for x, positive, key in ((mu, False, keys[0]), (nu, True, keys[1]))
    ]
    m, v = codec.decode(held[0], False), codec.decode(held[1], True)
    exact, found = (a / (jnp.sqrt(b) + 1e-8) for a, b in ((mu, nu), (m, v)))
    error = jnp.sqrt(jnp.mean((found - exact) ** 2) / jnp.mean(exact**2))
    print(f"{codec!r:28}{bytes_of(held[0]) / mu.size:7.2f}{error:17.1%}")

# %% [markdown]
# `store` puts a format around any optimizer, for all slots, or by name and path; biases and small arrays
# stay as they are. `decode_state` reads such a state as an ordinary one.

# %%
tx = gx.store(adamw, {"mu": gx.Blockwise(), "nu": gx.Rounded("bfloat16")}, where="^[01]/", seed=0)
stored = jax.jit(tx.init)(params)
print(gx.summarize(tx, params))
print(gx.get_slot(gx.decode_state(stored), params, "mu")[0]["kernel"].dtype)

# %% [markdown]
# ## float16
#
# float16 has three bits more than bfloat16 for the digits of a number, and nothing between 0 and 6e-8, where
# gradients may be. So the loss is multiplied by a large scale, and the gradients divided by it again.
# `dynamic_loss_scale` finds the largest scale that does not overflow: it skips a step that does and halves
# the scale, and doubles it after so many good ones. It goes around the whole optimizer, with `kahan` at the
# end of that.

# %%
kept = gx.chain(gx.adamw(schedule, weight_decay=0.01), gx.kahan())
tx = gx.measured(gx.dynamic_loss_scale(kept, init_scale=2.0**24, growth_interval=50))


@jax.jit
def train_float16(weights, batches):
    params = jax.tree.map(lambda p: p.astype(jnp.float16), weights)

    def step(carry, batch):
        params, state = carry
        x, y = batch
        scaled = lambda params: gx.scale_loss(loss_of(params, x.astype(jnp.float16), y), state)
        loss, grads = jax.value_and_grad(scaled)(params)
        updates, state = tx.update(grads, state, params)
        scale = gx.metrics(state)["loss_scale"]  # of this step
        return (gx.apply_updates(params, updates), state), {"loss": loss / scale, "loss_scale": scale}

    (params, _), history = jax.lax.scan(step, (params, tx.init(params)), batches)
    return loss_of(params, *held_out), history


end, history = train_float16(*jax.tree.map(lambda x: x[0], (weights, batches)))
_, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.plot(history["loss"], lw=0.8)
left.set(xlabel="step", ylabel="training loss", title="Trained in float16")
right.step(jnp.arange(STEPS), history["loss_scale"], where="post")
right.set_yscale("log", base=2)
right.set(xlabel="step", ylabel="loss scale", title="The scale falls at an overflow, and grows again")
print(f"held-out loss {end:.4f}; float32, same seed: {ends['float32'][0]:.4f}")

# %% [markdown]
# ## Which to take
#
# | | take | because |
# |---|---|---|
# | memory is not short | float32 parameters, nothing else | there is nothing to go wrong |
# | bf16 parameters, the simplest cure | `"bf16-stochastic"` | 6 bytes, nothing beside the slots |
# | the least memory | `"8-bit"` | 5.03 bytes for large arrays; `where` leaves embeddings out |
# | bf16 parameters, nothing by chance in them | `"bf16-kahan"`; `"split"`, with float32 slots | 8; 11 bytes |
# | as others do it, or to compare with | `"master"` | 14 bytes, the float32 run with a rounded copy |
# | 4 bits | `store(tx, gx.Blockwise(bits=4), seed=0)` | half a byte a slot, steps far off: measure it |
#
# What a step of each moves, on a CPU, an H100 and a TPU, and how long it takes, is in
# [docs/benchmarks/low_precision.md](../docs/benchmarks/low_precision.md). To put a running job on another
# format, `gx.migrate` carries its state over.
