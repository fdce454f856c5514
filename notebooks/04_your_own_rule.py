# %% [markdown]
# # Your own rule
#
# Papers bring new optimizers faster than libraries do. Here you write one as its paper has it, as a function
# of one array; test it against NumPy; use it in chains, in groups and with an 8-bit state as if gradx had
# always had it; and train a Flax network with it.
#
# It needs `pip install 'gradx[notebooks]'`, or `make lab` in a clone.

# %%
import pickle
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gradx as gx
import gradx.flax
import gradx.plot

plt.rcParams["figure.dpi"] = 80

# %% [markdown]
# ## One array
#
# Adam steps along a mean of the gradients, which may point uphill for a while after the gradient has turned.
# [Grams](https://arxiv.org/abs/2412.17107) (Cao et al. 2024) takes how far to go from Adam, and which way
# from the gradient of this step:
#
#     mu = b1 * mu + (1 - b1) * g
#     nu = b2 * nu + (1 - b2) * g²
#     u  = sign(g) * |mu / (1 - b1ᵗ)| / (√(nu / (1 - b2ᵗ)) + eps)
#
# gradx does not have it. In gradx a rule is a function of one array, which asks by name for what it uses:
# the gradient `g`, the fields of its state, hyperparameters, and the factors `c1` and `c2` = 1 / (1 - bᵗ),
# which the engine computes once a step. It returns the update, then the new slots.


# %%
class ScaleByGramsState(NamedTuple):
    count: jax.Array
    mu: optax.Params
    nu: optax.Params


@gx.factory
def scale_by_grams(b1=0.9, b2=0.999, eps=1e-8):
    """As far as Adam, in the direction of the gradient (Cao et al. 2024, arXiv:2412.17107)."""

    def rule(g, mu, nu, b1, b2, eps, c1, c2):
        mu = b1 * mu + (1 - b1) * g
        nu = b2 * nu + (1 - b2) * g * g
        return jnp.sign(g) * c1 * jnp.abs(mu) / (jnp.sqrt(c2 * nu) + eps), mu, nu

    corrections = {"c1": "b1", "c2": "b2"}
    return gx.leafwise(ScaleByGramsState, rule, corrections=corrections, b1=b1, b2=b2, eps=eps)


# %% [markdown]
# That is all of it. An optimizer is a chain that has it as a link, and works on any tree of parameters.


# %%
@gx.factory
def grams(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, mask=None):
    """Grams, with decoupled weight decay."""
    return gx.chain(
        scale_by_grams(b1, b2, eps),
        gx.add_decayed_weights(weight_decay, mask),
        gx.scale_by_learning_rate(learning_rate),
    )


tx = grams(0.1)
params = {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}
grads = {"kernel": jnp.array([[1.0, -2.0], [0.5, 0.0]]), "bias": jnp.array([3.0, -4.0])}
updates, state = tx.update(grads, tx.init(params), params)
updates

# %% [markdown]
# What it does shows best where it is steep across and flat along. Adam overshoots the valley; Grams turns
# when the gradient does.


# %%
def valley(p):
    return 0.5 * (p[0] ** 2 + 30 * p[1] ** 2)


ax = gradx.plot.plot_trajectory(
    valley, gx.adam(0.1), grams(0.1), start=(-4.0, 1.0), steps=80, minimum=(0.0, 0.0)
)
_ = ax.set_title("80 steps down a valley")

# %% [markdown]
# ## What you did not write
#
# **Dtypes.** The parameters below are bfloat16, and the slots float32, as 0.999 would be 1 in bfloat16.
# `summarize` tells it from shapes alone.

# %%
half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
gx.summarize(tx, half)

# %% [markdown]
# **Missing leaves.** A `None` in the tree, such as a part that is not trained, passes through.
#
# **Schedules.** Each hyperparameter may be a function of the step. The bias correction then goes by the
# product of the rates so far: the first update below is ±1, though `b1` is another at each step.

# %%
warm = scale_by_grams(b1=gx.linear_schedule(0.5, 0.9, 100))
partial = {"trained": jnp.array([0.5, -2.0]), "frozen": None}
warm.update(partial, warm.init(partial))[0]

# %% [markdown]
# **Errors.** What cannot be meant raises when it is given: the names `b1`, `eps`, `learning_rate` and others
# have the same range wherever they are used. What does not fit says where.


# %%
def complaint(function):
    try:
        function()
    except (TypeError, ValueError) as e:
        print(f"{type(e).__name__}: {e}\n")


complaint(lambda: scale_by_grams(b1=1.0))
complaint(lambda: scale_by_grams(eps="small"))
complaint(lambda: tx.update(grads, tx.init({"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}), params))

# %% [markdown]
# **Identity.** `factory` makes what it decorates known by the call: it prints as such, equal calls are equal
# and share one compilation, and it can be pickled. For another process to unpickle it, the function has to
# be at the top level of a module which that process can import.

# %%
print(grams(1e-3, weight_decay=0.1))
print(grams(1e-3, weight_decay=0.1) == grams(1e-3, 0.9, weight_decay=0.1))
print(pickle.loads(pickle.dumps(tx)) == tx)

# %% [markdown]
# ## Test it
#
# First against the formula, written again in NumPy, in float64, from the paper and not from the code above.


# %%
def grams_in_numpy(gradients, b1=0.9, b2=0.999, eps=1e-8):
    mu, nu = np.zeros_like(gradients[0]), np.zeros_like(gradients[0])
    for t, g in enumerate(gradients, start=1):
        mu += (1 - b1) * (g - mu)
        nu += (1 - b2) * (g**2 - nu)
        adam = mu / (1 - b1**t) / (np.sqrt(nu / (1 - b2**t)) + eps)
        yield np.copysign(adam, g)


def updates_of(tx, gradients):
    """All updates in one compiled scan: it takes no other state than that which `init` made."""
    step = lambda state, g: tx.update(g, state)[::-1]
    fresh = tx.init(jax.tree.map(lambda g: g[0], gradients))
    return jax.lax.scan(step, fresh, gradients)[1]


gradients = np.random.default_rng(0).normal(size=(20, 5, 3))
expected = np.stack(list(grams_in_numpy(gradients)))
for dtype, bound in (("float32", 1e-5), ("float64", 1e-12)):
    with jax.enable_x64(dtype == "float64"):
        found = np.asarray(updates_of(scale_by_grams(), jnp.asarray(gradients, dtype)))
    error = np.max(np.abs(found - expected))
    assert found.dtype == dtype
    assert error < bound
    print(f"{dtype}: largest error of 20 steps {error:.0e}, largest update {np.max(np.abs(expected)):.1f}")

# %% [markdown]
# Then what must hold of any rule on single elements, and one law of this rule's own.

# %%
rule, g = scale_by_grams(), jnp.asarray(gradients, jnp.float32)

# Compiled or not, the same.
fresh = rule.init(g[0])
eager, compiled = rule.update(g[0], fresh)[0], jax.jit(rule.update)(g[0], fresh)[0]
assert jnp.allclose(eager, compiled, rtol=1e-6)

# A parameter in two parts moves as the whole one.
parts = updates_of(rule, {"upper": g[:, :2], "lower": g[:, 2:]})
assert jnp.allclose(jnp.concatenate([parts["upper"], parts["lower"]], axis=1), updates_of(rule, g), rtol=1e-6)

# The state keeps its structure, shapes and dtypes, whatever those of the gradients.
for dtype in (jnp.bfloat16, jnp.float32):
    made = jax.eval_shape(rule.init, half)
    low = jax.tree.map(lambda x, dtype=dtype: x.astype(dtype), grads)
    assert jax.eval_shape(rule.update, low, made, half)[1] == made

# As far as Adam, and never uphill.
adam = updates_of(gx.scale_by_adam(), g)
assert jnp.allclose(jnp.abs(updates_of(rule, g)), jnp.abs(adam), rtol=1e-5)
assert jnp.all(updates_of(rule, g) * g >= 0)
print(f"Adam's update and the gradient differ in sign in {jnp.mean(adam * g < 0):.0%} of {g.size} elements")

# %% [markdown]
# ## Register it
#
# **In your project** there is nothing to register. What `factory` made is a transformation of gradx and of
# Optax: each of the following is one, and takes a step.

# %%
kernel = {"kernel": jnp.ones((64, 128)), "bias": jnp.zeros(128)}
uses = [
    optax.chain(optax.clip_by_global_norm(1.0), scale_by_grams(), optax.scale(-1e-3)),
    gx.inject_hyperparams(grams)(1e-3, weight_decay=0.1, mask="matrices_only"),
    gx.groups(grams(1e-3, weight_decay=0.1), {"bias$": {"weight_decay": 0.0, "b1": 0.5}}),
    gx.skip_if(gx.accumulate(grams(1e-3), 4), gx.nonfinite()),
    gx.store(grams(1e-3), {"nu": gx.Rounded("bfloat16")}, seed=0),
    gx.precision(grams(1e-3), "8-bit"),
]
for use in uses:
    change, _ = use.update(kernel, use.init(kernel), kernel)
    assert jax.tree.structure(change) == jax.tree.structure(kernel)
    name = repr(use) if isinstance(use, gx.GradientTransformation) else "optax.chain(...)"
    print(f"{gx.summarize(use, kernel).bytes_per_parameter:5.2f} B/parameter  {name}")

# %% [markdown]
# The slots in 8 bits need care where they hold squares: one that rounds to 0 would be divided by. A slot by
# the name of `nu` is known to hold squares; keep to such names (`nu`, `sum_of_squares`) for what has no
# element below 0.
#
# `explain` shows what each parameter gets:

# %%
gx.explain(uses[2], kernel)

# %% [markdown]
# **In gradx itself** it takes a file, `gradx/optimizers/grams.py`, with the two functions above; the line
# `from gradx.optimizers.grams import *` in `gradx/__init__.py`; the NumPy rule in `tests/reference/`; a row
# in `tests/cases.py` and one in `tests/catalogue.py`, for the README:
#
#     Case(gx.grams, dict(learning_rate=0.01), reference.grams, tuned=dict(learning_rate=0.1)),
#
# `make test` then runs every test of values, dtypes, structure, donation, sharding and interplay on it, and
# says what is missing. [CONTRIBUTING.md](../CONTRIBUTING.md) has the whole list.
#
# ## What needs more than one array
#
# What is the same for all elements is computed once a step by a second function, `scalars`. It may ask for
# hyperparameters, for the step `t`, for all `updates` and `params`, or for what `update` is given, such as
# the loss. What it returns the rule asks for by name; under the name of a hyperparameter it takes its place.
#
# [ADOPT](https://arxiv.org/abs/2411.02853) (Taniguchi et al. 2024) needs the step. It divides the gradient
# by the second moment of the steps *before*, and only then averages; its first step does nothing but fill
# `nu`, and later ones are clipped at the fourth root of their number.


# %%
class ScaleByAdoptState(NamedTuple):
    count: jax.Array
    mu: optax.Params
    nu: optax.Params


@gx.factory
def scale_by_adopt(b1=0.9, b2=0.9999, eps=1e-6):
    """Adam that converges with any b2 (Taniguchi et al. 2024, arXiv:2411.02853)."""

    def scalars(t, b2):
        return {"bound": (t - 1) ** 0.25, "b2": jnp.where(t == 1, 0.0, b2)}

    def rule(g, mu, nu, b1, b2, eps, bound):
        normalized = jnp.clip(g / jnp.maximum(jnp.sqrt(nu), eps), -bound, bound)
        mu = b1 * mu + (1 - b1) * normalized
        return mu, mu, b2 * nu + (1 - b2) * g * g

    return gx.leafwise(ScaleByAdoptState, rule, scalars, b1=b1, b2=b2, eps=eps)


@gx.factory
def adopt(learning_rate, b1=0.9, b2=0.9999, eps=1e-6, weight_decay=0.0, mask=None):
    """ADOPT, with decoupled weight decay."""
    return gx.chain(
        scale_by_adopt(b1, b2, eps),
        gx.add_decayed_weights(weight_decay, mask),
        gx.scale_by_learning_rate(learning_rate),
    )


first, second = updates_of(scale_by_adopt(), jnp.array([[2.0, -1.0], [4.0, -0.5]]))
assert not jnp.any(first)
assert jnp.allclose(second, 0.1 * jnp.array([1.0, -0.5]))  # 4 / 2 is clipped at 1

# %% [markdown]
# Why one would want that: one gradient in ten is 100, the others are -10, and so their mean is 1, and the
# best place between -1 and 1 is -1. With a `b2` of 0.9 the rare large gradient is divided by its own square
# root; Adam walks the wrong way, and Grams, which is Adam in size, likewise. (The problem of the ADOPT
# paper, after Reddi et al. 2018; 20 runs each, with other random gradients.)


# %%
def walk(tx, key, steps=30_000):
    def step(carry, key):
        p, state = carry
        g = jnp.where(jax.random.uniform(key) < 0.1, 100.0, -10.0)
        updates, state = tx.update(g, state, p)
        p = jnp.clip(p + updates, -1.0, 1.0)
        return (p, state), p

    p = jnp.zeros(())
    return jax.lax.scan(step, (p, tx.init(p)), jax.random.split(key, steps))[1]


rate = 0.003
walkers = {
    "Adam": (gx.adam(rate, b2=0.9), "-"),
    "Grams": (grams(rate, b2=0.9), "--"),
    "ADOPT": (adopt(rate, b2=0.9), "-."),
}
keys = jax.random.split(jax.random.key(0), 20)
_, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
for name, (walker, style) in walkers.items():
    paths = jax.jit(jax.vmap(lambda key, walker=walker: walk(walker, key)))(keys)[:, ::100]
    steps = 100 * jnp.arange(paths.shape[1])
    low, median, high = jnp.quantile(paths, jnp.array([0.05, 0.5, 0.95]), axis=0)
    line = ax.plot(steps, median, style, label=name)[0]
    ax.fill_between(steps, low, high, alpha=0.2, color=line.get_color(), lw=0)
    print(f"{name:6} ends at {median[-1]:+.2f}; 90 % of the runs from {low[-1]:+.2f} to {high[-1]:+.2f}")
ax.set(
    xlabel="step", ylabel="parameter", title="The minimum is at -1: the median of 20 runs, and 90 % of them"
)
_ = ax.legend()

# %% [markdown]
# ## In Flax
#
# To Flax it is any optimizer of Optax. A network of 9,610 parameters learns handwritten digits, with Grams
# and its slots in 8 bits; `measured` keeps what there is to see in the state.

# %%
images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
rest_x, test_x, rest_y, test_y = train_test_split(
    images, labels, test_size=400, random_state=0, stratify=labels
)
train_x, val_x, train_y, val_y = train_test_split(
    rest_x, rest_y, test_size=400, random_state=0, stratify=rest_y
)
train_x, train_y = jnp.asarray(train_x), jnp.asarray(train_y)


class Digits(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 128, rngs=rngs)
        self.out = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x)))


def loss_of(model, x, y):
    return optax.losses.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


def batch(key):
    i = jax.random.randint(key, (64,), 0, len(train_x))
    return train_x[i], train_y[i]


STEPS = 300
model = Digits(nnx.Rngs(0))
schedule = gx.warmup_cosine_decay_schedule(0.0, 0.01, warmup_steps=30, decay_steps=STEPS)
tx = gx.measured(gx.precision(grams(schedule, weight_decay=0.01, mask="matrices_only"), "8-bit"))
optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)


@nnx.jit
def train_step(model, optimizer, x, y):
    loss, grads = nnx.value_and_grad(loss_of)(model, x, y)
    optimizer.update(model, grads)
    return loss


history = []
for key in jax.random.split(jax.random.key(1), STEPS):
    loss = train_step(model, optimizer, *batch(key))
    history.append({"loss": loss} | gx.metrics(gradx.flax.opt_state(optimizer)))

_ = gradx.plot.plot_history(history)
print(f"right in the test data: {jnp.mean(jnp.argmax(model(test_x), axis=1) == test_y):.1%}")

# %% [markdown]
# ## Is it any good?
#
# A rule is fairly tried with a rate of its own: eight of them, each three times the one before, with five
# seeds, all under one `vmap`. The rate is chosen by validation data, and the result is on test data.


# %%
def scores(make, rate, seed):
    """The validation loss, and the share of the test data that is right, after a run."""
    weights, order = jax.random.split(jax.random.key(seed))
    graph, params = nnx.split(Digits(nnx.Rngs(weights)))
    tx = make(gx.cosine_decay_schedule(rate, STEPS))
    loss = lambda params, x, y: loss_of(nnx.merge(graph, params), x, y)

    def step(carry, key):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, *batch(key)), state, params)
        return (gx.apply_updates(params, updates), state), None

    keys = jax.random.split(order, STEPS)
    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), keys)
    right = jnp.argmax(nnx.merge(graph, params)(test_x), axis=1) == test_y
    return loss(params, val_x, val_y), jnp.mean(right)


rates, seeds = 1e-3 * 3.0 ** jnp.arange(8), jnp.arange(5)
makers = {
    "SGD, momentum 0.9": (lambda rate: gx.sgd(rate, momentum=0.9), "o-"),
    "AdamW": (lambda rate: gx.adamw(rate, weight_decay=0.01), "s--"),
    "Grams": (lambda rate: grams(rate, weight_decay=0.01), "^-."),
    "ADOPT": (lambda rate: adopt(rate, weight_decay=0.01), "v:"),
}
_, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
for name, (make, style) in makers.items():
    over_seeds = jax.vmap(lambda rate, seed, make=make: scores(make, rate, seed), (None, 0))
    losses, right = jax.jit(jax.vmap(over_seeds, (0, None)))(rates, seeds)
    mean = losses.mean(axis=1)
    ax.loglog(rates, mean, style, ms=5, label=name)
    ax.fill_between(rates, losses.min(axis=1), losses.max(axis=1), alpha=0.15, lw=0)
    best = jnp.argmin(mean)
    spread = f"{right[best].mean():.1%}, from {right[best].min():.1%} to {right[best].max():.1%}"
    print(f"{name:18} rate {rates[best]:<7.2g} right {spread}")
ax.set(
    xlabel="learning rate", ylabel="validation loss", title="300 steps: mean of five seeds, and their range"
)
_ = ax.legend()

# %% [markdown]
# At its own rate no rule stands out: the ranges overlap, and a task on which all come to about 97 % cannot
# tell more. What the picture does show is width: at rates with which AdamW and ADOPT no longer learn, Grams
# still does. One small network is a reason to try that on yours, and no more.
#
# What a rule costs, `cost` says without running it: the bytes that a step moves, per parameter, next to the
# least that it could, and what it needs for a while. For Grams the CPU reads the gradient once more than for
# AdamW. For ADOPT it keeps the normalized gradients in between, 4 bytes a parameter, as it must before `nu`
# is overwritten.

# %%
shapes = {f"layer{i}": jax.ShapeDtypeStruct((1024, 1024), jnp.float32) for i in range(4)}
costs = gx.Costs()
for make in (gx.adamw, grams, adopt):
    costs[make.__name__] = gx.cost(make(1e-3), shapes, platform="cpu")
costs

# %% [markdown]
# ## Next
#
# [05_large_batch](05_large_batch.ipynb) has rules that depend on a whole array, such as LARS and LAMB;
# [06_low_precision](06_low_precision.ipynb) what 16 and 8 bits do to a state. `help(gx.leafwise)` lists what
# else a rule may ask for.
