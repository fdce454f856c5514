"""Data parallel by pmap, by shard_map and by jit with NamedSharding: the numbers of one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gradx as gx

DEVICES = 8


def data_mesh():
    return Mesh(jax.devices(), ("data",))


def loss(params, batch):
    """The mean over the rows that the mask leaves; NaN if it leaves none."""
    errors = (jnp.tanh(batch["x"] @ params["w"]) @ params["v"] + params["b"] - batch["y"]) ** 2
    return jnp.sum(batch["mask"] * jnp.sum(errors, axis=-1)) / tokens(batch)


def tokens(batch):
    return jnp.sum(batch["mask"])


def problem(steps, rows=16):
    random = np.random.default_rng(0)
    normal = lambda *shape: random.normal(size=shape).astype(np.float32)
    params = {"w": normal(5, 7), "v": normal(7, 2), "b": normal(1, 2), "none": None}
    batches = {
        "x": normal(steps, rows, 5),
        "y": normal(steps, rows, 2),
        "mask": np.ones((steps, rows), np.float32),
    }
    return params, batches


def ragged(batches):
    """Between none and all of a device's rows are real."""
    mask = np.random.default_rng(1).random(batches["mask"].shape) < 0.6
    mask[:, 6:8] = False  # those of device 3
    return batches | {"mask": np.float32(mask)}


def trained(tx, params, batches, local=lambda params: params):
    """Parameters and state after a step for each batch; of `accumulate`, the state of what is inside."""

    def step(carry, batch):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(local(params), batch)
        updates, state = tx.update(grads, state, params, value=value, num_tokens=tokens(batch))
        return (gx.apply_updates(params, updates), state), None

    (params, state), _ = jax.lax.scan(step, (params, tx.init(params)), batches)
    return params, getattr(state, "inner_opt_state", state)


def by_pmap(tx, params, batches):
    split = lambda x: np.stack(np.split(x, DEVICES, axis=1))
    run = jax.pmap(functools.partial(trained, tx), axis_name="data", in_axes=(None, 0))
    out = run(params, jax.tree.map(split, batches))
    for x in jax.tree.leaves(out):
        assert all(np.array_equal(x[0], y) for y in x)
    return jax.tree.map(lambda x: x[0], out)


def by_shard_map(tx, params, batches, check_vma=True):
    own = functools.partial(jax.lax.pcast, axis_name="data", to="varying") if check_vma else lambda x: x
    run = functools.partial(trained, tx, local=own)
    specs = {"in_specs": (P(), P(None, "data")), "out_specs": P()}
    return jax.jit(jax.shard_map(run, mesh=data_mesh(), check_vma=check_vma, **specs))(params, batches)


def by_jit(tx, params, batches):
    mesh = data_mesh()
    batches = jax.device_put(batches, NamedSharding(mesh, P(None, "data")))
    return jax.jit(functools.partial(trained, tx))(jax.device_put(params, NamedSharding(mesh, P())), batches)


WAYS = {
    "pmap": by_pmap,
    "shard_map": by_shard_map,
    "unchecked": functools.partial(by_shard_map, check_vma=False),
    "jit": by_jit,
}


def each_way(*first):
    """These, and the others for `make test-all`."""
    marks = {way: () if way in first else pytest.mark.slow for way in WAYS}
    return pytest.mark.parametrize("way", [pytest.param(way, marks=marks[way]) for way in WAYS])


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6), a, b)


def clipped(axis=None, weight=None):
    mean = gx.identity() if axis is None else gx.average_gradients(axis, weight=weight)
    return gx.chain(mean, gx.clip_by_global_norm(0.5), gx.adamw(0.01))


def same(way, make, batches, params):
    """What one device finds, by this way too."""
    expected = jax.jit(functools.partial(trained, make(None)))(params, batches)
    close(WAYS[way](make(None if way == "jit" else "data"), params, batches), expected)
    return expected


@each_way("pmap", "shard_map", "jit")
def test_skips_what_is_bad_for_one_device(way):
    """A NaN in one of 16 rows, spikes in other steps: as one device does, with the same statistics."""
    params, batches = problem(7)
    batches["x"][4, 5, 0] = np.nan
    batches["y"][5, 9] = 1e3

    def make(axis):
        bad = gx.nonfinite(), gx.spike("loss", warmup=2), gx.spike("gradient_norm", warmup=2)
        mean = gx.identity() if axis is None else gx.average_gradients(axis)
        return gx.chain(mean, gx.skip_if(clipped(), *bad, axis_name=axis))

    _, (*_, state) = same(way, make, batches, params)
    counts = {k: int(v) for k, v in state.by_condition.items()}
    assert counts == {"nonfinite": 1, "spike_loss": 2, "spike_gradient_norm": 2}  # NaN is a spike too
    assert state.inner_state[-1][0].count == 5


def test_decides_by_local_gradients_and_losses():
    """Around what averages: each device sees its own, and all decide as one."""
    params, batches = problem(6)
    batches["x"][4, 5, 0] = np.nan
    bad = gx.nonfinite(), gx.spike("loss", warmup=2)
    same("shard_map", lambda axis: gx.skip_if(clipped(axis), *bad, axis_name=axis), batches, params)


@each_way("shard_map")
def test_weighted_means_of_ragged_rows(way):
    """One device has none at all, and a gradient of 0 / 0."""
    params, batches = problem(5)
    same(way, lambda axis: clipped(axis, "num_tokens"), ragged(batches), params)


def test_where_all_weights_are_zero_so_is_the_mean():
    tx = gx.average_gradients("data", weight="w")
    mean = jax.shard_map(
        lambda g, w: tx.update(g, tx.init(g), w=w[0])[0],
        mesh=data_mesh(),
        in_specs=(P("data"), P("data")),
        out_specs=P(),
    )
    g = jnp.arange(8.0).at[2].set(jnp.nan)
    assert jax.jit(mean)(g, jnp.zeros(8)) == 0.0
    assert jax.jit(mean)(g, jnp.zeros(8).at[3].set(2.0).at[5].set(6.0)) == (2 * 3 + 6 * 5) / 8


@each_way("pmap", "shard_map")
def test_accumulates_ragged_rows(way):
    """20 micro-batches, five steps, by all tokens; what is inside is given their number and the mean loss."""
    params, batches = problem(20)

    def make(axis):
        inner = gx.skip_if(clipped(), gx.spike("loss", warmup=2))
        return gx.accumulate(inner, 4, weight="num_tokens", averaged="value", axis_name=axis)

    _, state = same(way, make, ragged(batches), params)
    assert state.statistics["spike_loss"].steps == 5


@pytest.mark.slow
def test_accumulates_equal_weights():
    params, batches = problem(10)
    same("shard_map", lambda axis: gx.accumulate(clipped(), 2, axis_name=axis), batches, params)


@pytest.mark.parametrize("way", [pytest.param("pmap", marks=pytest.mark.slow), "shard_map"])
def test_drops_the_micro_batch_of_one_device(way):
    """One device's part of a micro-batch has a NaN, and a whole step of micro-batches has."""
    params, batches = problem(8)
    nan = np.zeros((8, 16), bool)
    nan[1, 4:6] = nan[4:6] = True
    # A copy, since JAX may still read a NumPy array of the CPU after the call returns.
    left = batches | {"mask": np.float32(~nan), "x": batches["x"].copy()}
    options = {"weight": "num_tokens", "drop_nonfinite": True}
    reference = gx.accumulate(clipped(), 2, **options)
    expected = jax.jit(functools.partial(trained, reference))(params, left)
    batches["x"][nan] = np.nan
    tx = gx.accumulate(clipped(), 2, **options, axis_name="data")
    close(WAYS[way](tx, params, batches), expected)
    assert expected[1][-1][0].count == 3


@pytest.mark.parametrize("around", [lambda tx: gx.skip_if(tx, gx.nonfinite()), gx.dynamic_loss_scale])
def test_devices_cannot_decide_each_for_itself(around):
    params, batches = problem(1)
    error = (
        r"^along 'data' each device would decide for itself whether to skip a step, but all share one state: "
    )
    with pytest.raises(ValueError, match=error):
        by_shard_map(around(clipped("data")), params, batches)
