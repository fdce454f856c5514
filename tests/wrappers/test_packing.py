"""packed: the same numbers from fewer buffers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gradx as gx
from gradx.core.display import text
from tests.problems import aval, grads, params

# 9 layers of three shapes; one array that is large, one that is alone in its shape, one scalar.
MANY = {
    f"layer{i}": {"w": jnp.full((4, 6), 0.1 * i), "b": jnp.full(6, 0.5), "s": jnp.ones(4)} for i in range(9)
}
MANY |= {"large": jnp.ones((80, 80)), "alone": jnp.arange(5.0), "scalar": jnp.ones(())}

OPTIMIZERS = [
    gx.adamw(1e-2, weight_decay=0.1, mask="matrices_only"),
    gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-2)),
    gx.lamb(1e-2, weight_decay=0.01),
    gx.adafactor(1e-2, min_dim_size_to_factor=4, momentum=0.9),
    gx.lion(1e-2),
    gx.sgd(1e-2, momentum=0.9),
    gx.adam(1e-2, mu_dtype=jnp.bfloat16),
    gx.inject_hyperparams(gx.adamw)(gx.linear_schedule(0.1, 0.0, 10)),
    gx.masked(gx.scale_by_adam(), gx.matrices_only),
    gx.lookahead(gx.adam(1e-2), 2),
    optax.adamw(1e-2),
    pytest.param(gx.noisy_sgd(1e-2, key=0), marks=pytest.mark.slow, id="noisy_sgd"),  # 20 s for the compiler
]
# For two compilations each, some of them.
SOME = [
    *OPTIMIZERS[:3],
    *(pytest.param(tx, marks=pytest.mark.slow) for tx in OPTIMIZERS[3:-1]),
    OPTIMIZERS[-1],
]


def run(tx, p, steps=2, **jit):
    """The parameters and the state after some jitted steps."""

    def step(p, state, g):
        u, state = tx.update(g, state, p)
        return gx.apply_updates(p, u), state

    step, state = jax.jit(step, **jit), tx.init(p)
    for i in range(steps):
        p, state = step(p, state, grads(i, p))
    return p, state


def same(a, b):
    """Bit for bit."""
    plain = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(plain(x), plain(y)), a, b)


def close(a, b):
    """But for a last bit in each step: XLA contracts multiply-adds in one fusion and not in another."""
    to = {"bfloat16": 2**-7}
    jax.tree.map(
        lambda x, y: (
            same(x, y)
            if not jnp.issubdtype(x.dtype, jnp.inexact)
            else np.testing.assert_allclose(
                x, y, rtol=to.get(x.dtype.name, 1e-6), atol=1e-6 * np.abs(y).max()
            )
        ),
        a,
        b,
    )


each = pytest.mark.parametrize("tx", OPTIMIZERS, ids=text)


@each
def test_changes_no_bit_eagerly(tx, lenient):
    """Of the updates and, unpacked, of the state."""
    p, packed = params(), gx.packed(tx)
    expected, ordinary = tx.update(grads(0, p), tx.init(p), p)
    u, state = packed.update(grads(0, p), packed.init(p), p)
    same(u, expected)
    same(gx.unpack_state(packed, state, p), ordinary)


@pytest.mark.parametrize("tx", SOME, ids=text)
def test_changes_no_number_under_jit(tx, lenient):
    packed = gx.packed(tx)
    expected, ordinary = run(tx, MANY)
    p, state = run(packed, MANY)
    close(p, expected)
    unpacked = gx.unpack_state(packed, state, MANY)
    assert aval(unpacked) == aval(ordinary)
    close(unpacked, ordinary)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", "complex64"])
def test_of_any_dtype(dtype, x64):
    with jax.numpy_dtype_promotion("standard"):
        p = params(jnp.dtype(dtype))
        tx, packed = gx.adam(0.1), gx.packed(gx.adam(0.1))
        update = lambda tx: tx.update(grads(0, p), tx.init(p), p)[0]
        # XLA may fuse the product of complex numbers in another way, and a last bit turn.
        (close if dtype == "complex64" else same)(update(packed), update(tx))
        state = packed.init(p)
    slots = {"float64": {"float64"}, "complex64": {"complex64", "float32"}}  # complex: nu is real
    assert {b.dtype.name for b in state.buffers} == slots.get(dtype, {"float32"})


def test_sixteen_arrays_share_a_buffer():
    """Two slots of 9 layers of three shapes: a buffer each, and one for the two that are alone."""
    state = gx.packed(gx.adamw(1e-2)).init(MANY)
    assert len(jax.tree.leaves(gx.adamw(1e-2).init(MANY))) == 1 + 2 * 30
    assert sorted(b.size for b in state.buffers) == sorted(2 * [9 * 4, 9 * 6, 9 * 24] + [2 * 5])
    adam = state.inner_state[0]
    assert adam.count.shape == adam.mu["scalar"].shape == ()
    assert adam.mu["large"].shape == (80, 80)
    assert adam.mu["layer3"] == {k: optax.MaskedNode() for k in "wbs"}
    assert len(jax.tree.leaves(state)) == 7 + 1 + 2 + 2


def test_what_is_small_can_be_said():
    p = {"a": jnp.ones(4), "b": jnp.ones(5)}
    buffers = lambda size: [b.size for b in gx.packed(gx.adam(0.1), max_size=size).init(p).buffers]
    assert (buffers(3), buffers(4), buffers(5)) == ([], [8], [18])


def test_with_nothing_to_pack_it_is_the_inner_transformation():
    p = {"large": jnp.ones((80, 80))}
    state = gx.packed(gx.adam(0.1)).init(p)
    assert state.buffers == ()
    assert aval(state.inner_state) == aval(gx.adam(0.1).init(p))
    momentum = gx.packed(gx.sgd(0.1, momentum=0.9))  # a slot that is alone stays
    assert momentum.init({"alone": jnp.ones(3)}).buffers == ()


def test_only_within_packed_are_arrays_of_one_shape_batched():
    p = {"a": jnp.ones(()), "b": jnp.ones(()), "c": jnp.ones(1), "d": jnp.ones(1)}

    def joined(tx):
        return str(jax.make_jaxpr(tx.update)(p, tx.init(p), p)).count("concatenate")

    assert (joined(gx.adam(0.1)), joined(gx.packed(gx.adam(0.1))) > 0) == (0, True)


def test_goes_into_a_chain_and_around_one():
    inside = gx.chain(
        gx.clip_by_global_norm(1.0), gx.packed(gx.scale_by_adam()), gx.scale_by_learning_rate(0.1)
    )
    around = gx.packed(
        gx.chain(gx.clip_by_global_norm(1.0), gx.scale_by_adam(), gx.scale_by_learning_rate(0.1))
    )
    close(run(inside, params())[0], run(around, params())[0])


def test_vmaps_from_init_on():
    """Each model of a sweep has the buffers of one model, and its numbers."""
    tx = gx.packed(gx.inject_hyperparams(gx.adam)(1.0))
    p, rates = params(), jnp.array([0.1, 0.01])
    states = jax.vmap(lambda rate: gx.set_hyperparams(tx.init(p), learning_rate=rate))(rates)
    u, states = jax.vmap(tx.update, in_axes=(None, 0, None))(grads(0, p), states, p)
    assert [b.shape for b in states.buffers] == [(2, 32)]
    for i, rate in enumerate([0.1, 0.01]):
        alone, _ = gx.adam(rate).update(grads(0, p), gx.adam(rate).init(p), p)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x[i], y, rtol=1e-5), u, alone)


def test_scans_and_donates():
    tx = gx.packed(gx.adam(0.1))
    p, state = params(), tx.init(params())
    gs = [grads(i, p) for i in range(2)]

    def step(carry, g):
        u, state = tx.update(g, carry[1], carry[0])
        return (gx.apply_updates(carry[0], u), state), None

    (scanned, _), _ = jax.lax.scan(step, (p, state), jax.tree.map(lambda *x: jnp.stack(x), *gs))
    donated, _ = run(tx, jax.tree.map(jnp.copy, p), donate_argnums=(0, 1))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), scanned, donated)


def test_hyperparameters_can_be_set():
    tx = gx.packed(gx.inject_hyperparams(gx.sgd)(0.1))
    state = gx.set_hyperparams(tx.init(params()), learning_rate=0.5)
    u, _ = tx.update(params(), state, params())
    np.testing.assert_allclose(u["b"], -0.5 * params()["b"])


def test_passes_arguments_on():
    tx = gx.packed(gx.polyak_sgd())
    p = jnp.array([1.0, 2.0])
    u, _ = tx.update(p, tx.init(p), p, value=2.5)
    np.testing.assert_allclose(u, -0.5 * p)


def test_goes_by_the_updates_where_there_are_no_parameters():
    tx = gx.packed(gx.sgd(0.1, momentum=0.9))
    u, state = tx.update(grads(0, MANY), tx.init(MANY))
    v, _ = tx.update(grads(0, MANY), tx.init(MANY), MANY)
    same(u, v)
    with pytest.raises(ValueError, match=r"should have .* If update was called without params, give them"):
        tx.update(grads(0, MANY) | {"layer0": {"w": None, "b": None, "s": None}}, state)


def test_a_state_of_another_packing_goes_over():
    """A checkpoint without packing, packed; and one of a smaller max_size."""
    tx, p = gx.adamw(1e-2), params()
    small, packed = gx.packed(tx, max_size=6), gx.packed(tx)
    _, ordinary = run(tx, p)
    state = gx.pack_state(packed, ordinary, p)
    assert aval(state) == aval(packed.init(p))
    close(state, run(packed, p)[1])
    close(gx.pack_state(packed, gx.unpack_state(small, run(small, p)[1], p), p), state)


SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
NESTS = st.recursive(
    SHAPES.map(lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32)),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.sampled_from("abcd"), inner),
    max_leaves=20,
)


@settings(deadline=None, max_examples=10)
@given(nest=NESTS, max_size=st.integers(1, 30), seed=st.integers(0, 9))
def test_unpacking_undoes_packing(nest, max_size, seed):
    """Whatever the tree; and a packed state has every element of the ordinary one."""
    tx = gx.packed(gx.scale_by_adam(), max_size=max_size)
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(gx.scale_by_adam().init, nest)
    ordinary = jax.tree.map(lambda x: jnp.asarray(random.normal(size=x.shape), x.dtype), shapes)
    state = gx.pack_state(tx, ordinary, nest)
    back = gx.unpack_state(tx, state, nest)
    assert aval(back) == aval(ordinary)
    same(back, ordinary)
    total = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    assert total(state) == total(ordinary)
    assert all(b.size <= 16 * max_size for b in state.buffers)


def test_a_packed_step_has_few_kernels():
    """A copy of the gradients and one of the parameters, 8 bytes; a kernel or two for each new parameter."""
    p = {f"p{i}": jax.ShapeDtypeStruct((256,), jnp.float32) for i in range(64)}
    for tx, before, after in ((gx.adamw(1e-3), 3 * 64, 64 + 4 * 6), (gx.lamb(1e-3), 6 * 64, 2 * 64 + 4 * 9)):
        ordinary, packed = gx.cost(tx, p, platform="cpu"), gx.cost(gx.packed(tx), p, platform="cpu")
        assert ordinary.kernels >= before
        assert packed.kernels <= after
        assert packed.temporary_per_parameter <= 8 + 4.5
        # What XLA counts as moved is of no use here: a kernel that reads a slice is charged the whole buffer.
        assert packed.floor_bytes <= ordinary.floor_bytes + 64


def test_what_stays_costs_nothing():
    p = {f"p{i}": jax.ShapeDtypeStruct((64, 256), jnp.float32) for i in range(8)}
    assert gx.cost(gx.packed(gx.adamw(1e-3)), p) == gx.cost(gx.adamw(1e-3), p)


def test_sharded_slots_are_refused():
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    put = lambda *axes: jax.device_put({"w": jnp.ones((4, 2))}, NamedSharding(mesh, PartitionSpec(*axes)))
    tx = gx.packed(gx.adam(0.1))
    with pytest.raises(
        ValueError, match=r"at \[0\]\.mu\['w'\] is sharded .*take a max_size below its 8 elements"
    ):
        tx.init(put("data"))
    with pytest.raises(ValueError, match="is sharded"):
        gx.pack_state(tx, gx.adam(0.1).init(put("data")), put("data"))
    assert gx.packed(gx.adam(0.1), max_size=7).init(put("data")).buffers == ()
    assert tx.init(put()).buffers[0].sharding.is_fully_replicated


def test_says_what_is_wrong():
    with pytest.raises(ValueError, match="max_size must be an integer of at least 1, got 0"):
        gx.packed(gx.adam(0.1), max_size=0)
    with pytest.raises(
        TypeError, match="the inner transformation of packed is not a gradient transformation"
    ):
        gx.packed(gx.adam)
    tx, p = gx.packed(gx.adam(0.1)), params()
    with pytest.raises(TypeError, match="packed needs a PackedState, and was given a tuple"):
        tx.update(p, gx.adam(0.1).init(p), p)
    with pytest.raises(
        ValueError, match=r"has the buffers \[float32\[32\]\], and .* should have \[float32\[8\]\]"
    ):
        gx.unpack_state(tx, tx.init(p), p["b"])
    with pytest.raises(
        ValueError, match=r"the array at \[0\]\.mu\['b'\] has shape \(2,\), and should have \(4,\)"
    ):
        gx.pack_state(tx, gx.adam(0.1).init(p | {"b": jnp.ones(2)}), p)
    with pytest.raises(ValueError, match="have different structures"):
        gx.pack_state(tx, gx.adam(0.1).init({"w": p["w"]}), p)
    for function in (gx.pack_state, gx.unpack_state):
        with pytest.raises(TypeError, match=rf"{function.__name__} needs the result of gradx\.packed, got"):
            function(gx.adam(0.1), tx.init(p), p)
