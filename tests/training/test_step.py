"""`step` is `update` and `apply_updates`, compiled together, with state and parameters donated."""

import jax
import jax.numpy as jnp
import optax
import pytest

import gradx as gx
from gradx.analysis.cost import compiled_step
from tests import problems


def started(tx, dtype=jnp.float32):
    params = problems.params(dtype)
    return params, tx.init(params)


@pytest.mark.parametrize("dtype", [pytest.param(jnp.float32, marks=pytest.mark.slow), jnp.bfloat16])
def test_is_update_and_apply_updates(dtype):
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-2))
    params, state = started(tx, dtype)
    ours, our_state = started(tx, dtype)
    step = gx.step(tx)

    @jax.jit
    def by_hand(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return gx.apply_updates(params, updates), state

    for t in range(3):
        grads = problems.grads(t, params)
        params, state = by_hand(grads, state, params)
        ours, our_state = step(grads, our_state, ours)
    assert problems.aval((ours, our_state)) == problems.aval((params, state))
    for a, b in zip(jax.tree.leaves((ours, our_state)), jax.tree.leaves((params, state)), strict=True):
        assert a.tolist() == b.tolist()


def test_state_and_parameters_are_donated_and_gradients_are_not():
    tx = gx.adam(1e-2)
    params, state = started(tx)
    grads = problems.grads(0, params)
    gx.step(tx)(grads, state, params)
    assert all(x.is_deleted() for x in jax.tree.leaves((state, params)))
    assert not any(g.is_deleted() for g in jax.tree.leaves(grads))


def test_equal_transformations_are_compiled_once():
    traced = []

    def noted(g, p):
        traced.append(g.shape)
        return g

    made = lambda: gx.chain(gx.stateless_with_tree_map(noted), gx.sgd(0.1))
    for _ in range(2):
        tx = made()
        params, state = started(tx)
        gx.step(tx)(problems.grads(0, params), state, params)
    assert len(traced) == len(jax.tree.leaves(problems.params()))


def test_works_on_transformations_of_optax(lenient):
    tx = optax.adamw(1e-2)
    params, state = started(tx)
    grads = problems.grads(0, params)
    updates, _ = tx.update(grads, state, params)
    expected = optax.apply_updates(params, updates)
    ours, _ = gx.step(tx)(grads, state, params)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert jnp.allclose(a, b, rtol=1e-6)


def test_extra_arguments_reach_the_links_that_take_them():
    reader, seen = problems.tag_reader()
    tx = gx.chain(reader, gx.polyak_sgd())
    params, state = started(tx)
    gx.step(tx)(problems.grads(0, params), state, params, value=jnp.float32(3.0), tags={"batch": 1})
    assert [tags.keys() for tags in seen] == [{"batch"}]


def test_a_line_search_takes_its_function_and_what_that_needs():
    def value_fn(x, target):
        return jnp.sum((x - target) ** 2)

    tx = gx.chain(gx.scale(-1.0), gx.scale_by_backtracking_linesearch(20))
    step, x = gx.step(tx), jnp.zeros(3)
    state = tx.init(x)
    for target in [1.0] * 3 + [2.0] * 25:
        value, grad = jax.value_and_grad(value_fn)(x, target)
        x, state = step(grad, state, x, value=value, grad=grad, value_fn=value_fn, target=target)
    assert jnp.allclose(x, 2.0, atol=1e-3)


def test_stores_no_updates():
    """As many bytes as `cost` finds for adamw alone."""
    tx, params = gx.adamw(1e-3), jnp.zeros((512, 1024))
    shapes = jax.eval_shape(lambda: (params, tx.init(params), params))
    step = lambda p, s, g: gx.step(tx)(g, s, p)
    _, compiled, _ = compiled_step(step, shapes)
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < params.size / 100
    assert compiled.cost_analysis()["bytes accessed"] <= 40.1 * params.size


def test_a_wrong_step_uses_nothing_up():
    tx = gx.adam(1e-2)
    params, state = started(tx)
    with pytest.raises(ValueError, match="the updates and the state's mu have different structures"):
        gx.step(tx)({"w": params["w"]}, state, params)
    assert not any(x.is_deleted() for x in jax.tree.leaves((state, params)))


def test_needs_a_transformation():
    with pytest.raises(TypeError, match=r"tx of step is not a gradient transformation: .*call it"):
        gx.step(gx.adam)
