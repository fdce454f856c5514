"""Optimizers that are put together from links and from classes of Optax: big_vision, DreamerV3, Levanter."""

import operator
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.clients.comparing import STEPS, client
from tests.clients.problem import loss_of, params, trained

slow = pytest.mark.slow


def masks(patterns, tree):
    """A tree of booleans for each pattern: the first that matches a path takes it."""
    name = lambda path: "/".join(key.key for key in path)
    first = lambda path: next((p for p in patterns if re.search(p, name(path))), None)
    return [jax.tree.map_with_path(lambda path, _, p=p: first(path) == p, tree) for p in patterns]


def as_big_vision(optax, name, options, schedules, decay=1e-2):
    """Its `make`: schedules and decays by regular expression, what has no schedule is frozen."""
    p = params()
    patterns = [pattern for pattern, _ in schedules]
    trees = masks(patterns, p)
    covered = jax.tree.map(lambda *marks: any(marks), *trees)
    frozen = [tree for tree, (_, schedule) in zip(trees, schedules, strict=True) if schedule is None]
    moving = [
        optax.masked(optax.scale_by_schedule(schedule), tree)
        for tree, (_, schedule) in zip(trees, schedules, strict=True)
        if schedule is not None
    ]
    moving += [optax.masked(optax.set_to_zero(), tree) for tree in frozen]
    assert all(jax.tree.leaves(covered))
    link = operator.attrgetter(name)(optax)(**options)
    kernels = masks([".*kernel$"], p)[0]
    return p, optax.chain(
        optax.clip_by_global_norm(1.0),
        link,
        optax.masked(optax.add_decayed_weights(decay), kernels),
        *moving,
        optax.scale(-1.0),
    )


def states_of(state, kind):
    """Its `find_states`."""
    leaves = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]


@client("step", rtol=0.02)
def test_schedules_by_name(optax):
    """With a first moment in bf16: Optax rounds its product with b1 as well."""
    warm = optax.warmup_cosine_decay_schedule(0.0, 0.1, 4, STEPS)
    late = optax.join_schedules(
        [
            optax.constant_schedule(0.0),
            optax.linear_schedule(init_value=0.05, end_value=0.0, transition_steps=10),
        ],
        [5],
    )
    schedules = [("head/bias", None), ("head/.*", warm), (".*", late)]
    p, tx = as_big_vision(optax, "scale_by_adam", dict(b1=0.9, b2=0.95, mu_dtype="bfloat16"), schedules)
    losses, (p, state) = trained(optax, tx, p)
    counts = [state.count for state in states_of(state, optax.ScaleByScheduleState)]
    assert [int(count) for count in counts] == [STEPS, STEPS]
    return losses, (p, state)


@slow
@client("step")
def test_its_adafactor(optax):
    """Hand-made links between Optax's, which keep no state, or one of their own."""

    def momentum_in(dtype):
        def init(params):
            return optax.TraceState(jax.tree.map(lambda x: jnp.zeros_like(x, dtype), params))

        def update(updates, state, params=None):
            trace = jax.tree.map(lambda m, u: 0.9 * m.astype(jnp.float32) + u, state.trace, updates)
            return trace, optax.TraceState(jax.tree.map(lambda x: x.astype(dtype), trace))

        return optax.GradientTransformation(init, update)

    p = params()
    tx = optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=2, decay_rate=0.8, step_offset=0),
        optax.clip_by_block_rms(1.0),
        momentum_in(jnp.bfloat16),
        optax.scale_by_param_block_rms(),
        optax.scale(-0.1),
    )
    return trained(optax, tx, p)


class RmsState(NamedTuple):
    step: jax.Array
    nu: Any


@client("step")
def test_links_by_hand(optax):
    """As in DreamerV3: adaptive clipping, RMS and momentum of its own, decay by regular expression."""

    def clip_by_agc(clip, pmin=1e-3):
        def update(updates, state, params=None):
            def one(p, u):
                upper = clip * jnp.maximum(pmin, jnp.linalg.norm(p.flatten(), 2))
                return u * (1 / jnp.maximum(1.0, jnp.linalg.norm(u.flatten(), 2) / upper))

            return jax.tree.map(one, params, updates) if clip else updates, ()

        return optax.GradientTransformation(lambda params: (), update)

    def scale_by_rms(beta, eps):
        def init(params):
            return RmsState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

        def update(updates, state, params=None):
            step = optax.safe_int32_increment(state.step)
            nu = jax.tree.map(lambda v, u: beta * v + (1 - beta) * (u * u), state.nu, updates)
            hat = optax.bias_correction(nu, beta, step)
            return jax.tree.map(lambda u, v: u / (jnp.sqrt(v) + eps), updates, hat), RmsState(step, nu)

        return optax.GradientTransformation(init, update)

    def decayed(name):
        return lambda params: masks([name], params)[0]

    tx = optax.chain(
        clip_by_agc(0.3),
        scale_by_rms(0.999, 1e-20),
        optax.trace(0.9, nesterov=False),
        optax.add_decayed_weights(1e-2, decayed("kernel$")),
        optax.scale_by_learning_rate(optax.linear_schedule(0.0, 3e-3, 10), flip_sign=False),
        optax.scale(-1.0),
    )
    return trained(optax, tx, params())


@client("step")
def test_optimizers_by_label(optax):
    """Labels from a function; masked nodes and states are told by their class."""

    def labels(params):
        return jax.tree.map_with_path(lambda path, _: path[0].key, params)

    tx = optax.multi_transform(
        {
            "encoder": optax.inject_hyperparams(optax.adamw)(learning_rate=0.03, weight_decay=0.1),
            "head": optax.chain(optax.trace(0.9), optax.scale(-0.1)),
        },
        labels,
    )
    p = params()
    state = tx.init(p)
    leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
    assert sum(isinstance(x, optax.MaskedNode) for x in leaves) == 6
    assert type(state).__name__ == "PartitionState"
    shown = jax.tree.map(
        lambda x: "masked" if isinstance(x, optax.MaskedNode) else "array",
        state,
        is_leaf=lambda x: isinstance(x, optax.MaskedNode),
    )
    assert jax.tree.leaves(shown).count("masked") == 6
    losses, (p, state) = trained(optax, tx, p)
    rate = optax.tree_utils.tree_get(state, "learning_rate")
    assert abs(float(rate) - 0.03) < 1e-8
    return losses, (p, state)


@client("step")
def test_states_by_name(optax):
    """`tree_get`, `tree_set`, `tree_get_all_with_path` and classes, on a named and on an injected state."""
    tx = optax.named_chain(
        ("clip", optax.clip(0.5)),
        ("adam", optax.scale_by_adam()),
        ("rate", optax.inject_hyperparams(optax.scale_by_learning_rate)(learning_rate=0.1)),
    )
    p = params()
    state = tx.init(p)
    assert isinstance(state["clip"], optax.EmptyState)
    assert isinstance(state["adam"], optax.ScaleByAdamState)
    assert state["clip"] == optax.EmptyState()
    state = optax.tree_utils.tree_set(state, learning_rate=jnp.float32(0.02))
    found = optax.tree_utils.tree_get_all_with_path(state, "count")
    assert len(found) == 2

    @jax.jit
    def step(p, state):
        loss, grads = jax.value_and_grad(loss_of)(p)
        updates, state = tx.update(grads, state, p)
        return optax.apply_updates(p, updates), state, loss

    losses = []
    for i in range(STEPS):
        if i == 10:  # a restart of the moments
            state["adam"] = state["adam"]._replace(count=jnp.zeros((), jnp.int32))
            state = optax.tree_utils.tree_set(state, learning_rate=jnp.float32(0.05))
        p, state, loss = step(p, state)
        losses.append(loss)
    return losses, (p, state)


@client("step")
def test_states_by_kind_of_parameter(optax):
    """`tree_map_params`: what has the shape of parameters is laid out as they are, the rest is left alone."""
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(0.1, 0.0, 30)))
    p = params()
    names = jax.tree.map_with_path(lambda path, _: jax.tree_util.keystr(path), p)
    state = tx.init(p)
    named = optax.tree_map_params(
        tx, lambda x, name: name, state, names, transform_non_params=lambda x: "count"
    )
    assert jax.tree.leaves(named).count("count") == 2
    assert named[1][0].mu == names
    doubled = optax.tree_map_params(tx, lambda x: x + 1.0, state)
    assert float(doubled[1][0].nu["head"]["bias"][0]) == 1.0
    assert int(doubled[1][0].count) == 0
    losses, (p, state) = trained(optax, tx, p)
    return losses, (p, optax.tree_map_params(tx, lambda x: x.astype(jnp.bfloat16), state))


@client("step")
def test_subclasses_and_pairs(optax):
    """A transformation is a pair: unpacked, replaced in part, subclassed, within a class of the client's."""

    class Named(optax.GradientTransformationExtraArgs):
        name = "signed"

    class Wrapped:
        def __init__(self, tx):
            self.tx = optax.with_extra_args_support(tx)

        def init(self, params):
            return {"inner": self.tx.init(params), "steps": jnp.zeros((), jnp.int32)}

        def update(self, updates, state, params=None, **extra):
            updates, inner = self.tx.update(updates, state["inner"], params, **extra)
            return updates, {"inner": inner, "steps": optax.safe_increment(state["steps"])}

    inner = optax.chain(optax.scale_by_lion(b1=0.9, b2=0.99), optax.scale(-0.02))
    assert isinstance(inner, optax.GradientTransformation)
    init, update = inner
    signed = Named(init, lambda u, s, p=None, **extra: update(u, s, p))
    halved = signed._replace(
        update=lambda u, s, p=None, **extra: signed.update(jax.tree.map(lambda x: x / 2, u), s, p)
    )
    assert isinstance(halved, Named)
    tx = Wrapped(optax.chain(optax.identity(), optax.flatten(halved), optax.stateless(lambda u, p: u)))
    return trained(optax, tx, params(), value=1.0)


@slow
@client("step")
def test_a_factory_of_the_clients_injected(optax):
    """`inject_hyperparams` as a decorator, with a schedule and with a number."""

    @optax.inject_hyperparams
    def make(learning_rate, eps):
        return optax.chain(optax.scale_by_adam(eps=eps), optax.scale_by_learning_rate(learning_rate))

    tx = make(learning_rate=optax.cosine_decay_schedule(0.1, STEPS), eps=1e-6)
    p = params()
    losses, (p, state) = trained(optax, tx, p)
    assert type(state).__name__ == "InjectStatefulHyperparamsState"
    return losses, (p, state)


@slow
@client("step")
def test_average_of_parameters_and_finite_updates(optax):
    """`apply_if_finite` around a chain that freezes by a mask; its counters are in the state."""
    frozen = masks(["^encoder/bias"], params())[0]
    tx = optax.apply_if_finite(
        optax.chain(
            optax.lars(0.5, weight_decay=1e-3), optax.ema(0.9), optax.masked(optax.set_to_zero(), frozen)
        ),
        max_consecutive_errors=3,
    )
    losses, (p, state) = trained(optax, tx, params())
    assert int(state.notfinite_count) == 0
    np.testing.assert_array_equal(p["encoder"]["bias"], params()["encoder"]["bias"])
    return losses, (p, state)
