"""The sharding of states: where each array is, that it stays there, and what a device holds of it."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gradx as gx
from tests.cases import FIRST

SPECS = {"kernel": PartitionSpec(None, "model"), "bias": PartitionSpec("model"), "odd": PartitionSpec()}
SHAPES = {"kernel": (128, 256), "bias": (256,), "odd": (7, 9)}
PARAMS = {k: jax.ShapeDtypeStruct(shape, jnp.float32) for k, shape in SHAPES.items()}


@functools.cache
def mesh(*sizes, kind=AxisType.Auto):
    names = ("data", "model")[: len(sizes)]
    return jax.make_mesh(sizes, names, axis_types=(kind,) * len(sizes))


def on(mesh, specs):
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def listed(tree):
    """The partition of each array, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(x.spec) for path, x in leaves}


def specs_of(tx, **options):
    found = gx.state_sharding(tx, PARAMS, on(mesh(4, 2), SPECS), **options)
    state = jax.eval_shape(tx.init, PARAMS)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for x, place in zip(jax.tree.leaves(state), jax.tree.leaves(found), strict=True):
        place.shard_shape(x.shape)  # raises if it does not divide
    return listed(found)


WHOLE = {"kernel": (None, "model"), "bias": ("model",), "odd": ()}
SPLIT = {"kernel": ("data", "model"), "bias": (("model", "data"),), "odd": ()}
at = lambda prefix, specs: {f"{prefix}/{k}": spec for k, spec in specs.items()}


@pytest.mark.parametrize(("zero_axis", "specs"), [(None, WHOLE), ("data", SPLIT)])
@pytest.mark.parametrize("library", [gx, optax])
def test_slots_like_the_parameters(library, zero_axis, specs):
    found = specs_of(library.adamw(1e-3), zero_axis=zero_axis)
    assert found == {"0/count": ()} | at("0/mu", specs) | at("0/nu", specs)


@pytest.mark.parametrize("library", [gx, optax])
def test_factored_moments_keep_the_axes_that_stay(library):
    found = specs_of(library.adafactor(1e-3), zero_axis="data")
    assert (found["0/v_row/kernel"], found["0/v_col/kernel"]) == (("data",), ("model",))
    assert found["0/v/bias"] == (("model", "data"),)
    assert found["0/v/kernel"] == found["0/v_row/bias"] == found["0/v_col/odd"] == ()


def test_the_axes_of_a_square_are_told_apart():
    """Where the shapes do not say which axis a mean is over."""
    params = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    place = NamedSharding(mesh(4, 2), PartitionSpec("data", "model"))
    for tx in (gx.adafactor(1e-3, 8), optax.adafactor(1e-3, 8)):
        found = gx.state_sharding(tx, params, place)
        assert (found[0].v_row.spec, found[0].v_col.spec) == (PartitionSpec("data"), PartitionSpec("model"))
    mu = gx.state_sharding(gx.sm3(0.1), params, place)[0].mu
    assert [x.spec for x in mu] == [PartitionSpec("data"), PartitionSpec("model")]


def test_a_memory_of_steps_has_an_axis_before():
    found = specs_of(gx.lbfgs(0.1, memory_size=3, linesearch=None), zero_axis="data")
    assert found["0/diff_params_memory/kernel"] == (None, "data", "model")
    assert found["0/diff_updates_memory/bias"] == (None, ("model", "data"))
    assert found["0/weights_memory"] == ()


@pytest.mark.parametrize(("bits", "scales"), [(8, ("data",)), (4, ("data", "model"))])
def test_codes_and_their_scales(bits, scales):
    tx = gx.store(gx.adamw(1e-3), gx.Blockwise(bits=bits), seed=0)
    found = specs_of(tx, zero_axis="data")
    assert found["inner_state/0/nu/kernel/arrays/codes"] == ("data", "model")
    assert found["inner_state/0/nu/kernel/arrays/scales"] == scales  # 8 bits: one block of 256 in a row
    assert found["inner_state/0/mu/bias"] == (("model", "data"),)


def test_a_block_on_two_devices_does_not_keep_others_whole():
    params = {"cut": (64, 256), "fits": (64, 512)}
    params = {k: jax.ShapeDtypeStruct(shape, jnp.float32) for k, shape in params.items()}
    place = NamedSharding(mesh(4, 2), PartitionSpec("data", "model"))
    mu = gx.state_sharding(gx.store(gx.lion(1e-3), gx.Blockwise(), seed=0), params, place).inner_state[0].mu
    parts = {k: (x.arrays["codes"].spec, x.arrays["scales"].spec) for k, x in mu.items()}
    both = PartitionSpec("data", "model")
    assert parts == {"cut": (both, PartitionSpec("data")), "fits": (both, both)}


def test_what_is_packed_is_whole():
    found = specs_of(gx.packed(gx.adamw(1e-3), max_size=256), zero_axis="data")
    assert found["buffers/0"] == ()
    assert found["inner_state/0/mu/kernel"] == ("data", "model")


def test_around_and_within_other_transformations():
    tx = gx.chain(
        gx.skip_if(gx.accumulate(gx.masked(gx.adam(1e-3), gx.matrices_only), 2), gx.nonfinite()),
        gx.add_noise(0.1, 0.5, key=0),
        gx.ema_params(0.9),
    )
    found = specs_of(tx, zero_axis="data")
    ours = {path: spec for path, spec in found.items() if path.split("/")[-1] in SHAPES}
    assert len(ours) == 2 + 2 + 3 + 3  # mu and nu of the matrices, sums of the gradients, the average
    assert all(spec == SPLIT[path.split("/")[-1]] for path, spec in ours.items())
    assert not any(spec for path, spec in found.items() if path not in ours)
    found = specs_of(gx.groups(gx.inject_hyperparams(gx.adamw)(1e-3), {"bias": gx.frozen()}))
    assert {spec for path, spec in found.items() if path.endswith("kernel")} == {(None, "model")}


def test_a_state_that_no_type_can_follow():
    """By its shapes: all axes, some that can be only these, or more before them; else whole."""

    def init(params):
        first = lambda p: jnp.sum(p.reshape(-1).reshape(p.shape))  # which no mesh of explicit axes lets pass
        some = lambda p: {
            "like": 0 * p + first(p),
            "row": jnp.zeros(p.shape[-1]),
            "more": jnp.zeros((3, *p.shape)),
        }
        return jax.tree.map(some, params), jnp.zeros((2, 5))

    found = specs_of(optax.GradientTransformation(init, lambda u, s, p=None: (u, s)))
    assert {path: spec for path, spec in found.items() if "kernel" in path} == {
        "0/kernel/like": (None, "model"),
        "0/kernel/row": ("model",),
        "0/kernel/more": (None, None, "model"),
    }
    assert found["0/odd/row"] == found["1"] == ()


def test_parameters_may_be_missing_or_one_array():
    params, place = {"w": jnp.ones((8, 2)), "frozen": None}, NamedSharding(mesh(8), PartitionSpec("data"))
    found = gx.state_sharding(gx.adam(1e-3), params, {"w": place, "frozen": None})
    assert listed(found) == {"0/count": (), "0/mu/w": ("data",), "0/nu/w": ("data",)}
    assert gx.state_sharding(gx.adam(1e-3), params["w"], place)[0].nu == place
    assert gx.state_sharding(gx.adam(1e-3), {"layer": params}, {"layer": place})[0].nu == {
        "layer": {"w": place, "frozen": None}
    }


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 24), max_size=3), st.data())
def test_what_is_split_divides(shape, data):
    """An axis is added wherever one divides, once, and the parts are as many times smaller."""
    parts = [data.draw(st.sampled_from([None, "model"] if n % 2 == 0 else [None])) for n in shape]
    parts = [part if part not in parts[:i] else None for i, part in enumerate(parts)]
    place = NamedSharding(mesh(4, 2), PartitionSpec(*parts))
    params = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
    pieces = [4 * (2 if part else 1) for part in parts]
    if not any(n and n % k == 0 for n, k in zip(shape, pieces, strict=True)):
        with pytest.raises(ValueError, match="would split nothing"):
            gx.state_sharding(gx.adam(1e-3), params, place, zero_axis="data")
        return
    found = gx.state_sharding(gx.adam(1e-3), params, place, zero_axis="data")[0].mu
    assert math.prod(found.shard_shape(params.shape)) * 4 == math.prod(place.shard_shape(params.shape))


def test_errors():
    whole, adam = NamedSharding(mesh(4, 2), PartitionSpec()), gx.adam(1e-3)
    rows = lambda place: dict.fromkeys(SHAPES, whole) | {"odd": place}
    with pytest.raises(TypeError, match=r"params_sharding of odd is P.*\): give a jax.sharding.Named"):
        gx.state_sharding(adam, PARAMS, rows(PartitionSpec()))
    with pytest.raises(ValueError, match=r"params_sharding of odd does not fit the shape \(7, 9\): "):
        gx.state_sharding(adam, PARAMS, rows(NamedSharding(mesh(4, 2), PartitionSpec("data"))))
    with pytest.raises(ValueError, match=r"params_sharding of odd does not fit the shape \(7, 9\): "):
        gx.state_sharding(adam, PARAMS, rows(NamedSharding(mesh(4, 2), PartitionSpec(None, None, "data"))))
    with pytest.raises(
        ValueError, match=r"params_sharding of odd is on .*, and others are on .*: take one mesh"
    ):
        gx.state_sharding(adam, PARAMS, rows(NamedSharding(mesh(8), PartitionSpec())))
    with pytest.raises(
        ValueError, match=r"(?s)params_sharding is not a tree like the parameters: .*2 child keys"
    ):
        gx.state_sharding(adam, PARAMS, {"kernel": whole, "bias": whole})
    with pytest.raises(ValueError, match="state_sharding: there are no parameters"):
        gx.state_sharding(adam, {}, whole)
    with pytest.raises(
        ValueError, match=r"zero_axis='batch' is not an axis of the mesh, which has \['data', 'model'\]"
    ):
        gx.state_sharding(adam, PARAMS, whole, zero_axis="batch")
    with pytest.raises(ValueError, match=r"memory_kind='tape': .*pinned_host"):
        gx.state_sharding(adam, PARAMS, whole, memory_kind="tape")
    nothing = (
        "zero_axis='data' would split nothing: .*divides into 4 parts; take another axis, or leave it out"
    )
    full = {"kernel": PartitionSpec("data"), "bias": PartitionSpec("data"), "odd": PartitionSpec()}
    for tx, params, place in [
        (gx.sgd(0.1), PARAMS, whole),
        (adam, {"odd": PARAMS["odd"]}, whole),
        (adam, PARAMS, on(mesh(4, 2), full)),
    ]:
        with pytest.raises(ValueError, match=nothing):
            gx.state_sharding(tx, params, place, zero_axis="data")


# A model of three parameters on eight devices. Layouts: where the parameters are, and the axis of ZeRO-1.
MODEL = {"w": (16, 8), "b": (8,), "s": ()}
LAYOUTS = {
    "replicated": (dict.fromkeys(MODEL, PartitionSpec()), None),
    "zero": (dict.fromkeys(MODEL, PartitionSpec()), "data"),
    "full": ({"w": PartitionSpec("data"), "b": PartitionSpec("data"), "s": PartitionSpec()}, None),
}


def model():
    keys = jax.random.split(jax.random.key(0), len(MODEL))
    return {k: jax.random.normal(key, shape) for key, (k, shape) in zip(keys, MODEL.items(), strict=True)}


@jax.jit
def gradient(params, t):
    return jax.tree.map(lambda p: jnp.cos(3 * p + t), params)


def five_steps(tx, params, state):
    step = gx.step(tx)
    for t in range(5):
        params, state = step(gradient(params, jnp.float32(t)), state, params)
    return params, state


def places(tree):
    return jax.tree.map(lambda x: x.sharding, tree)


FAST = {(gx.adamw, "zero"), (gx.adafactor, "zero"), (gx.lamb, "full")}
MATRIX = [
    pytest.param(case.make(), layout, marks=[] if (case.optimizer, layout) in FAST else pytest.mark.slow)
    for case in FIRST
    for layout in LAYOUTS
]


@pytest.mark.parametrize(("tx", "layout"), MATRIX, ids=str)
def test_eight_devices_are_one(tx, layout):
    """To 1e-6 after five steps; and every array stays where it was."""
    specs, zero_axis = LAYOUTS[layout]
    params_sharding = on(mesh(8), specs)
    find = lambda: gx.state_sharding(tx, model(), params_sharding, zero_axis=zero_axis)
    if zero_axis and all(x.size == 1 for x in jax.tree.leaves(jax.eval_shape(tx.init, model()))):
        with pytest.raises(ValueError, match="would split nothing"):  # as with sgd, which has no state
            find()
        return
    state_sharding = find()
    params = jax.device_put(model(), params_sharding)
    state = jax.jit(tx.init, out_shardings=state_sharding)(params)
    new = five_steps(tx, params, state)
    assert places(new) == (params_sharding, state_sharding)
    one, _ = five_steps(tx, model(), tx.init(model()))
    for a, b in zip(jax.tree.leaves(new[0]), jax.tree.leaves(one), strict=True):
        assert jnp.abs(a - b).max() <= 1e-6


STATES = [
    gx.chain(gx.adafactor(0.1, 8), gx.ema_params(0.9)),
    gx.store(gx.adamw(0.1), gx.Blockwise(block=16), seed=0, min_size=2),
    pytest.param(gx.accumulate(gx.lookahead(gx.sm3(0.1), 5, 0.5), 2), marks=pytest.mark.slow),
    *(pytest.param(case.make(), marks=pytest.mark.slow) for case in FIRST),
]


@pytest.mark.parametrize("tx", STATES, ids=str)
def test_a_jitted_init_keeps_the_shardings_of_the_parameters(tx):
    """Without `out_shardings` too, and as outside of jit."""
    params = {"w": jnp.ones((8, 32)), "b": jnp.ones(8)}
    for specs in (
        {"w": PartitionSpec("data"), "b": PartitionSpec("data")},
        {"w": PartitionSpec(None, "data"), "b": PartitionSpec()},
    ):
        params = jax.device_put(params, on(mesh(8), specs))
        wanted = jax.tree.leaves(gx.state_sharding(tx, params, places(params)))
        for state in (jax.jit(tx.init)(params), tx.init(params)):
            for x, place in zip(jax.tree.leaves(state), wanted, strict=True):
                assert not place.spec or x.sharding.is_equivalent_to(place, x.ndim)


def test_slots_start_at_zero_whatever_the_parameters():
    """Though under jit they are selected from them, for their sharding."""
    params = jnp.array([jnp.nan, jnp.inf, -0.0])
    for init in (gx.adam(0.1).init, jax.jit(gx.adam(0.1).init)):
        assert init(params)[0].nu.tolist() == [0, 0, 0]


def test_a_jitted_init_makes_each_part_only():
    n, tx = 1024, gx.chain(gx.adamw(0.1), gx.ema_params(0.9))
    params, whole = {"w": jax.ShapeDtypeStruct((n, n), jnp.float32)}, NamedSharding(mesh(8), PartitionSpec())
    place = gx.state_sharding(tx, params, whole, zero_axis="data")
    given = jax.tree.map(lambda p: p.update(sharding=whole), params)
    memory = jax.jit(tx.init, out_shardings=place).lower(given).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 1000
    assert memory.output_size_in_bytes < 3 * 4 * n * n / 8 + 1000


def counted(compiled):
    """How often a program moves data among devices, and what."""
    moves = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    return re.findall(rf"= (.*) ({moves})(?:-start)?\(", compiled.as_text())


def compiled_training(tx, params_specs, zero_axis):
    """A training step of four layers on eight devices; the number of its parameters."""
    n = 256
    params = {str(i): jax.ShapeDtypeStruct((n, n), jnp.float32) for i in range(4)}
    places = on(mesh(8), dict.fromkeys(params, params_specs))
    state_places = gx.state_sharding(tx, params, places, zero_axis=zero_axis)
    rows = NamedSharding(mesh(8), PartitionSpec("data"))

    def loss(params, x):
        for p in params.values():
            x = jnp.tanh(x @ p)
        return jnp.mean(x * x)

    def train_step(params, state, x):
        updates, state = tx.update(jax.grad(loss)(params, x), state, params)
        return gx.apply_updates(params, updates), state

    typed = lambda tree, places: jax.tree.map(lambda x, s: x.update(sharding=s), tree, places)
    shapes = typed(params, places), typed(jax.eval_shape(tx.init, params), state_places)
    run = jax.jit(train_step, donate_argnums=(0, 1), out_shardings=(places, state_places))
    batch = jax.ShapeDtypeStruct((64, n), jnp.float32, sharding=rows)
    return run.lower(*shapes, batch).compile(), 4 * n * n


@pytest.mark.parametrize(("zero_axis", "most"), [(None, 12.1), ("data", 5.1)])
def test_what_a_device_holds_of_adamw(zero_axis, most):
    """Bytes a parameter: 4 of it and 8 of state; or an eighth of these."""
    compiled, size = compiled_training(gx.adamw(1e-3), PartitionSpec(), zero_axis)
    memory = compiled.memory_analysis()
    assert most - 0.1 <= memory.argument_size_in_bytes / size <= most
    assert memory.alias_size_in_bytes > (most - 0.2) * size  # donated, all of it


def test_an_elementwise_step_of_full_shards_moves_nothing():
    """But the sums of squares, all at once, where there is a global norm."""
    params = {k: jax.ShapeDtypeStruct((256, 64), jnp.float32) for k in "abc"}
    rows = NamedSharding(mesh(8), PartitionSpec("data"))
    for tx, moves in [
        (gx.adamw(1e-3), []),
        (gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3)), [("(f32[], f32[], f32[])", "all-reduce")]),
    ]:
        state = jax.eval_shape(tx.init, params)
        places = gx.state_sharding(tx, params, rows)
        put = lambda tree, place: jax.tree.map(lambda x, s: x.update(sharding=s), tree, place)
        given = put(params, dict.fromkeys(params, rows))
        found = counted(jax.jit(tx.update).lower(given, put(state, places), given).compile())
        assert found == moves


@pytest.mark.parametrize("zero_axis", [None, "data"])
def test_a_state_in_the_memory_of_the_host(zero_axis):
    """It is there again after each step, and the numbers are the same."""
    tx, whole = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(0.1)), NamedSharding(mesh(8), PartitionSpec())
    place = gx.state_sharding(tx, model(), whole, zero_axis=zero_axis, memory_kind="pinned_host")
    kinds = {x.memory_kind for path, x in jax.tree_util.tree_leaves_with_path(place) if "nu" in str(path)}
    assert kinds == {"pinned_host"}
    assert place[1][0].count.memory_kind == "device"
    params = jax.device_put(model(), whole)
    new = five_steps(tx, params, jax.jit(tx.init, out_shardings=place)(params))
    assert places(new) == (dict.fromkeys(MODEL, whole), place)
    one, _ = five_steps(tx, model(), tx.init(model()))
    for a, b in zip(jax.tree.leaves(new[0]), jax.tree.leaves(one), strict=True):
        assert jnp.abs(a - b).max() <= 1e-6


def test_a_step_of_ones_own_with_its_state_on_the_host():
    tx, rows = gx.adamw(0.1), NamedSharding(mesh(8), PartitionSpec("data"))
    params = jax.device_put({"w": jnp.ones((16, 8))}, rows)
    place = gx.state_sharding(tx, params, rows, memory_kind="pinned_host")
    state = jax.jit(tx.init, out_shardings=place)(params)

    def train_step(params, state):
        state = jax.device_put(state, jax.memory.Space.Device)
        updates, state = tx.update(params, state, params)
        return gx.apply_updates(params, updates), state

    run = jax.jit(train_step, donate_argnums=(0, 1), out_shardings=({"w": rows}, place))
    for _ in range(2):
        params, state = run(params, state)
    assert places((params, state)) == ({"w": rows}, place)
    assert jnp.allclose(params["w"], 0.8, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_on_a_mesh_of_explicit_axes(layout):
    specs, zero_axis = LAYOUTS[layout]
    tx, params_sharding = gx.adamw(0.1), on(mesh(8, kind=AxisType.Explicit), specs)
    params = jax.device_put(model(), params_sharding)
    place = gx.state_sharding(tx, params, params_sharding, zero_axis=zero_axis)
    new = five_steps(tx, params, jax.jit(tx.init, out_shardings=place)(params))
    assert places(new) == (params_sharding, place)
    one, _ = five_steps(tx, model(), tx.init(model()))
    assert all(jnp.allclose(new[0][k], one[k], rtol=0, atol=1e-6) for k in MODEL)


def test_a_step_on_one_device_with_its_state_on_the_host():
    tx, host = gx.adamw(0.1), jax.devices()[0].memory("pinned_host")
    host = jax.sharding.SingleDeviceSharding(jax.devices()[0], memory_kind=host.kind)
    params, state = five_steps(tx, model(), jax.device_put(tx.init(model()), host))
    assert set(jax.tree.leaves(places(state))) == {host}
    assert {x.sharding.memory_kind for x in params.values()} == {"device"}
    one, _ = five_steps(tx, model(), tx.init(model()))
    assert all(jnp.array_equal(params[k], one[k]) for k in MODEL)
