"""Gradients are reduced once a step, however many micro-batches it has: counted in the compiled program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gradx as gx
from tests.distributed.collectives import reductions
from tests.distributed.test_local_gradients import clipped, close, data_mesh, loss, problem, ragged, tokens

COUNT = 8  # micro-batches a step


def with_aux(params, batch, scale):
    return scale * loss(params, batch), {"tokens": tokens(batch)}


def graded(**options):
    options |= {"argnums": (2, 0), "has_aux": True, "weight": tokens}
    return gx.accumulate_gradients(with_aux, **options)


def divided(mesh, params, batches):
    whole = lambda x: jax.device_put(x, NamedSharding(mesh, P()))
    batches = jax.device_put(batches, NamedSharding(mesh, P(None, "data")))
    return jax.tree.map(whole, params), batches, whole(jnp.float32(0.5))


def elements(params):
    return sum(x.size for x in jax.tree.leaves(params))


def test_with_whole_arrays_under_jit():
    """One all-reduce of gradients, loss and weight, where XLA by itself has one for each micro-batch."""
    params, batches = problem(COUNT)
    batches = ragged(batches)
    arguments = divided(data_mesh(), params, batches)
    alone = jax.jit(graded()).lower(*arguments).compile()
    once = jax.jit(graded(axis_name="data", mesh=data_mesh())).lower(*arguments).compile()
    gradients = elements(params) + 1  # and that of the scale
    assert reductions(once) == [gradients + 2]
    assert sum(n >= gradients for n in reductions(alone)) == COUNT
    (value, aux), grads = once(*arguments)
    (expected, aux_expected), direct = alone(*arguments)
    close((value, grads), (expected, direct))
    each = aux["tokens"].reshape(8, COUNT)  # by device, then by micro-batch
    np.testing.assert_array_equal(jnp.sum(each, axis=0), aux_expected["tokens"])
    np.testing.assert_array_equal(each[3], jnp.zeros(COUNT))


def test_squared_norms_are_those_of_each_device_s_rows():
    """Each device's part of a micro-batch is one of its own, for the noise scale."""
    params, batches = problem(COUNT)
    params, batches, _ = divided(data_mesh(), params, batches)
    spread = gx.accumulate_gradients(loss, axis_name="data", mesh=data_mesh(), squared_norms=True)
    value, grads, squared = jax.jit(spread)(params, batches)
    parts = jax.tree.map(lambda x: x.reshape(COUNT, 8, -1, *x.shape[2:]).swapaxes(0, 1), batches)
    parts = jax.device_get(jax.tree.map(lambda x: x.reshape(8 * COUNT, *x.shape[2:]), parts))
    alone = gx.accumulate_gradients(loss, squared_norms=True)
    close((value, grads, squared), jax.jit(alone)(jax.device_get(params), parts))


def test_the_mesh_of_the_context_and_axes_left_to_xla():
    """Over `data` only: parameters stay divided along `model`; axes may be explicit."""
    params, batches = problem(COUNT)
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
    params, batches, scale = divided(mesh, params, batches)
    params["v"] = jax.device_put(params["v"], NamedSharding(mesh, P(None, "model")))
    expected = jax.jit(graded())(params, batches, scale)
    with jax.set_mesh(mesh):
        (value, _), grads = jax.jit(graded(axis_name="data"))(params, batches, scale)
    close((value, grads), (expected[0][0], expected[1]))
    assert grads[1]["v"].sharding.is_equivalent_to(params["v"].sharding, 2)
    explicit = jax.make_mesh((8,), ("data",), (AxisType.Explicit,))
    arguments = divided(explicit, *problem(COUNT))
    with jax.set_mesh(explicit):
        (value, _), grads = jax.jit(graded(axis_name="data"))(*arguments)
    close((value, grads), (expected[0][0], expected[1]))


@pytest.mark.parametrize("way", [pytest.param("pmap", marks=pytest.mark.slow), "shard_map"])
def test_within_a_map_over_devices(way):
    params, batches = problem(COUNT)
    batches, scale = ragged(batches), jnp.float32(0.5)
    (expected, _), direct = jax.jit(graded())(params, batches, scale)
    run = lambda *arguments: (lambda out: (out[0][0], out[1]))(graded(axis_name="data")(*arguments))
    if way == "pmap":
        split = jax.tree.map(lambda x: np.stack(np.split(x, 8, axis=1)), batches)
        mapped = jax.pmap(run, axis_name="data", in_axes=(None, 0, None))
        found = jax.tree.map(lambda x: x[3], mapped(params, split, scale))
    else:
        specs = {"in_specs": (P(), P(None, "data"), P()), "out_specs": P()}
        mapped = (
            jax.jit(jax.shard_map(run, mesh=data_mesh(), **specs)).lower(params, batches, scale).compile()
        )
        assert reductions(mapped) == [elements(params) + 3]
        found = mapped(params, batches, scale)
    close(found, (expected, direct))


def test_accumulate_reduces_where_a_step_is_taken_only():
    params, batches = problem(1)
    tx = gx.accumulate(clipped(), COUNT, weight="num_tokens", axis_name="data", averaged="value")

    def micro(params, state, batch):
        state = own(state, lambda x: x[0])
        value, grads = jax.value_and_grad(loss)(jax.lax.pcast(params, "data", to="varying"), batch)
        updates, state = tx.update(grads, state, params, value=value, num_tokens=tokens(batch))
        return gx.apply_updates(params, updates), own(state, lambda x: x[None])

    own = lambda state, f: state._replace(
        acc_grads=jax.tree.map(f, state.acc_grads), skip_state=jax.tree.map(f, state.skip_state)
    )
    state = own(tx.init(params), lambda x: jnp.stack([x] * 8))
    places = gx.MultiStepsState(P(), P(), P(), P("data"), P("data"))  # the two are each device's own
    specs = {"in_specs": (P(), places, P("data")), "out_specs": (P(), places)}
    step = jax.jit(jax.shard_map(micro, mesh=data_mesh(), **specs))
    batch = jax.tree.map(lambda x: x[0], batches)
    compiled = step.lower(params, state, batch).compile()
    assert reductions(compiled, taken=False) == []
    few, gradients = sorted(reductions(compiled))
    assert few <= 4  # weights and means
    assert gradients == elements(params) + 1
    for _ in range(COUNT):
        assert state.gradient_step == 0
        params, state = compiled(params, state, batch)
    assert state.gradient_step == 1
    assert state.skip_state.weight.tolist() == [COUNT * 16] * 8


def test_adds_up_in_float32_what_it_stores_in_16_bit():
    """249 and seven ones, from 8 devices."""
    line = lambda p, x: jnp.sum(p * x)
    run = gx.accumulate_gradients(line, axis_name="data", dtype=jnp.bfloat16)
    x = jnp.ones((1, 8), jnp.bfloat16).at[0, 0].set(249.0)
    specs = {"in_specs": (P(), P(None, "data")), "out_specs": P()}
    _, grad = jax.jit(jax.shard_map(run, mesh=data_mesh(), **specs))(jnp.bfloat16(1.0), x)
    assert grad.dtype == jnp.bfloat16
    assert grad == 32  # 256 / 8


def test_errors():
    params, batches = problem(2)
    with pytest.raises(
        ValueError, match="accumulate_gradients: there is no axis 'data' here; call it within"
    ):
        gx.accumulate_gradients(loss, axis_name="data")(params, batches)
    with pytest.raises(ValueError, match="or give the mesh that the batches are divided over: mesh=mesh"):
        gx.accumulate_gradients(loss, axis_name="rows", mesh=data_mesh())(params, batches)
    uneven = jax.tree.map(lambda x: x[:, :12], batches)
    with pytest.raises(ValueError, match="12"):
        gx.accumulate_gradients(loss, axis_name="data", mesh=data_mesh())(params, uneven)
    with pytest.raises(TypeError, match="accumulate_gradients: axis_name must be the name of an axis, or a"):
        gx.accumulate_gradients(loss, axis_name=0)
