"""Norms where each device has a slice of the parameters: those of the whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import gradx as gx
from tests.distributed.test_local_gradients import close, data_mesh
from tests.problems import aval

# Slices of w and of c have the shapes of what all devices share.
SPECS = {"w": P("model"), "b": P(), "c": P("model"), "d": P(), "big": P(None, "model"), "none": None}


def model():
    random = np.random.default_rng(0)
    shapes = {"w": (16, 3), "b": (2, 3), "c": (8,), "d": (1,), "big": (100, 400)}
    return {k: random.normal(size=shape).astype(np.float32) for k, shape in shapes.items()} | {"none": None}


def three_steps(tx, params, grads):
    state = tx.init(params)
    for i in range(3):
        updates, state = tx.update(jax.tree.map(lambda g: g / (i + 1), grads), state, params)
        params = gx.apply_updates(params, updates)
    return params


def links(axis):
    return {
        "clip": gx.clip_by_global_norm(0.5, eps=1e-6, axis_name=axis),
        "normalize": gx.normalize_by_update_norm(0.5, axis_name=axis),
        "trust": gx.scale_by_trust_ratio(min_norm=0.1, eps=1e-6, axis_name=axis),
        "decayed": gx.scale_by_trust_ratio(summed_decay=0.1, axis_name=axis),
    }


@pytest.mark.parametrize("link", links(None))
def test_is_that_of_the_whole(link):
    """What does not vary over the axis counts once, and comes out as one array."""
    params = model()
    grads = jax.tree.map(lambda p: np.roll(p, 1) * 2, params)
    tx = links("model")[link]
    mesh = Mesh(jax.devices(), ("model",))
    run = jax.shard_map(
        functools.partial(three_steps, tx), mesh=mesh, in_specs=(SPECS, SPECS), out_specs=SPECS
    )
    close(
        jax.jit(run)(params, grads), jax.jit(functools.partial(three_steps, links(None)[link]))(params, grads)
    )


def test_global_norm_over_two_axes():
    """Of what is divided by both, by one, and by none."""
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    tree = {"both": jnp.arange(8.0), "a": jnp.arange(4.0), "b": jnp.arange(2.0), "none": jnp.ones(3)}
    specs = {"both": P(("a", "b")), "a": P("a"), "b": P("b"), "none": P()}
    norm = functools.partial(gx.global_norm, axis_name=("a", "b"))
    found = jax.jit(jax.shard_map(norm, mesh=mesh, in_specs=(specs,), out_specs=P()))(tree)
    np.testing.assert_allclose(found, np.sqrt(140 + 14 + 1 + 3), rtol=1e-6)
    by_b = jax.shard_map(
        lambda x: gx.global_norm(x, axis_name="b"), mesh=mesh, in_specs=(P("b"),), out_specs=P()
    )
    np.testing.assert_allclose(jax.jit(by_b)(jnp.arange(4.0)), np.sqrt(14), rtol=1e-6)


def test_without_types_all_are_slices():
    """Under pmap, and where shard_map does not check."""
    x = jnp.arange(8.0)
    norm = functools.partial(gx.global_norm, axis_name="data")
    np.testing.assert_allclose(jax.pmap(norm, axis_name="data")(x), np.full(8, 140**0.5), rtol=1e-6)
    specs = {"in_specs": (P("data"),), "out_specs": P(), "check_vma": False}
    np.testing.assert_allclose(
        jax.jit(jax.shard_map(norm, mesh=data_mesh(), **specs))(x), 140**0.5, rtol=1e-6
    )


def test_a_norm_that_overflows_over_all_devices_keeps_the_direction():
    clip = gx.clip_by_global_norm(1.0, axis_name="data")
    run = lambda g: clip.update(g, clip.init(g))[0]
    run = jax.jit(jax.shard_map(run, mesh=data_mesh(), in_specs=(P("data"),), out_specs=P("data")))
    u = run(jnp.full(16, 1e19).at[0].set(-1e19))
    np.testing.assert_allclose(u / u[1], jnp.ones(16).at[0].set(-1), rtol=1e-6)
    assert 0 < u[1] < 0.25


LINKS = [*links("data").values(), gx.average_gradients("data"), gx.average_gradients("data", weight="n")]
LINKS.append(gx.accumulate(gx.adamw(0.1), 2, weight="n", drop_nonfinite=True, axis_name="data"))
LINKS.append(gx.skip_if(gx.adamw(0.1), gx.nonfinite(), axis_name="data"))


@pytest.mark.parametrize("tx", LINKS, ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_keeps_the_contract(tx, dtype):
    """Over an axis of `vmap`, as over one of devices: the state's type stays, missing leaves pass."""
    params = {"w": jnp.ones((2, 3), dtype), "none": None}
    with jax.numpy_dtype_promotion("standard"):
        state = jax.eval_shape(tx.init, params)
        rows = jax.tree.map(lambda p: jnp.stack([p] * 4), params)
        update = lambda g: tx.update(g, tx.init(params), params, n=jnp.ones((), jnp.int32))
        updates, after = jax.eval_shape(jax.vmap(update, axis_name="data"), rows)
    row = lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    assert aval(jax.tree.map(row, after)) == aval(state)
    assert aval(jax.tree.map(row, updates)) == aval({"w": jax.ShapeDtypeStruct((2, 3), dtype), "none": None})
    assert eval(repr(tx), vars(gx)) == tx


def test_bf16_gradients_are_averaged_in_float32():
    """One gradient of 256 and seven of 1, which would be lost if added to it in bf16."""
    g = jnp.ones((8, 1), jnp.bfloat16).at[0].set(256.0)
    tx = gx.average_gradients("data")
    u, *_ = jax.vmap(lambda g: tx.observe(g, tx.init(g)), axis_name="data")(g)
    assert u.dtype == jnp.float32
    np.testing.assert_array_equal(u, jnp.full((8, 1), 263 / 8))


def test_a_device_without_weight_adds_nothing():
    tx = gx.average_gradients("data", weight="n")
    run = jax.vmap(lambda g, n: tx.update(g, tx.init(g), n=n)[0], axis_name="data")
    g = jnp.array([1.0, jnp.nan, 4.0])
    np.testing.assert_allclose(run(g, jnp.array([1, 0, 2])), jnp.full(3, 3.0))
    np.testing.assert_array_equal(run(g, jnp.zeros(3)), jnp.zeros(3))


def in_shard_map(tx, in_spec=P("data"), **extra):
    run = lambda g: tx.update({"w": g}, tx.init({"w": g}), {"w": g}, **extra)[0]["w"]
    mapped = jax.shard_map(run, mesh=data_mesh(), in_specs=(in_spec,), out_specs=P("data"))
    return jax.jit(mapped)(jnp.ones(8))


@pytest.mark.parametrize("tx", LINKS, ids=repr)
def test_an_axis_that_is_not_there(tx):
    x = jnp.ones(2)
    error = (
        r"there is no axis 'data' here; axis_name is for code within jax.shard_map or jax.pmap over it. Und"
    )
    with pytest.raises(ValueError, match=f"^{repr(tx).partition('(')[0]}: {error}"):
        jax.jit(lambda x: tx.update(x, tx.init(x), x, n=1))(x)


@pytest.mark.parametrize(
    "tx", [gx.average_gradients("data"), gx.accumulate(gx.sgd(0.1), 2, axis_name="data")], ids=repr
)
def test_gradients_that_jax_has_added_up_are_refused(tx):
    name = repr(tx).partition("(")[0]
    error = (
        rf"{name}, at \['w'\]: the gradient does not vary over 'data'. jax.grad by parameters that all "
        r"devices share is the sum over them already; take it by jax.lax.pcast\(params, 'data', to='varying'"
    )
    with pytest.raises(ValueError, match=error):
        in_shard_map(tx, P())
    in_shard_map(tx)


def test_arguments():
    for given in (None, 3, (), ("a", 1)):
        with pytest.raises(TypeError, match="average_gradients: axis_name must be the name of an axis"):
            gx.average_gradients(given)
    for make in (gx.clip_by_global_norm, gx.normalize_by_update_norm, gx.scale_by_trust_ratio):
        with pytest.raises(TypeError, match=rf"{make.__name__}: axis_name must be the name of an axis, or a"):
            make(1.0, axis_name=0)
    with pytest.raises(TypeError, match="average_gradients: weight names an argument of update, got 3"):
        gx.average_gradients("data", weight=3)
    weighted = gx.average_gradients("data", weight="n")
    with pytest.raises(
        TypeError, match=r"average_gradients needs 'n': call update\(updates, state, params, n"
    ):
        in_shard_map(weighted)
    with pytest.raises(
        ValueError, match=r"average_gradients: n must be one number, got an array of shape \(1,"
    ):
        in_shard_map(weighted, n=jnp.ones(1))
