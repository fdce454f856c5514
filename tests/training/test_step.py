"""`step` is `update` and `apply_updates`, compiled together, with state and parameters donated."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
from gradx.analysis.cost import compiled_step
from gradx.training.donation import call_unshared
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
        # Two programs: XLA may fuse them in other ways, and a last bit turn.
        last = 2 * float(jnp.finfo(a.dtype).eps) if jnp.issubdtype(a.dtype, jnp.floating) else 0
        np.testing.assert_allclose(a.astype(jnp.float32), b.astype(jnp.float32), rtol=last)


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


def alias(x):
    """Another array on the same buffer, as where one is put where it is already."""
    other = jax.device_put(x, x.sharding)
    assert other is not x
    assert other.unsafe_buffer_pointer() == x.unsafe_buffer_pointer()
    return other


@pytest.mark.parametrize("second", [lambda x: x, alias], ids=["one array", "one buffer"])
def test_one_buffer_under_two_names_is_copied(second):
    """Among parameters, in the state, as a gradient and as an extra argument: as if all were their own."""
    tx = gx.chain(gx.trace(0.9), gx.polyak_sgd())

    def result(second):
        x, y = jnp.full(3, 2.0), jnp.float32(3.0)
        params = {"a": x, "b": second(x), "c": jnp.full(3, 4.0)}
        state = tx.init(params)
        state = (state[0]._replace(trace=state[0].trace | {"a": second(params["c"])}), *state[1:])
        grads = {"a": second(params["c"]), "b": jnp.ones(3), "c": second(x)}
        return gx.step(tx)(grads, state, params, value=y, unused=second(y))

    expected = result(jnp.copy)
    for x, y in zip(jax.tree.leaves(result(second)), jax.tree.leaves(expected), strict=True):
        assert x.tolist() == y.tolist()


def test_copies_stay_where_they_are():
    """Sharded, replicated, and uncommitted; the gradients, which are not donated, live on."""
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    tx = gx.sgd(0.5)
    for spec in (jax.P("d"), jax.P()):
        x = jax.device_put(jnp.ones(4), jax.NamedSharding(mesh, spec))
        params, _ = gx.step(tx)({"a": x, "b": x}, tx.init({"a": x, "b": x}), {"a": x, "b": x})
        assert {p.sharding.spec for p in params.values()} == {spec}
        assert [p.tolist() for p in params.values()] == [[0.5] * 4] * 2
    x = jnp.ones(4)
    params, _ = gx.step(tx)({"a": x}, tx.init({"a": x}), {"a": x})
    assert not params["a"].committed


def test_a_failure_of_another_kind_is_raised_once():
    calls = []

    def fails(donated, kept):
        calls.append(1)
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")

    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        call_unshared(fails, (), ())
    assert calls == [1]
