"""Every row of the table computes what its paper, and Optax, say."""

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


def run(tx, dtype, steps):
    """The updates of `steps` steps, and the parameters before each."""
    p, seen = params(dtype), []
    state, update = tx.init(p), jax.jit(tx.update)
    for i in range(steps):
        u, state = update(grads(i, p), state, p)
        seen.append((p, u))
        p = gx.apply_updates(p, u)
    return seen


def expected(case, seen, dtype):
    """The reference's updates for the same gradients, from the same start."""
    ps = leaves_of(case, seen[0][0])
    rules = [case.reference(**case.kwargs) for _ in ps]
    for rule in rules:
        next(rule)
    for i in range(len(seen)):
        gs = leaves_of(case, grads(i, params(dtype)))
        us = [rule.send((g, p)) for rule, g, p in zip(rules, gs, ps, strict=True)]
        ps = [p + u for p, u in zip(ps, us, strict=True)]
        yield us


def leaves_of(case, tree):
    """The arrays of a tree; as one vector if the rule looks at them together."""
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]
    return [np.concatenate([x.ravel() for x in leaves])] if case.whole_tree else leaves


# In float64, below, every variant; in float32 the further ones are for `make test-all`.
@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[] if c in FIRST else pytest.mark.slow) for c in CASES], ids=str
)
def test_follows_its_paper_in_float32(case):
    seen = run(case.make(), jnp.float32, 10)
    for (_, u), ref in zip(seen, expected(case, seen, jnp.float32), strict=True):
        for x, y in zip(leaves_of(case, u), ref, strict=True):
            np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6)


@each_case
def test_follows_its_paper_in_float64(case, x64):
    seen = run(case.make(), jnp.float64, 50)
    for (_, u), ref in zip(seen, expected(case, seen, jnp.float64), strict=True):
        for x, y in zip(leaves_of(case, u), ref, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12)


@each_with_optax
def test_agrees_with_optax(case, x64, lenient):
    ours, theirs = run(case.make(), jnp.float64, 50), run(case.make_optax(), jnp.float64, 50)
    for (p, _), (q, _) in zip(ours, theirs, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-12), p, q)


@each_with_optax
def test_exchanges_states_with_optax(case, lenient):
    """A run may be handed from Optax to gradx and back at any step."""
    ours, theirs, p = case.make(), case.make_optax(), params()
    mixed = pure = theirs.init(p)
    assert jax.tree.structure(ours.init(p)) == jax.tree.structure(pure)
    for i in range(6):
        u, mixed = (ours if i % 2 else theirs).update(grads(i, p), mixed, p)
        v, pure = theirs.update(grads(i, p), pure, p)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), u, v)


@each_case
def test_minimises_a_quadratic(case):
    """In 300 steps, with a cosine decay, to a hundredth of the loss (a tenth with weight decay)."""
    kwargs = case.kwargs | (case.tuned or {})
    tx = case.scheduled(300)
    target = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.array([0.5, -0.5])}
    scale = {"w": jnp.array([[1.0, 3.0, 1.0], [2.0, 1.0, 1.0]]), "b": jnp.array([1.0, 2.0])}
    loss = lambda p: sum(jnp.sum(scale[k] * (p[k] - target[k]) ** 2) for k in p)

    def step(carry, _):
        p, state = carry
        u, state = tx.update(jax.grad(loss)(p), state, p)
        return (gx.apply_updates(p, u), state), None

    start = jax.tree.map(jnp.ones_like, target)
    (end, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=300))((start, tx.init(start)))
    assert loss(end) < (0.1 if kwargs.get("weight_decay") else 0.01) * loss(start)


def test_an_update_can_be_differentiated(x64):
    """Meta-gradients through clipping, Adam and the trust ratio are finite, even at zero gradients."""
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.scale_by_adam(eps_root=1e-8), gx.scale_by_trust_ratio())

    def length(g):
        p = jnp.array([3.0, 4.0])
        return jnp.sum(tx.update(g, tx.init(p), p)[0])

    for g in (jnp.zeros(2), jnp.array([0.3, 0.4])):
        assert jnp.all(jnp.isfinite(jax.grad(length)(g)))


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
