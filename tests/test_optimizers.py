"""Every row of the table computes what its paper, and Optax, say."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx
from tests.cases import CASES, FIRST
from tests.problems import grads, params

each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_with_optax = pytest.mark.parametrize("case", [c for c in CASES if c.optax], ids=str)


def run(tx, p, gs):
    """The parameters before each step, and the updates of each."""

    def step(carry, g):
        p, state = carry
        u, state = tx.update(g, state, p)
        return (gx.apply_updates(p, u), state), (p, u)

    return jax.lax.scan(step, (p, tx.init(p)), gs)[1]


@functools.cache
def start(dtype, steps):
    """Parameters, and the gradients of all steps."""
    p = params(dtype)
    return p, jax.tree.map(lambda *x: jnp.stack(x), *(grads(i, p) for i in range(steps)))


def expected(case, p, gs, steps):
    """The reference's updates for the same gradients, from the same start."""
    ps = leaves_of(case, p)
    rules = [case.reference(**case.kwargs) for _ in ps]
    for rule in rules:
        next(rule)
    for i in range(steps):
        us = [rule.send((g, p)) for rule, g, p in zip(rules, leaves_of(case, at(i, gs)), ps, strict=True)]
        ps = [p + u for p, u in zip(ps, us, strict=True)]
        yield us


def at(i, tree):
    return jax.tree.map(lambda x: x[i], tree)


def leaves_of(case, tree):
    """The arrays of a tree; as one vector if the rule looks at them together."""
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]
    return [np.concatenate([x.ravel() for x in leaves])] if case.whole_tree else leaves


@each_case
def test_follows_its_paper_in_float32(case, together):
    follows_its_paper(case, together, jnp.float32, 10, rtol=2e-5, atol=2e-6)


@each_case
def test_follows_its_paper_in_float64(case, together, x64):
    rtol = 1e-8 if case.whole_tree else 1e-10  # L-BFGS magnifies roundings, the more the further it goes
    follows_its_paper(case, together, jnp.float64, 50, rtol=rtol, atol=1e-12)


def follows_its_paper(case, together, dtype, steps, **bounds):
    p, gs = start(dtype, steps)
    _, us = together(lambda case, p, gs: run(case.make(), p, gs), p, gs, row="case")
    us = jax.device_get(us)
    for i, ref in enumerate(expected(case, *jax.device_get((p, gs)), steps)):
        for x, y in zip(leaves_of(case, at(i, us)), ref, strict=True):
            np.testing.assert_allclose(x, y, **bounds)


@each_with_optax
def test_agrees_with_optax(case, together, x64, lenient):
    both = lambda case, p, gs: [run(tx, p, gs)[0] for tx in (case.make(), case.make_optax())]
    ours, theirs = together(both, *start(jnp.float64, 50), row="case")
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-12), ours, theirs)


@pytest.mark.slow  # tests/optax_face/test_states.py exchanges them with all arguments
@each_with_optax
def test_exchanges_states_with_optax(case, together, lenient):
    """A run may be handed from Optax to gradx and back at any step."""

    def both(case, p, gs):
        ours, theirs = case.make(), case.make_optax()
        mixed = pure = theirs.init(p)
        assert jax.tree.structure(ours.init(p)) == jax.tree.structure(pure)

        def two_steps(states, gs):
            (mixed, pure), seen = states, []
            for tx, g in zip((theirs, ours), gs, strict=True):
                u, mixed = tx.update(g, mixed, p)
                v, pure = theirs.update(g, pure, p)
                seen.append((u, v))
            return (mixed, pure), seen

        return jax.lax.scan(two_steps, (mixed, pure), (at(slice(0, None, 2), gs), at(slice(1, None, 2), gs)))[
            1
        ]

    for mixed, pure in together(both, *start(jnp.float32, 6), row="case"):
        for x, y in zip(jax.tree.leaves(mixed), jax.tree.leaves(pure), strict=True):
            # Of the largest: where a step and its decay cancel, both are rounded.
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * np.max(np.abs(y), initial=0.01))


TARGET = {"w": np.linspace(-1.0, 1.0, 6, dtype=np.float32).reshape(2, 3), "b": np.float32([0.5, -0.5])}
SCALE = {"w": np.float32([[1.0, 3.0, 1.0], [2.0, 1.0, 1.0]]), "b": np.float32([1.0, 2.0])}


def loss(p):
    return sum(jnp.sum(SCALE[k] * (p[k] - TARGET[k]) ** 2) for k in p)


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[] if c in FIRST else pytest.mark.slow) for c in CASES], ids=str
)
def test_minimises_a_quadratic(case, together):
    """In 300 steps, with a cosine decay, to a hundredth of the loss (a tenth with weight decay)."""

    def train(case, p):
        tx = case.scheduled(300)

        def step(carry, _):
            p, state = carry
            u, state = tx.update(jax.grad(loss)(p), state, p)
            return (gx.apply_updates(p, u), state), None

        return loss(jax.lax.scan(step, (p, tx.init(p)), length=300)[0][0])

    ones = jax.tree.map(jnp.ones_like, TARGET)
    decays = (case.kwargs | (case.tuned or {})).get("weight_decay")
    assert together(train, ones, row="case") < (0.1 if decays else 0.01) * loss(ones)


def test_an_update_can_be_differentiated(x64):
    """Meta-gradients through clipping, Adam and the trust ratio are finite, even at zero gradients."""
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.scale_by_adam(eps_root=1e-8), gx.scale_by_trust_ratio())

    def length(g):
        p = jnp.array([3.0, 4.0])
        return jnp.sum(tx.update(g, tx.init(p), p)[0])

    for g in (jnp.zeros(2), jnp.array([0.3, 0.4])):
        assert jnp.all(jnp.isfinite(jax.grad(length)(g)))


@pytest.mark.parametrize("case", FIRST, ids=str)
def test_every_update_can_be_differentiated(case, together):
    """By the gradients of three steps, the first of which takes no curvature from a step before."""

    def derivative(case, p, gs):
        moved = lambda gs: sum(jnp.sum(u) for u in jax.tree.leaves(run(case.make(), p, gs)[1]))
        return jax.grad(moved)(gs)

    found = together(derivative, *start(jnp.float32, 3), row="case")
    assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(found))


def test_hyperparameters_can_be_differentiated(x64):
    """d(update)/d(b1, b2) through injection is finite, at 0 too."""

    def second_update(b):
        tx = gx.inject_hyperparams(gx.scale_by_adam)(b1=b[0], b2=b[1])
        x = jnp.array([1.0])
        _, state = tx.update(x, tx.init(x))
        return tx.update(2 * x, state)[0][0]

    for b in ([0.0, 0.0], [0.5, 0.9]):
        assert jnp.all(jnp.isfinite(jax.grad(second_update)(jnp.array(b))))


@each_with_optax
def test_has_the_arguments_of_optax_first(case):
    """Code written for Optax calls gradx with the same positions, names and defaults."""
    ours, theirs = (list(inspect.signature(f).parameters.values()) for f in (case.optimizer, case.optax))
    describe = lambda parameters: [(p.name, p.default, p.kind) for p in parameters]
    assert describe(ours[: len(theirs)]) == describe(theirs)
