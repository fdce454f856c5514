"""What every transformation keeps, whatever its rule: dtypes, structure, purity, equality."""

import copy
import functools
import pathlib
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gradx as gx
from tests.cases import CASES, FIRST, given, is_typical
from tests.problems import aval, grads, params

W = "^([wz].*)?$"  # a pattern that matches something in every tree of these tests

LINKS = [
    gx.chain(),
    gx.identity(),
    gx.set_to_zero(),
    gx.scale(0.5),
    gx.scale_by_sign(),
    gx.scale_by_schedule(gx.linear_schedule(1.0, 0.0, 10)),
    gx.scale_by_learning_rate(gx.cosine_decay_schedule(1.0, 10)),
    gx.trace(0.9, accumulator_dtype=jnp.bfloat16),
    gx.trace(gx.linear_schedule(0.8, 0.9, 10)),  # a schedule where the state has no count of its own
    gx.ema(0.9),
    gx.scale_by_adam(b1=gx.linear_schedule(0.8, 0.9, 10), mu_dtype=jnp.bfloat16),
    gx.scale_by_lion(variant="smooth"),
    gx.scale_by_nadam(b1=gx.linear_schedule(0.8, 0.9, 10), momentum_decay=0.004),
    gx.scale_by_optimistic_gradient(beta=gx.linear_schedule(1.0, 0.0, 10)),
    gx.scale_by_trust_ratio(min_norm=0.1),
    gx.add_decayed_weights(gx.linear_schedule(0.0, 0.1, 10), "matrices_only"),
    gx.clip(0.5),
    gx.clip_by_global_norm(gx.linear_schedule(1.0, 2.0, 10)),
    gx.clip_by_block_rms(0.5),
    gx.clip_by_global_norm(1.0, eps=1e-6),
    gx.adaptive_grad_clip(0.01),
    gx.centralize(output_axis=-1),
    gx.add_noise(gx.linear_schedule(0.1, 0.0, 10), 0.55, key=0),
    gx.zero_nans(),
    gx.keep_params_nonnegative(),
    gx.normalize_by_update_norm(eps=0.0),
    gx.scale_by_param_block_norm(),
    gx.scale_by_param_block_rms(gx.linear_schedule(0.0, 0.1, 10)),
    gx.scale_by_factored_rms(min_dim_size_to_factor=1, floor="machine"),
    gx.scale_by_sm3(b2=0.9),
    gx.scale_by_novograd(mu_dtype=jnp.bfloat16),
    gx.scale_by_adan(b1=gx.linear_schedule(0.9, 0.98, 10)),
    gx.centralize(),
    gx.scale_by_radam(b2=gx.linear_schedule(0.9, 0.99, 10)),
    gx.stochastic_rounding(0),
    gx.kahan(),
    gx.packed(gx.chain(gx.trace(0.9), gx.split_weights())),
    gx.master_weights(),
    gx.average_params(1, every=2),
    gx.chain(gx.sgd(0.1), gx.ema_params(0.9)),
    gx.ema_params(gx.linear_schedule(0.5, 0.9, 10), debias=False, start=1),
    gx.packed(gx.chain(gx.sgd(0.1, momentum=0.9), gx.ema_params(0.5, every=2))),
    gx.lookahead(gx.adam(0.1), 2, reset_state=True),
    gx.lookahead(gx.sgd(0.1), 3, gx.linear_schedule(0.1, 0.9, 10)),
    gx.masked(gx.scale_by_adam(), gx.no_bias_or_norm),
    gx.partition({"all": gx.adam(0.1)}, "all"),
    gx.groups(gx.adamw(gx.linear_schedule(0.1, 0.0, 10)), {W: dict(learning_rate=gx.scaled(0.5))}),
    gx.groups(gx.frozen(), {W: gx.inject_hyperparams(gx.adamw)(0.1)}),
    gx.packed(gx.lookahead(gx.groups(gx.sgd(0.1, momentum=0.9), {W: gx.frozen()}), 2)),
    gx.packed(gx.inject_hyperparams(gx.adamw)(gx.linear_schedule(0.0, 0.1, 10), mask=gx.matrices_only)),
    gx.chain(gx.packed(gx.trace(0.9, accumulator_dtype=jnp.bfloat16)), gx.packed(gx.lamb(0.1), max_size=4)),
    gx.measured(gx.chain(gx.clip_by_global_norm(1.0), gx.lamb(gx.linear_schedule(0.0, 0.1, 10)))),
    gx.packed(gx.measured(gx.packed(gx.lamb(0.1)), norms=["update"])),
    gx.lamb(0.1, weight_decay=0.1, variant="nvidia"),  # behind a clip
    gx.accumulate(gx.adamw(0.1), 2),
    gx.accumulate(gx.chain(gx.clip(1.0), gx.sgd(0.1)), gx.linear_schedule(1.0, 3.0, 3), drop_nonfinite=True),
    gx.accumulate(gx.accumulate(gx.masked(gx.adam(0.1), gx.no_bias_or_norm), 2), 1, dtype=jnp.bfloat16),
    gx.MultiSteps(gx.lookahead(gx.adam(0.1), 2), 2, False, gx.skip_not_finite),
    gx.skip_if(gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(0.1, mu_dtype=jnp.bfloat16)), gx.nonfinite()),
    gx.skip_if(
        gx.packed(gx.inject_hyperparams(gx.lamb)(gx.linear_schedule(0.0, 0.1, 10))),
        gx.nonfinite(),
        gx.spike("gradient_norm", warmup=2),
        max_consecutive=3,
    ),
    gx.skip_if(gx.add_noise(0.1, 0.55, key=0), gx.nonfinite()),
    gx.apply_if_finite(gx.lookahead(gx.sgd(0.1, momentum=0.9), 2), 3),
    gx.dynamic_loss_scale(gx.lion(0.1), 4.0, 2),
    gx.store(
        gx.chain(gx.clip(1.0), gx.adam(gx.linear_schedule(0.1, 0.0, 10))),
        {"nu": gx.Rounded()},
        where=W,
        min_size=2,
        seed=1,
    ),
    gx.packed(gx.store(gx.lookahead(gx.sgd(0.1, momentum=0.9), 2), gx.Rounded(), min_size=1, seed=0)),
    gx.stacked(gx.chain(gx.clip_by_global_norm(1.0), gx.lamb(0.1, mask="matrices_only")), {W: 0}),
    gx.split_real_and_imaginary(gx.adamw(gx.linear_schedule(0.1, 0.0, 10), mask="matrices_only")),
    gx.packed(gx.split_real_and_imaginary(gx.lamb(0.1))),
    gx.named_chain(("clip", gx.clip(1.0)), ("adam", gx.adam(0.1))),
    gx.inject_hyperparams(gx.adamw)(gx.linear_schedule(0.0, 0.1, 10), mask=gx.matrices_only),
    gx.chain(gx.clip_by_global_norm(1.0), optax.scale_by_adam(), gx.scale_by_learning_rate(0.1)),
]
ALL = [case.make() for case in CASES] + LINKS
each = pytest.mark.parametrize("tx", ALL, ids=repr)
# Where a row is compiled, one of each optimizer stands for its other rows, which `make test-all` tries too.
EACH_ONCE = [pytest.param(c.make(), marks=[] if c in FIRST else pytest.mark.slow) for c in CASES] + LINKS
each_once = pytest.mark.parametrize("tx", EACH_ONCE, ids=repr)
# Outside of jit each row takes programs of its own, so all but typical optimizers are for `make test-all`.
FEWER = [pytest.param(c.make(), marks=[] if is_typical(c) else pytest.mark.slow) for c in CASES] + LINKS
each_outside_jit = pytest.mark.parametrize("tx", FEWER, ids=repr)
# Without the chain that holds a link of Optax's: its slots are 16-bit, and its repr no call.
each_of_ours = pytest.mark.parametrize("tx", ALL[:-1], ids=repr)


@each
@pytest.mark.parametrize(
    ("param_dtype", "grad_dtype"),
    [
        # The first is what a scan needs, and each row is scanned; float16 goes the way of bfloat16.
        pytest.param("float32", "float32", marks=pytest.mark.slow),
        pytest.param("float16", "float32", marks=pytest.mark.slow),
        ("float32", "bfloat16"),
        ("bfloat16", "bfloat16"),
        ("float64", "float32"),
    ],
)
def test_the_state_keeps_its_type(tx, param_dtype, grad_dtype):
    with jax.enable_x64(param_dtype == "float64"), jax.numpy_dtype_promotion("standard"):
        p = params(jnp.dtype(param_dtype))
        g = grads(0, p, jnp.dtype(grad_dtype))
        state = jax.eval_shape(tx.init, p)
        updates, after = jax.eval_shape(tx.update, g, state, p)
        assert aval(after) == aval(state)
        new = jax.eval_shape(gx.apply_updates, p, updates)
        assert aval(new) == aval(jax.eval_shape(lambda: p))


@each_once
def test_double_precision_elsewhere_changes_no_type(tx, lenient):
    """Where float64 is enabled, float32 parameters have the same types of updates and state."""
    types = lambda p, g: jax.eval_shape(lambda p, g: (s := tx.init(p), tx.update(g, s, p)), p, g)
    p, g = params(), grads(0, params())
    expected = aval(types(p, g))
    with jax.enable_x64(True):
        assert aval(types(p, g)) == expected


# What these keep is for parameters of 16 bit only; for the others it is nothing.
RESTS = re.compile(r"\b(kahan|split_weights|master_weights)\(")


@pytest.mark.parametrize("tx", [tx for tx in ALL[:-1] if not RESTS.search(repr(tx))], ids=repr)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_slots_are_float32_unless_asked(tx, dtype):
    """The state for 16-bit parameters is the state for float32 parameters, type by type."""
    low, full = params(jnp.dtype(dtype)), params()
    assert aval(jax.eval_shape(tx.init, low)) == aval(jax.eval_shape(tx.init, full))


def steps(tx, p, gs, loop):
    """The parameters and the state after a loop, such as `lax.scan`, over the steps of these gradients."""

    def step(carry, g):
        p, state = carry
        u, state = tx.update(g, state, p)
        return (gx.apply_updates(p, u), state), None

    return loop(step, (p, tx.init(p)), gs)[0]


def unrolled(step, carry, gs):
    for i in range(3):
        carry, _ = step(carry, jax.tree.map(lambda x, i=i: x[i], gs))
    return carry, None


@functools.cache
def three_grads():
    return jax.tree.map(lambda *x: jnp.stack(x), *(grads(i, params()) for i in range(3)))


@each_once
def test_a_scan_is_a_loop(tx, together, lenient):
    both = lambda tx, p, gs: (steps(tx, p, gs, jax.lax.scan), steps(tx, p, gs, unrolled))
    close(*together(both, params(), three_grads()))


@each_outside_jit
def test_jit_changes_nothing(tx, together, lenient):
    compiled = together(lambda tx, p, gs: steps(tx, p, gs, jax.lax.scan), params(), three_grads())
    close(compiled, steps(tx, params(), three_grads(), unrolled))


@each_once
def test_vmaps(tx, together, lenient):
    """Two models side by side are two models."""

    def run(tx, p, g):
        q = jax.tree.map(lambda x: 2 * x, p)
        one = lambda p: tx.update(g, tx.init(p), p)[0]
        return jax.vmap(one)(jax.tree.map(lambda *x: jnp.stack(x), p, q)), one(p), one(q)

    both, *each = together(run, params(), grads(0, params()))
    for i, u in enumerate(each):
        close(jax.tree.map(lambda x, i=i: x[i], both), u)


@each
def test_every_leaf_of_a_fresh_state_is_its_own_buffer(tx, lenient):
    """So the first step may reuse them all."""
    pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(tx.init(params()))]
    assert len(set(pointers)) == len(pointers)


# On more devices: tests/distributed/test_sharding.py.
@each_once
def test_keeps_shardings_and_values_on_two_devices(tx, together, lenient):
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    p = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(4, 3), "b": jnp.ones(4)}
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    sharded = jax.device_put(p, sharding)
    if "packed(" in repr(tx):
        with pytest.raises(ValueError, match="is sharded"):
            tx.init(sharded)
        return
    shapes = {(4, 3), (4,)}  # of slots like their parameters; scalars and sums over axes are free
    for x in jax.tree.leaves(tx.init(sharded)):
        assert x.shape not in shapes or x.sharding == sharding

    def run(tx, g, p):
        return tx.update(g, tx.init(p), p)

    u, after = together(run, jax.device_put(grads(0, p), sharding), sharded)
    close(u, together(run, grads(0, p), p)[0])
    for x in jax.tree.leaves(after):
        assert x.shape not in shapes or x.sharding.is_equivalent_to(sharding, x.ndim)


@each_once
def test_missing_leaves_pass_through(tx, together, lenient):
    """None and MaskedNode are left alone, and change nothing for the others."""

    def run(tx, p, g):
        u, _ = tx.update(g, tx.init(p), p)
        holes = {"none": None, "masked": optax.MaskedNode()}
        before = tx.init(p | holes)
        v, after = tx.update(g | holes, before, p | holes)
        assert aval(after) == aval(before)
        return u, v

    u, v = together(run, params(), grads(0, params()))
    assert v.pop("none") is None
    assert v.pop("masked") == optax.MaskedNode()
    close(u, v)


@each_of_ours
def test_a_missing_gradient_leaves_its_slots(tx):
    """A parameter that took no part in the loss (gradient None) keeps its state and its value."""

    def run(p, g):
        before = tx.init(p)
        u, after = tx.update({**g, "b": None}, before, p)
        assert u["b"] is None
        assert aval(after) == aval(before)
        assert gx.apply_updates(p, u)["b"] is p["b"]

    jax.eval_shape(run, params(), grads(0, params()))


@each
def test_the_empty_tree_and_the_bare_array(tx, lenient):
    for p in ({}, jnp.ones(3)):
        state = jax.eval_shape(tx.init, p)
        updates, after = jax.eval_shape(tx.update, p, state, p)
        assert (aval(updates), aval(after)) == (aval(p), aval(state))


@each_of_ours
def test_arrays_without_elements(tx, lenient):
    p = {"w": jnp.ones(2), "none": jnp.ones((0, 3)), "last": jnp.ones((2, 0, 3))}
    state = jax.eval_shape(tx.init, p)
    updates, after = jax.eval_shape(tx.update, p, state, p)
    assert (aval(updates), aval(after)) == (aval(p), aval(state))


@each
def test_equal_calls_are_equal(tx):
    other = copy.deepcopy(tx)
    assert other is not tx
    assert other == tx
    assert (other != tx) is False
    assert hash(other) == hash(tx)
    assert {tx: 1}[other] == 1


@each_of_ours
def test_pickles_and_prints_as_its_call(tx):
    again = pickle.loads(pickle.dumps(tx))
    assert again == tx
    assert repr(again) == repr(tx)
    names = {name: getattr(gx, name) for name in dir(gx)} | {"bfloat16": jnp.bfloat16, "given": given}
    assert eval(repr(tx), names) == tx


def test_no_two_rows_are_equal():
    assert len(set(ALL)) == len(ALL)


@each
def test_compiles_once_for_equal_transformations(tx, lenient):
    traced = []

    def step(tx, p, state):
        traced.append(1)
        return tx.update(grads(0, p), state, p)

    traces = jax.jit(step, static_argnums=0).trace
    p = params()
    traces(tx, p, tx.init(p))
    traces(copy.deepcopy(tx), p, tx.init(p))
    assert len(traced) == 1


@each
def test_maps_over_slots_with_optax(tx, lenient):
    """`optax.tree_map_params` finds the slots, and nothing else: they are marked, counts stay."""
    p = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    state = tx.init(p)
    is_masked = lambda x: isinstance(x, optax.MaskedNode)
    mapped = optax.tree_map_params(
        tx, lambda x: x if is_masked(x) else jnp.full_like(x, 3), state, is_leaf=is_masked
    )
    assert aval(mapped) == aval(state)
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(mapped), strict=True)
    changed = [bool(jnp.all(before != after)) for before, after in pairs]
    assert sum(changed) == len(changed) - len(jax.tree.leaves(tx.init({})))


@each_of_ours
def test_complex_parameters(tx, together, lenient):
    """A complex parameter moves; the state keeps its type."""
    p = {"z": jnp.array([[1 + 2j, 3 - 1j]])}
    g = {"z": jnp.array([[0.3 - 0.4j, 1j]])}

    def run(tx, p, g):
        before = tx.init(p)
        u, after = tx.update(g, before, p)
        assert aval(after) == aval(before)
        return u

    if "bfloat16" in repr(tx):
        with pytest.raises(TypeError, match=r"complex64 cannot be stored in bfloat16"):
            tx.init(p)
        return
    if re.search(r"\b(clip|keep_params_nonnegative)\(", repr(tx)):
        with pytest.raises(TypeError, match="complex numbers have no order"):
            jax.eval_shape(run, tx, p, g)
        return
    u = together(run, p, g)
    assert u["z"].dtype == jnp.complex64
    assert jnp.all(jnp.isfinite(u["z"]))


def test_adam_treats_a_complex_parameter_by_its_modulus(lenient):
    tx = gx.scale_by_adam()
    z = jnp.array([3 + 4j])
    u, state = tx.update(z, tx.init(z))
    np.testing.assert_allclose(u, z / 5, rtol=1e-5)
    np.testing.assert_allclose(state.nu, [0.025], rtol=1e-5)
    assert state.nu.dtype == jnp.float32


def close(a, b):
    plain = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    jax.tree.map(lambda x, y: np.testing.assert_allclose(plain(x), plain(y), rtol=1e-4, atol=1e-6), a, b)


def test_exemptions_are_of_tests_that_exist():
    names = {
        n
        for f in pathlib.Path(__file__).parent.rglob("test_*.py")
        for n in re.findall(r"def (test_\w+)", f.read_text())
    }
    for case in CASES:
        assert set(case.exempt) <= names, case
        assert all(len(reason) > 20 for reason in case.exempt.values())
