"""accumulate_gradients: the value and gradient of all rows, from a scan over some."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gradx as gx


def predict(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"] + params["b"]


def loss(params, batch, scale=1.0):
    """The mean over the rows that the mask, if there is one, leaves."""
    errors = scale * jnp.sum((predict(params, batch["x"]) - batch["y"]) ** 2, axis=-1)
    mask = batch.get("mask", jnp.ones(len(errors)))
    return jnp.sum(mask * errors) / jnp.sum(mask)


def problem(rows, dtype=jnp.float32):
    random = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(random.normal(size=shape), dtype)
    params = {"w": normal(5, 7), "v": normal(7, 2), "b": normal(1, 2), "none": None}
    return params, {"x": normal(rows, 5), "y": normal(rows, 2)}


def close(a, b, rtol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6), a, b)


def tokens(batch):
    return jnp.sum(batch["mask"])


@pytest.mark.parametrize("count", [1, 4])
def test_is_value_and_grad_of_all_rows(count):
    params, batch = problem(12)
    found = jax.jit(gx.accumulate_gradients(loss))(params, gx.micro_batches(batch, count))
    expected = jax.value_and_grad(loss)(params, batch)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    close(found, expected)


def test_ragged_micro_batches_by_weight():
    """14 rows as three micro-batches of five and one without a row, whose loss and gradient are 0 / 0."""
    params, batch = problem(14)
    padded = jax.tree.map(lambda x: jnp.pad(x, [(0, 6), (0, 0)]), batch)
    padded["mask"] = jnp.float32(jnp.arange(20) < 14)
    micro = jax.tree.map(lambda x: x.reshape(4, 5, *x.shape[1:]), padded)
    assert jax.vmap(tokens)(micro).tolist() == [5, 5, 4, 0]
    found = jax.jit(gx.accumulate_gradients(loss, weight=tokens))(params, micro)
    close(found, jax.value_and_grad(loss)(params, batch))
    nothing = jax.jit(gx.accumulate_gradients(loss, weight=lambda batch: 0))(params, micro)
    assert not any(np.any(x) for x in jax.tree.leaves(nothing))


def test_other_arguments_aux_and_argnums():
    params, batch = problem(8)

    def with_aux(params, batch, scale, *, power=1.0):
        value = loss(params, batch, scale**power)
        return value, {"rows": len(batch["x"]), "loss": value}

    micro = gx.micro_batches(batch, 4)
    graded = gx.accumulate_gradients(with_aux, argnums=(0, 2), has_aux=True)
    (value, aux), (grads, by_scale) = graded(params, micro, jnp.float32(0.25), power=2.0)
    expected, direct = jax.value_and_grad(loss, (0, 2))(params, batch, jnp.float32(0.0625))
    close((value, grads), (expected, direct[0]))
    close(by_scale, direct[1] / 2)  # the derivative of its square
    assert aux["rows"].tolist() == [2] * 4
    close(jnp.mean(aux["loss"]), value)
    only = gx.accumulate_gradients(loss, argnums=2)(params, micro, jnp.float32(0.0625))[1]
    close(only, direct[1])


def test_accumulates_16_bit_gradients_in_float32():
    """256 gradients of 1 + 2⁻⁷ in bf16: added up in it, their mean would be 0.5."""
    p = jnp.zeros((), jnp.bfloat16)
    line = lambda p, x: p * x
    for dtype, mean in [(None, 1 + 2**-7), (jnp.bfloat16, 1.0)]:
        graded = gx.accumulate_gradients(line, dtype=dtype)
        _, g = graded(p, jnp.full(256, 1 + 2**-7, jnp.bfloat16))
        assert g.dtype == (dtype or jnp.float32)
        np.testing.assert_allclose(np.float32(g), mean, rtol=1e-6 if dtype is None else 2**-6)


def test_float64(x64):
    params, batch = problem(12, jnp.float64)
    found = jax.jit(gx.accumulate_gradients(loss))(params, gx.micro_batches(batch, 3))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-13, atol=1e-13),
        found,
        jax.value_and_grad(loss)(params, batch),
    )


def test_holds_the_gradients_and_one_accumulator():
    """What is beside arguments and results is less than the gradients of two of 16 layers."""
    layers, width = 16, 256
    shape = jax.ShapeDtypeStruct((width, width), jnp.float32)
    params = [shape] * layers
    size = layers * width * width

    def deep(params, batch):
        x = batch["x"]
        for w in params:
            x = jnp.tanh(x @ w)
        return jnp.mean((x - batch["y"]) ** 2)

    rows = jax.ShapeDtypeStruct((4, 2, width), jnp.float32)
    compiled = jax.jit(gx.accumulate_gradients(deep)).lower(params, {"x": rows, "y": rows}).compile()
    memory = compiled.memory_analysis()
    assert memory.output_size_in_bytes <= 4.1 * size
    assert memory.temp_size_in_bytes <= 4 * size / 8
    one = jax.jit(jax.value_and_grad(deep)).lower(params, {k: rows.update(shape=(2, width)) for k in "xy"})
    moved = [c.cost_analysis()["bytes accessed"] / size for c in (compiled, one.compile())]
    assert moved[0] - moved[1] <= 20.1  # 12 for each micro-batch, and once 8 for the zeros to start from


def test_micro_batches_leave_rows_on_their_devices():
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    batch = {"x": jax.device_put(jnp.arange(24.0).reshape(8, 3), rows)}
    split = jax.jit(lambda b: gx.micro_batches(b, 2)).lower(batch).compile()
    assert "all-" not in split.as_text()
    assert "permute(" not in split.as_text()
    out = split(batch)["x"]
    assert out.shape == (2, 4, 3)
    assert out.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec(None, "data")), 3)
    np.testing.assert_array_equal(out[1], batch["x"][1::2])


def test_inside_shard_map():
    """Rows divided among devices: what is given is the mean over all of them."""
    params, batch = problem(8)
    params.pop("none")
    mesh, rows = Mesh(np.array(jax.devices()[:2]), ("data",)), PartitionSpec("data")

    def local(params, batch):
        mean_of_all = lambda params, batch: jax.lax.pmean(loss(params, batch), "data")
        return gx.accumulate_gradients(mean_of_all)(params, gx.micro_batches(batch, 2))

    spread = jax.shard_map(local, mesh=mesh, in_specs=(PartitionSpec(), rows), out_specs=PartitionSpec())
    close(jax.jit(spread)(params, batch), jax.value_and_grad(loss)(params, batch))


def test_errors():
    params, batch = problem(10)
    with pytest.raises(
        ValueError, match=r"10 rows cannot be divided into 4 micro-batches; pad them to 12, with"
    ):
        gx.micro_batches(batch, 4)
    with pytest.raises(ValueError, match="micro_batches: count must be an integer of at least 1, got 0"):
        gx.micro_batches(batch, 0)
    with pytest.raises(ValueError, match=r"a first axis of one length, and have 10 at \['x'\], 9 at \['y'\]"):
        gx.micro_batches(batch | {"y": batch["y"][1:]}, 2)
    with pytest.raises(
        ValueError, match=r"accumulate_gradients: all arrays must have .* a scalar at \['n'\]"
    ):
        gx.accumulate_gradients(loss)(params, batch | {"n": jnp.ones(())})
    with pytest.raises(ValueError, match="a first axis of one length, and have none"):
        gx.accumulate_gradients(loss)(params, {})
    for argnums in (1, (0, 1), -1):
        with pytest.raises(ValueError, match="argnums must be at least 0 and not 1, the batch, got"):
            gx.accumulate_gradients(loss, argnums)
    with pytest.raises(ValueError, match=r"weight must be one number, got an array of shape"):
        gx.accumulate_gradients(loss, weight=lambda b: b["x"][:, 0])(params, gx.micro_batches(batch, 5))
