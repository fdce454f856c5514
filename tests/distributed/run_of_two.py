"""What two processes do: `examples/launch.py tests/distributed/run_of_two.py FOLDER`; any error ends both."""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gradx as gx

STEPS = 5
TX = gx.chain(gx.clip_by_global_norm(1.0), gx.add_noise(0.01, 0.5, key=0), gx.adamw(0.05))
SHAPES = {"w": jax.ShapeDtypeStruct((8, 4), jnp.float32), "b": jax.ShapeDtypeStruct((3,), jnp.float32)}
X = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)


def mesh_of(devices):
    return Mesh(np.array(devices), ("data",))


def sharding_of_state(mesh):
    """ZeRO-1."""
    return gx.state_sharding(TX, SHAPES, NamedSharding(mesh, P()), zero_axis="data")


def trained(mesh, steps=STEPS):
    """Parameters and state on all devices of a mesh, whichever processes they belong to."""
    whole = NamedSharding(mesh, P())
    fresh = lambda: {"w": jnp.linspace(-1.0, 1.0, 32).reshape(8, 4), "b": jnp.ones(3)}
    params = jax.jit(fresh, out_shardings=whole)()
    state = jax.jit(TX.init, out_shardings=sharding_of_state(mesh))(params)
    rows = NamedSharding(mesh, P("data"))
    x = jax.make_array_from_callback(X.shape, rows, lambda index: X[index])

    def loss(params, x):
        return jnp.mean((jnp.tanh(x @ params["w"]).sum(1) - params["b"].sum() * x[:, 0]) ** 2)

    @jax.jit
    def step(params, state, x):
        updates, state = TX.update(jax.grad(loss)(params, x), state, params)
        return gx.apply_updates(params, updates), state

    step = jax.jit(step, out_shardings=(whole, sharding_of_state(mesh)))
    for _ in range(steps):
        params, state = step(params, state, x)
    return params, state


def with_shardings(mesh):
    whole = NamedSharding(mesh, P())
    return {k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole) for k, x in SHAPES.items()}


def shard_bits(x):
    """What this process has of an array."""
    x = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return [np.asarray(shard.data) for shard in x.addressable_shards]


def raises(text, call):
    with pytest.raises(ValueError, match=text):
        call()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--coordinator")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process-id", type=int)
    args = parser.parse_args()
    jax.distributed.initialize(args.coordinator, args.processes, args.process_id)
    mesh, me = mesh_of(jax.devices()), jax.process_index()
    assert (jax.device_count(), jax.local_device_count()) == (4, 2)
    assert gx.latest_checkpoint(args.folder) is None

    params, state = trained(mesh)
    mu = state[2][0].mu["w"]
    assert [shard.data.shape for shard in mu.addressable_shards] == [(2, 4)] * 2  # a quarter on each device

    # Numbers and arrays of each process's own are saved once, if all have the same.
    extra = {"key": jax.random.key(7), "local": jnp.arange(3), "epoch": 4, "order": np.arange(5)}
    extra["placed"] = jax.device_put(jnp.ones(2), jax.local_devices()[1])
    gx.save_checkpoint(args.folder, STEPS, params, state, extra=extra)
    raises("there is a checkpoint of step 5", lambda: gx.save_checkpoint(args.folder, 5, params, state))
    assert gx.latest_checkpoint(args.folder) == STEPS
    found = gx.restore_checkpoint(
        args.folder, TX, with_shardings(mesh), extra=extra, state_sharding=sharding_of_state(mesh)
    )
    given = (params, state, extra["key"], extra["local"], extra["placed"])
    got = (found.params, found.state, *(found.extra[k] for k in ("key", "local", "placed")))
    for x, y in zip(jax.tree.leaves(given), jax.tree.leaves(got), strict=True):
        assert x.sharding.is_equivalent_to(y.sharding, x.ndim)
        np.testing.assert_equal(shard_bits(x), shard_bits(y))
    assert found.extra["epoch"] == 4
    assert found.extra["order"].tolist() == list(range(5))

    other = {"epoch": me, "same": 1, "key": jax.random.key(me)}
    save = lambda folder, **kwargs: gx.save_checkpoint(folder, 9, params, state, **kwargs)
    raises(
        "the processes have different values of extra/epoch, extra/key, and only one is saved: make them",
        lambda: save(args.folder, extra=other),
    )
    apart = args.folder.parent / f"apart-{me}"
    raises(r"processes \[1\] do not see .*apart-. as the first one does: it must be one", lambda: save(apart))
    (apart / "5").mkdir()
    if me == 1:
        (apart / "5").rmdir()
    restore = lambda: gx.restore_checkpoint(apart, TX, with_shardings(mesh))
    raises(r"restore_checkpoint: processes \[1\] do not see", restore)
    print(f"done {me}", flush=True)


if __name__ == "__main__":
    main()
