"""The last links of a chain: parameters of 16 bit that take small steps, bit by bit as they should."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gradx as gx
from gradx.numerics.dtypes import compute_dtype
from gradx.numerics.rounding import half_step
from tests.problems import aval

LINKS = [gx.stochastic_rounding(0), gx.kahan(), gx.master_weights(), gx.split_weights()]
RESTS = LINKS[1:]
SLOT = {"kahan()": "compensation", "master_weights()": "master", "split_weights()": "correction"}
each = pytest.mark.parametrize("link", LINKS, ids=repr)
slow = lambda link: pytest.param(link, marks=pytest.mark.slow)
at_length = lambda quick: pytest.mark.parametrize(
    "link", [link if link == quick else slow(link) for link in LINKS], ids=repr
)
each_rest = pytest.mark.parametrize("link", RESTS, ids=repr)
each_dtype = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
BF16 = {"w": jnp.linspace(-2.0, 2.0, 24).reshape(4, 6).astype(jnp.bfloat16), "b": jnp.ones(4, jnp.bfloat16)}
MIXED = {**BF16, "norm": jnp.ones(6), "z": jnp.ones(2, jnp.complex64), "none": None}


def step_of(tx, apply=gx.apply_updates):
    def step(carry, g):
        p, state = carry
        u, state = tx.update(g, state, p)
        return (apply(p, u), state), None

    return step


def gradients(n, like, size=1e-3):
    """Of n steps, stacked."""
    keys = jax.random.split(jax.random.key(7), len(jax.tree.leaves(like)))
    draw = lambda p, key: size * jax.random.normal(key, (n, *p.shape), compute_dtype(p.dtype))
    leaves, treedef = jax.tree.flatten(like)
    return treedef.unflatten([draw(*pair) for pair in zip(leaves, keys, strict=True)])


@functools.partial(jax.jit, static_argnums=0)
def scanned(tx, carry, gs):
    return jax.lax.scan(step_of(tx), carry, gs)[0]


def ran(tx, p, gs, state=None):
    return scanned(tx, (p, tx.init(p) if state is None else state), gs)


@functools.partial(jax.jit, static_argnums=0)
def stepped(tx, g, state, p):
    return step_of(tx)((p, state), g)[0]


def bitwise(a, b):
    assert aval(a) == aval(b)
    plain = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(plain(x)).tobytes() == np.asarray(plain(y)).tobytes()


def decoded(link, state, p):
    """What a parameter and its slot stand for, in float64."""
    slot = np.asarray(getattr(state, SLOT[repr(link)]), np.float64)
    wide = np.asarray(p, np.float64)
    if isinstance(state, gx.SplitWeightsState):
        slot *= np.asarray(half_step(p.astype(jnp.float32), p.dtype), np.float64) / 128
    return slot if isinstance(state, gx.MasterWeightsState) else wide + slot


@each
@pytest.mark.parametrize("apply", [gx.apply_updates, optax.apply_updates], ids=["gradx", "optax"])
def test_a_thousand_small_steps_from_1_to_0(link, apply, lenient):
    """Rounded to the nearest, none of them is taken."""
    p, g = jnp.ones(200, jnp.bfloat16), jnp.full((1000, 200), 1e-3)
    move = lambda tx: jax.jit(lambda c: jax.lax.scan(step_of(tx, apply), c, g)[0])((p, tx.init(p)))[0]
    assert jnp.all(move(gx.sgd(1.0)) == 1)
    end = move(gx.chain(gx.sgd(1.0), link))
    assert end.dtype == jnp.bfloat16
    assert abs(float(jnp.mean(end.astype(jnp.float32)))) < 0.01


@each_rest
@each_dtype
def test_each_step_is_that_of_float64(link, dtype):
    """The parameter is the nearest to what both stand for and the update, the slot keeps the rest of it."""
    bits = {"kahan()": 16, "split_weights()": 15, "master_weights()": 24}[repr(link)]
    bits += 3 * (dtype == "float16" and link != gx.master_weights())
    p = jax.random.normal(jax.random.key(0), (20_000,), jnp.float32).astype(dtype)
    p, state = ran(link, p, gradients(20, p, 0.1))
    g = 0.1 * jax.random.normal(jax.random.key(1), p.shape, jnp.float32)
    w = decoded(link, state, p) + np.asarray(g, np.float64)
    new, state = stepped(link, g, state, p)
    size = 2.0 ** np.maximum(np.floor(np.log2(np.abs(w))), -4)  # what float32 adds to a sum near 0
    assert np.all(np.abs(decoded(link, state, new) - w) <= size * (2.0**-bits + 2.0**-20 * (bits < 20)))
    agree = np.asarray(new) == w.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16)
    assert np.mean(agree) > 0.999  # but for ties, that float32 may see elsewhere


@pytest.mark.parametrize(("link", "bits"), [(gx.kahan(), 17), (gx.split_weights(), 16)], ids=repr)
def test_effective_bits(link, bits):
    """The root mean square of what is lost, as that of a float of so many significant bits in [1, 2)."""
    w = np.random.default_rng(0).uniform(1, 2, 100_000).astype(np.float32)
    p = jnp.zeros(w.shape, jnp.bfloat16)
    u, state = link.update(jnp.asarray(w), link.init(p), p)
    lost = decoded(link, state, gx.apply_updates(p, u)) - w
    rounding = 2.0 ** (1 - bits) / 12**0.5
    assert 0.55 * rounding < np.sqrt(np.mean(lost**2)) < 1.05 * rounding


SMALL = dict(allow_nan=False, allow_infinity=False, allow_subnormal=False, width=32)
numbers = st.floats(-1e4, 1e4, **SMALL).filter(lambda x: x == 0 or abs(x) > 1e-4)


@each_rest
@each_dtype
@settings(max_examples=60, deadline=None, derandomize=True)
@given(start=numbers, steps=st.lists(numbers, max_size=3))
def test_an_update_of_nothing_changes_no_bit(link, dtype, start, steps):
    """Of -0, that is, which is what a skipped step within leaves."""
    p = jnp.asarray([start, 0.0, -0.0], dtype)
    state = link.init(p)
    for g in steps:
        p, state = stepped(link, np.full(3, g, np.float32), state, p)
    bitwise(stepped(link, np.full(3, -0.0, np.float32), state, p), (p, state))


@each_dtype
@settings(max_examples=60, deadline=None, derandomize=True)
@given(x=numbers, g=numbers)
def test_by_chance_is_one_of_two_neighbours(dtype, x, g):
    p = jnp.full(64, x, dtype)
    link = gx.stochastic_rounding(3)
    after, state = stepped(link, np.full(64, g, np.float32), link.init(p), p)
    new = np.asarray(after, np.float64)
    w = np.float32(np.float32(p[0]) + np.float32(g))
    steps = np.spacing(np.abs(w).astype(np.float16)) if dtype == "float16" else 2.0**-7 * abs(w)
    assert np.all(np.abs(new - np.float64(w)) <= np.float64(steps))
    assert len(np.unique(new)) <= 2
    bitwise(stepped(link, np.full(64, -0.0, np.float32), state, p)[0], p)


def test_by_chance_differs_among_leaves_steps_and_keys():
    p = {"a": jnp.ones(16_000, jnp.bfloat16), "b": jnp.ones(16_000, jnp.bfloat16)}
    g = jax.tree.map(lambda x: jnp.full_like(x, 2**-8, dtype=jnp.float32), p)  # half a step

    def drawn(key, steps):
        link = gx.stochastic_rounding(key)
        state = link.init(p)
        for _ in range(steps):
            u, state = link.update(g, state, p)
        return [np.asarray(x) > 0 for x in u.values()]

    draws = [*drawn(0, 1), *drawn(0, 2), *drawn(1, 1)]
    for i, x in enumerate(draws):
        assert abs(x.mean() - 0.5) < 5 * 0.5 / 16_000**0.5
        for y in draws[:i]:
            assert abs(np.mean(x == y) - 0.5) < 5 * 0.5 / 16_000**0.5
    for key in (jax.random.key(0), jax.random.PRNGKey(0), np.int32(0)):
        np.testing.assert_array_equal(drawn(key, 1), draws[:2])


@each
def test_float32_and_complex_parameters_pass_and_take_no_bytes(link):
    p = {"w": jnp.ones(3), "z": jnp.ones(2, jnp.complex64)}
    g = jax.tree.map(lambda x: x * 1e-9, p)
    state = link.init(p)
    u, after = link.update(g, state, p)
    bitwise(u, g)
    assert gx.slots(after, p) == []
    alone = sum(slot.array.nbytes for slot in gx.slots(gx.chain(link).init(MIXED), MIXED))
    each_byte = {"stochastic_rounding(key=0)": 0, "kahan()": 2, "master_weights()": 4, "split_weights()": 1}
    assert alone == 28 * each_byte[repr(link)]


def test_float64(x64):
    """Updates in float64; a master in float64 of float32 parameters."""
    p = {"w": jnp.ones(3, jnp.bfloat16), "f": jnp.ones(3), "d": jnp.ones(3, jnp.float64)}
    p["f"] = p["f"].astype(jnp.float32)
    g = jax.tree.map(lambda x: jnp.full(3, 1e-9, jnp.float64), p)
    for link in LINKS:
        state = link.init(p)
        u, after = link.update(g, state, p)
        assert aval(after) == aval(state)
        assert aval(gx.apply_updates(p, u)) == aval(p)
        np.testing.assert_array_equal(u["d"], g["d"])
    link = gx.master_weights("float64")
    state = link.init(p)
    assert [x.dtype.name for x in jax.tree.leaves(state)] == ["float64", "float64"]
    for _ in range(100):
        p, state = stepped(link, g, state, p)
    np.testing.assert_allclose(state.master["f"], 1 + 1e-7, rtol=1e-13)
    np.testing.assert_array_equal(p["f"], np.float32(1 + 1e-7))


@each
@each_dtype
def test_numbers_at_the_edges(link, dtype):
    """Too large ones become inf, and with NaN stay not finite; the others are none the worse for them."""
    largest = float(jnp.finfo(dtype).max)
    tiny = float(jnp.finfo(dtype).smallest_subnormal) if dtype == "float16" else 1e-37
    p = jnp.asarray([largest, jnp.inf, jnp.nan, 1.0, 0.0, tiny, -tiny], dtype)
    g = jnp.asarray([largest / 2, 1.0, 1.0, jnp.nan, tiny, tiny, tiny], jnp.float32)
    state = link.init(p)
    for _ in range(3):
        p, state = stepped(link, g, state, p)
    assert not np.any(np.isfinite(np.asarray(p[:4], np.float32)))
    np.testing.assert_allclose(np.asarray(p[4:], np.float32), [3 * tiny, 4 * tiny, 2 * tiny], rtol=0.02)


@at_length(LINKS[0])
def test_resumes_bitwise(link, tmp_path):
    tx = gx.chain(gx.adamw(1e-3), link)
    gs = gradients(5, MIXED)
    p, state = ran(tx, MIXED, gs)
    whole = ran(tx, p, gs, state)
    gx.save_checkpoint(tmp_path, 5, p, state)
    found = gx.restore_checkpoint(tmp_path, tx, MIXED)
    bitwise(ran(tx, found.params, gs, found.state), whole)
    assert jax.tree.structure(whole[1]) == jax.tree.structure(tx.init(MIXED))


@at_length(LINKS[3])
def test_donated_steps_are_their_scan(link):
    tx = gx.chain(gx.sgd(1e-3, momentum=0.9), link)
    gs = gradients(5, MIXED, 1.0)
    step = jax.jit(lambda *carry_and_g: step_of(tx)(*carry_and_g)[0], donate_argnums=0)
    carry = jax.tree.map(jnp.copy, MIXED), tx.init(MIXED)
    for i in range(5):
        carry = step(carry, jax.tree.map(lambda x, i=i: x[i], gs))
    bitwise(carry, ran(tx, MIXED, gs))


@at_length(LINKS[0])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_step_gives_the_same_bits_at_once(link, dtype):
    """By the link's own sum, where it is the last; not finite is not finite."""
    p = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.bfloat16 else x, MIXED)
    gs = gradients(3, p, 0.1)
    gs["w"] = gs["w"].at[0].set(jnp.array([np.nan, np.inf, -np.inf, 3e38, -0.0, 1e-9]))
    for tx in (link, gx.chain(gx.sgd(0.1), gx.chain(link)), gx.chain(link, gx.identity())):
        step, carry = gx.step(tx), (jax.tree.map(jnp.copy, p), tx.init(p))
        for i in range(3):
            g = jax.tree.map(lambda x, i=i: x[i], gs)
            carry = step(g, carry[1], carry[0])
        expected = ran(tx, p, gs)
        assert aval(carry) == aval(expected)
        for x, y in zip(jax.tree.leaves(carry), jax.tree.leaves(expected), strict=True):
            x, y = (np.asarray(a.astype(jnp.complex64)) for a in (x, y))
            np.testing.assert_array_equal(np.isfinite(x), np.isfinite(y))
            np.testing.assert_array_equal(x[np.isfinite(y)], y[np.isfinite(y)])


@at_length(LINKS[0])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_shards_are_bitwise_one_device(link, kind):
    tx = gx.chain(gx.sgd(1e-2), link)
    mesh = jax.make_mesh((2,), ("x",), axis_types=(kind,))
    rows = NamedSharding(mesh, PartitionSpec("x"))
    gs = gradients(3, BF16, 1.0)
    carry = jax.device_put(BF16, rows), tx.init(jax.device_put(BF16, rows))
    for i in range(3):
        g = jax.device_put(jax.tree.map(lambda x, i=i: x[i], gs), rows)
        carry = stepped(tx, g, *carry[::-1])
    assert carry[0]["w"].sharding.is_equivalent_to(rows, 2)
    bitwise(jax.device_get(carry), jax.device_get(ran(tx, BF16, gs)))


@at_length(LINKS[3])
def test_inside_of_others(link):
    """What is left out stays: by masks, groups, waiting for more batches and skipping."""
    gs = gradients(4, BF16, 0.1)
    plain = ran(gx.chain(gx.sgd(0.1), link), BF16, gs)[0]
    only = {"w": True, "b": False}
    p, state = ran(gx.chain(gx.sgd(0.1), gx.masked(link, only)), BF16, gs)
    nearest = ran(gx.sgd(0.1), BF16, gs)[0]
    bitwise(p["b"], nearest["b"])
    if link in RESTS:
        bitwise(p["w"], plain["w"])
        assert [x.path for x in gx.slots(state, BF16)] == ["w"]
    grouped = gx.groups(gx.chain(gx.sgd(0.1), link), {"^b$": gx.frozen()})
    p, _ = ran(grouped, BF16, gs)
    bitwise(p["b"], BF16["b"])
    assert not np.array_equal(p["w"], BF16["w"])
    waiting = gx.accumulate(gx.chain(gx.sgd(0.1), link), 2)
    pair = lambda x: 0.5 * (x[::2] + x[1::2])
    p, _ = ran(waiting, BF16, gs)
    q, _ = ran(gx.chain(gx.sgd(0.1), link), BF16, jax.tree.map(pair, gs))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(*np.float32([x, y]), rtol=0.01), p, q)
    skipping = gx.skip_if(gx.chain(gx.sgd(0.1), link), gx.nonfinite())
    holed = jax.tree.map(lambda x: jnp.insert(x, 2, jnp.nan, axis=0), gs)
    bitwise(ran(skipping, BF16, holed)[0], plain)


@pytest.mark.parametrize("link", [gx.kahan(), gx.split_weights()], ids=repr)
def test_a_parameter_changed_from_outside_goes_on_from_there(link):
    p, state = ran(link, BF16, gradients(5, BF16))
    p = jax.tree.map(lambda x: x * 3, p)
    u, _ = link.update(jax.tree.map(lambda x: jnp.zeros(x.shape), p), state, p)
    moved = jax.tree.map(lambda x, u: np.max(np.abs(np.float32(u)) / np.abs(np.float32(x))), p, u)
    assert max(moved.values()) <= 2**-7


def test_what_is_done_to_a_parameter_beside_its_master_is_undone():
    link, p = gx.master_weights(), jnp.ones(3, jnp.bfloat16)
    u, _ = link.update(jnp.zeros(3), link.init(p), p * 2)
    np.testing.assert_array_equal(gx.apply_updates(p * 2, u), p)


def test_tools_find_the_slots_there_are():
    for link in RESTS:
        state = link.init(MIXED)
        assert [(x.name, x.path) for x in gx.slots(state, MIXED)] == [(SLOT[repr(link)], k) for k in "bw"]
        state = gx.set_slot(state, MIXED, SLOT[repr(link)], gx.get_slot(state, MIXED, SLOT[repr(link)]))
        again = optax.tree_map_params(link, lambda x: x + jnp.ones((), x.dtype), state)
        changed = zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True)
        assert all(np.all(np.asarray(x) == np.asarray(y) + 1) for x, y in changed)
        assert "total" in str(gx.summarize(link, MIXED))
        packed = gx.packed(link)
        u, state = packed.update(MIXED, packed.init(MIXED), MIXED)
        bitwise(u, link.update(MIXED, link.init(MIXED), MIXED)[0])


@each
def test_bad_input(link):
    state = link.init(BF16)
    with pytest.raises(ValueError, match=r"needs the parameters: call update\(updates, state, params\)"):
        link.update(BF16, state)
    z = {**BF16, "w": BF16["w"].astype(jnp.complex64)}
    with pytest.raises(TypeError, match="the update is complex, and its parameter is real"):
        link.update(z, state, BF16)
    with pytest.raises(TypeError, match=r"needs a \w+State, and was given an EmptyState"):
        link.update(BF16, gx.EmptyState(), BF16)


@each
def test_the_update_of_an_integer_passes(link):
    integers = {"i": jnp.array([2, 3])}
    updates, _ = link.update(integers, link.init(integers), integers)
    np.testing.assert_array_equal(updates["i"], integers["i"])


def test_arguments():
    with pytest.raises(TypeError, match=r"give a key, say key=0 or key=jax\.random\.key\(0\)"):
        gx.stochastic_rounding()
    with pytest.raises(TypeError, match="stochastic_rounding: key must be an integer or one random key"):
        gx.stochastic_rounding("0")
    for dtype in ("bfloat16", jnp.float16, "int32"):
        with pytest.raises(ValueError, match="dtype must be float32 or float64, got"):
            gx.master_weights(dtype)
    with pytest.raises(ValueError, match="float64 is not enabled in JAX: set jax_enable_x64"):
        gx.master_weights(jnp.float64).init(BF16)
