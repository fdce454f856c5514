"""Formats with a scale for each block: `Blockwise` and `Float8`."""

import dataclasses
import pickle
import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gradx as gx
from tests.codecs.formats import BLOCKWISE, FLOAT8, block_of, codes_of, decoded, encoded, magnitudes, same

TINY = float(np.finfo(np.float32).tiny)
# In every run: all kinds of numbers and of rounding, but not each with each.
QUICK = [c for c in BLOCKWISE if c.map == "log2"] + FLOAT8[:2]
QUICK += [gx.Blockwise(map=name, rounding="nearest") for name in ("dynamic", "companded", "linear")]
QUICK += [gx.Blockwise(4, "dynamic")]
slow = lambda *values: pytest.param(*values, marks=pytest.mark.slow)
CODECS = [*BLOCKWISE, *FLOAT8]


def over(codecs):
    return pytest.mark.parametrize("codec", [c if c in QUICK else slow(c) for c in codecs], ids=repr)


each = over(CODECS)
nearest = over(c for c in CODECS if not c.stochastic)
by_sign = pytest.mark.parametrize("positive", [False, True], ids=["signed", "squares"])


def numbers(positive, shape=(6, 512), spread=2.0):
    """Lognormal, of either sign unless positive, some exactly 0."""
    rng = np.random.default_rng(7)
    x = np.exp(spread * rng.standard_normal(shape)) * rng.integers(0, 9, shape).clip(0, 1)
    return (x if positive else x * rng.choice([-1, 1], shape)).astype(np.float32)


@nearest
@by_sign
def test_each_number_becomes_the_nearest_in_the_space_of_its_map(codec, positive):
    x = numbers(positive)
    y = np.asarray(decoded(codec, encoded(codec, x, positive), positive))
    blocks = np.abs(x.astype(np.float64)).reshape(6, -1, block_of(codec, 512))
    scale = blocks.max(-1, keepdims=True)
    found = np.abs(y).reshape(blocks.shape) / scale
    np.testing.assert_array_equal(np.sign(y), np.where(found.reshape(x.shape) > 0, np.sign(x), 0))
    values = magnitudes(codec, positive)
    code = np.abs(found[..., None] - values).argmin(-1)
    np.testing.assert_allclose(found, values[code], rtol=1e-4)
    places = warped(codec, positive, values)
    exact = np.interp(warped(codec, positive, blocks / scale), places, np.arange(values.size))
    lifted = positive & (code == 1) & (exact < 1)  # the smallest squares
    assert np.all((np.abs(exact - code) <= 0.5 + 2e-3) | lifted)
    if positive:
        np.testing.assert_array_equal(code > 0, blocks > 0)


def warped(codec, positive, y):
    """Where a number lies between two codes: by its logarithm, its root, or itself."""
    if getattr(codec, "map", "") == "log2":
        octave = np.floor(np.log2(np.maximum(y, 1e-30)))
        octaves = {(8, False): 18, (8, True): 28, (4, False): 5, (4, True): 14}[codec.bits, positive]
        return np.maximum(octave + y / 2.0**octave - 1, -octaves)  # where code 0 is
    is_root = positive and (isinstance(codec, gx.Float8) or codec.map in ("linear", "companded"))
    y = np.sqrt(y) if is_root else y
    return 2 * y / (1 + y) if getattr(codec, "map", "") == "companded" and not positive else y


def every_code(codec, positive):
    """Arrays in the format that have every code, with scales from the smallest to the largest."""
    values = magnitudes(codec, positive)
    values = values if positive else np.concatenate([-values[:0:-1], values])
    x = np.resize([*values, 1, 1], (6, 512))  # of another period than the blocks
    x[:, :: block_of(codec, 512)] = 1
    scales = np.array([1, 0.7, 1e-38, 1e-30, 3e-19, 3.4e38])[:, None]
    return encoded(codec, (x * scales).astype(np.float32), positive)


@each
@by_sign
def test_what_was_decoded_encodes_to_the_same_bits_for_every_code(codec, positive):
    first = every_code(codec, positive)
    x = decoded(codec, first, positive)
    assert np.all(np.isfinite(x))
    for lot in (0, 2**31, 2**32 - 1):
        bits = np.full(x.shape, lot, np.uint32) if codec.stochastic else None
        assert same(first, encoded(codec, x, positive, bits))
    found = np.unique(np.asarray(codes_of(codec, first, positive), np.float32))
    assert found.size == magnitudes(codec, positive).size * (2 - positive) - (not positive)


@each
@by_sign
@hypothesis.settings(max_examples=10, deadline=None, derandomize=True)
@hypothesis.given(data=st.data())
def test_any_array_is_held_with_the_same_laws(codec, positive, data):
    """Bitwise the same again; no sign lost; no square above 0 lost; the largest of a block exact."""
    sizes = st.floats(0 if positive else -(2.0**127), 2.0**127, width=32, allow_subnormal=False)
    x = np.array(data.draw(st.lists(sizes, min_size=64, max_size=64)), np.float32)
    x = np.resize(x, (6, 512))
    first = encoded(codec, x, positive)
    y = np.asarray(decoded(codec, first, positive))
    assert np.all(np.isfinite(y))
    assert same(first, encoded(codec, y, positive))
    assert np.all((y == 0) | (np.sign(y) == np.sign(x)))
    assert np.all(y[x == 0] == 0)
    if positive:
        assert np.all(y[x > 0] > 0)
    largest, kept = (np.abs(z).reshape(6, -1, block_of(codec, 512)).max(-1) for z in (x, y))
    is_normal = largest > 1e-18  # of Float8's squares, which span the most
    np.testing.assert_array_equal(kept[is_normal], largest[is_normal])


@each
@by_sign
def test_no_number_is_made_of_what_is_none(codec, positive):
    """A block with NaN or inf is NaN, all of it and no other; zeros are zeros; twice is once."""
    x = np.ones((6, 512), np.float32)
    x[0, 3], x[1, 300], x[2, :256] = np.nan, np.inf, 0
    first = encoded(codec, x, positive)
    y = np.asarray(decoded(codec, first, positive))
    of_blocks = lambda a: a.reshape(6, -1, block_of(codec, 512))
    np.testing.assert_array_equal(np.isnan(of_blocks(y)).all(-1), ~np.isfinite(of_blocks(x)).all(-1))
    np.testing.assert_array_equal(y[2:], x[2:])
    assert same(first, encoded(codec, y, positive))


@over(c for c in CODECS if c.stochastic)
@by_sign
def test_rounding_by_chance_is_right_on_average_and_to_a_neighbour(codec, positive):
    """In the space of the map, where codes are equally far apart, between two codes at 0.3 of the way."""
    values = magnitudes(codec, positive)
    places = warped(codec, positive, values)
    code = values.size * 2 // 3
    wanted = values[code] + 0.3 * (values[code + 1] - values[code])
    x = np.full((6, 512), wanted, np.float32)
    x[:, :: block_of(codec, 512)] = 1
    found = np.asarray(decoded(codec, encoded(codec, x, positive), positive), np.float64)[x != 1]
    low, high = (np.isclose(found, values[k], rtol=1e-4) for k in (code, code + 1))
    assert np.all(low | high)
    y = warped(codec, positive, wanted)
    chance = (y - places[code]) / (places[code + 1] - places[code])
    deviation = (chance * (1 - chance) / found.size) ** 0.5
    assert abs(high.mean() - chance) <= 3 * deviation + 2**-11


def test_codes_of_4_bits_are_the_halves_of_a_block_side_by_side():
    codec = gx.Blockwise(bits=4, map="linear", block=16, rounding="nearest")
    x = np.array([7, -7, 1, 0, -1, 2, 3, 4, 5, 6, 7, -2, -3, -4, -5, -6], np.float32)
    codes = encoded(codec, x, False)["codes"]
    assert codes.dtype == jnp.uint8
    low, high = x[:8].astype(np.int64) & 15, x[8:].astype(np.int64) & 15
    np.testing.assert_array_equal(codes, low | high << 4)


@pytest.mark.parametrize(
    ("codec", "positive", "code", "bytes"),
    [
        (gx.Blockwise(), False, "int8", 1 + 4 / 256),
        (gx.Blockwise(), True, "uint8", 1 + 4 / 256),
        (gx.Blockwise(4), True, "uint8", 0.5 + 4 / 128),
        (gx.Blockwise(map="companded"), False, "int8", 1 + 4 / 32),
        (gx.Float8(), False, "float8_e4m3fn", 1 + 4 / 256),
        (gx.Float8("e5m2"), True, "float8_e5m2", 1 + 4 / 256),
    ],
    ids=repr,
)
def test_bytes(codec, positive, code, bytes):
    bits = jax.ShapeDtypeStruct((64, 512), jnp.uint32)
    made = jax.eval_shape(
        lambda x, b: codec.encode(x, positive, b), jax.ShapeDtypeStruct((64, 512), jnp.float32), bits
    )
    assert made["codes"].dtype == code
    assert made["scales"].dtype == jnp.float32
    assert sum(x.size * x.dtype.itemsize for x in made.values()) == bytes * 64 * 512


def test_the_block_that_is_found():
    def blocks(codec, n):
        x, bits = (jax.ShapeDtypeStruct((2, n), dtype) for dtype in (jnp.float32, jnp.uint32))
        return jax.eval_shape(lambda x, bits: codec.encode(x, True, bits), x, bits)["scales"].shape[-1]

    found = {n: blocks(gx.Blockwise(), n) for n in (16, 256, 257 * 16, 300, 1000, 768, 11008)}
    assert found == {16: 1, 256: 1, 257 * 16: 257, 300: 2, 1000: 4, 768: 3, 11008: 43}
    assert blocks(gx.Blockwise(4), 290) == 5  # of 58, as 145 is odd
    assert blocks(gx.Blockwise(block=16), 64) == 4
    assert blocks(gx.Blockwise(map="companded"), 64) == 2


@pytest.mark.parametrize(
    ("codec", "axis", "axis_type"),
    [
        (gx.Blockwise(), 0, AxisType.Explicit),
        (gx.Blockwise(), 1, AxisType.Auto),
        (gx.Blockwise(4, "dynamic"), 1, AxisType.Explicit),
        slow(gx.Blockwise(), 0, AxisType.Auto),
        slow(gx.Blockwise(), 1, AxisType.Explicit),
        slow(gx.Blockwise(4, "dynamic"), 0, AxisType.Auto),
        slow(gx.Blockwise(4, "dynamic"), 0, AxisType.Explicit),
        slow(gx.Blockwise(4, "dynamic"), 1, AxisType.Auto),
    ],
    ids=str,
)
def test_codes_and_scales_are_where_the_array_is(codec, axis, axis_type):
    mesh = jax.make_mesh((2,), ("x",), axis_types=(axis_type,))
    spec = PartitionSpec("x", None) if axis == 0 else PartitionSpec(None, "x")
    x = jnp.asarray(numbers(True, (8, 512)))
    bits = jnp.asarray(np.random.default_rng(1).integers(0, 2**32, x.shape, np.uint32))

    @jax.jit
    def again(x, bits):
        arrays = codec.encode(x, True, bits)
        return arrays, codec.decode(arrays, True)

    alone = again(x, bits)
    with jax.set_mesh(mesh):
        placed = [jax.device_put(a, NamedSharding(mesh, spec)) for a in (x, bits)]
        program = again.lower(*placed).compile()
        arrays, decoded = program(*placed)
    assert same(arrays, alone[0])
    np.testing.assert_array_equal(decoded, alone[1])
    for a in (*arrays.values(), decoded):
        shards = [shard.data.shape for shard in a.addressable_shards]
        assert shards == [tuple(n // 2 if k == axis else n for k, n in enumerate(a.shape))] * 2
    assert not any(
        op in program.as_text() for op in ("all-gather", "all-reduce", "all-to-all", "collective-permute")
    )


FEW = [slow(gx.Blockwise()), gx.Blockwise(4), gx.Blockwise(map="dynamic", rounding="nearest"), gx.Float8()]


@pytest.mark.parametrize("codec", FEW, ids=repr)
def test_works_under_vmap_and_scan_without_lookups(codec):
    x = jnp.asarray(numbers(False, (3, 2, 64)))
    bits = jnp.zeros(x.shape, jnp.uint32) if codec.stochastic else None
    one = jax.jit(lambda x, bits: codec.encode(x, False, bits))
    arrays = jax.vmap(one)(x, bits)
    assert same(arrays, one(x, bits))
    _, scanned = jax.lax.scan(lambda c, a: (c, one(*a)), 0, (x, bits))
    assert same(arrays, scanned)
    decode = jax.jit(lambda arrays: codec.decode(arrays, False))
    assert jnp.array_equal(jax.vmap(decode)(arrays), decode(arrays))
    for program in (one.lower(x, bits), decode.lower(arrays)):
        assert "gather" not in program.as_text()
        assert "while" not in program.as_text()


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_is_plain_data(codec):
    assert eval(repr(codec), vars(gx)) == codec == pickle.loads(pickle.dumps(codec))
    assert hash(codec) == hash(eval(repr(codec), vars(gx)))


BAD = [
    (dict(bits=16), "Blockwise: bits must be 8 or 4, got 16"),
    (dict(map="exp"), "Blockwise: map must be 'log2', 'dynamic', 'companded' or 'linear', got 'exp'"),
    (dict(rounding="up"), "Blockwise: rounding must be 'stochastic' or 'nearest', got 'up'"),
    (dict(block=8), "Blockwise: block must be None or an integer of at least 16, got 8"),
    (dict(block=True), "Blockwise: block must be None or an integer of at least 16, got True"),
    (dict(block=64.0), "Blockwise: block must be None or an integer of at least 16, got 64.0"),
    (dict(block=17, bits=4), "Blockwise: block must be None or an even integer of at least 16, got 17"),
    (dict(shards=0), "Blockwise: shards must be an integer of at least 1, got 0"),
    (dict(shards=2.0), "Blockwise: shards must be an integer of at least 1, got 2.0"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda x: "" if type(x) is str else repr(x))
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        gx.Blockwise(**arguments)


def test_bad_arguments_of_float8(monkeypatch):
    with pytest.raises(ValueError, match="Float8: format must be 'e4m3' or 'e5m2', got 'e4m3fn'"):
        gx.Float8("e4m3fn")
    with pytest.raises(ValueError, match="Float8: block must be None or an integer of at least 16, got 0"):
        gx.Float8(block=0)
    monkeypatch.delattr(jnp, "float8_e5m2")
    with pytest.raises(RuntimeError, match=r"JAX .* has no float8_e5m2: take Blockwise\(\)"):
        gx.Float8("e5m2")


@pytest.mark.parametrize("codec", [gx.Blockwise(), gx.Float8(), gx.Blockwise(4)], ids=repr)
def test_each_device_has_whole_blocks(codec):
    """Of an axis whose largest block would lie on two of 16 devices; what does not divide is not split."""
    largest = 128 if codec == gx.Blockwise(4) else 256
    divided = dataclasses.replace(codec, shards=16)
    for n, block in {
        4096: largest,
        11008: 86 if largest == 128 else 172,
        1000: 100 if largest == 128 else 250,
    }.items():
        arrays = divided.encode(jnp.ones((1, n)), False, jnp.zeros((1, n), jnp.uint32))
        assert arrays["scales"].shape == (1, n // block)
        assert (n // block) % 16 == 0 or n % 16
    with pytest.raises(
        ValueError, match=r"block=32 does not divide .*, of which each device has 688: give a"
    ):
        dataclasses.replace(divided, block=32).check((1, 11008), jnp.float32)
    whole = codec.encode(jnp.ones((1, 11008)), False, jnp.zeros((1, 11008), jnp.uint32))
    assert whole["scales"].shape[-1] % 16


@pytest.mark.parametrize("codec", [gx.Blockwise(), gx.Blockwise(4), gx.Float8()], ids=repr)
def test_what_is_left_as_it_is(codec):
    check = codec.check
    assert check((64, 512), jnp.float32) is None
    assert check((64, 512), jnp.bfloat16) is None
    assert (
        check((64, 512), jnp.int32) == "it is int32, and only real floating point can be stored: leave it out"
    )
    assert check((64, 512), jnp.complex64).startswith("it is complex64, and only real floating point")
    assert check((), jnp.float32) == "it is a scalar: leave it out"
    assert "its last axis, of 7, has no " in check((512, 7), jnp.float32)
    assert "its last axis, of 257, has no " in check((512, 257), jnp.float32)
    given = type(codec)(block=100)
    assert given.check((64, 500), jnp.float32) is None
    with pytest.raises(
        ValueError, match=r"block=100 does not divide the last axis of \(64, 512\): give a div"
    ):
        given.check((64, 512), jnp.float32)
