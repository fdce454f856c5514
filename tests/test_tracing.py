"""How often a rule is traced, and what a step compiles to: once a shape, and in proportion to the leaves."""

import jax
import jax.numpy as jnp
import pytest

import gradx as gx
from tests import trees

calls = []  # the shapes that `watched` was traced or run with


@gx.factory
def watched(factor):
    """Multiply, and say that the rule ran."""

    def rule(g, factor):
        calls.append(g if isinstance(g, jax.core.Tracer) else "run")
        return factor * g

    return gx.leafwise(gx.EmptyState, rule, factor=factor)


@pytest.fixture(autouse=True)
def fresh():
    calls.clear()


def ones(tree):
    return jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), tree)


SMALL = [jnp.ones((2, 3))] * 15 + [jnp.ones(4)] * 15


def test_a_rule_is_traced_once_for_all_leaves_of_a_shape():
    tx = watched(2.0)
    jax.jit(tx.update).lower(SMALL, tx.init(SMALL))
    assert [x.shape for x in calls] == [(2, 3), (4,)]


def test_a_profile_shows_the_names_of_links():
    tx = gx.lamb(1e-3, weight_decay=0.1)
    p = {"w": jnp.ones(3)}
    text = jax.jit(tx.update).lower(p, tx.init(p), p).compile().as_text()
    for name in ("scale_by_adam", "add_decayed_weights", "scale_by_trust_ratio"):
        assert f"jit({name})/" in text


OPTIMIZERS = [
    gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(gx.warmup_cosine_decay_schedule(0.0, 1e-3, 10, 100))),
    gx.lamb(1e-3),
    gx.chain(gx.normalize_by_update_norm(), gx.sgd(1e-2)),
    gx.lars(0.1),
]


@pytest.mark.parametrize("tx", OPTIMIZERS, ids=repr)
def test_a_program_grows_in_proportion_to_the_leaves(tx):
    """Of the optimized program: a sum over leaves that is copied into each of them grows with the square."""

    def size(leaves):
        p = trees.small(leaves, size=64)
        state = jax.eval_shape(tx.init, p)
        lowered = jax.jit(tx.update, donate_argnums=1).lower(p, state, p)
        return len(lowered.compile().as_text().splitlines())

    few, many = size(20), size(80)
    assert many <= 4.1 * few
