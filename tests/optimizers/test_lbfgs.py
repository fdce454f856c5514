"""L-BFGS: the secant equation, the guard, and the same path as Optax where nothing is guarded."""

import inspect
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gradx as gx
from tests.problems import aval

SCALES = jnp.array([1.0, 3.0, 10.0, 0.5])


def quadratic(p):
    return 0.5 * jnp.sum(SCALES.astype(p["w"].dtype) * (p["w"] - 1) ** 2) + jnp.sum(p["b"] ** 2)


START = {"w": jnp.zeros(4), "b": jnp.array([2.0, -1.0])}


def path(tx, p, loss, steps, **arguments):
    state, seen = tx.init(p), []
    update = jax.jit(lambda p, s: with_search(tx, loss, p, s) if arguments else plain(tx, loss, p, s))
    for _ in range(steps):
        p, state = update(p, state)
        seen.append(p)
    return seen, state


def plain(tx, loss, p, state):
    u, state = tx.update(jax.grad(loss)(p), state, p)
    return gx.apply_updates(p, u), state


def with_search(tx, loss, p, state):
    value, grad = jax.value_and_grad(loss)(p)
    u, state = tx.update(grad, state, p, value=value, grad=grad, value_fn=loss)
    return gx.apply_updates(p, u), state


@pytest.mark.parametrize("scaled", [True, False])
def test_follows_optax_without_a_line_search(scaled, x64, lenient):
    p = jax.tree.map(lambda x: x.astype(jnp.float64), START)
    ours, _ = path(gx.lbfgs(0.3, 3, scaled, None), p, quadratic, 12)
    theirs, _ = path(optax.lbfgs(0.3, 3, scaled, None), p, quadratic, 12)
    for x, y in zip(ours, theirs, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10), x, y)


def test_follows_optax_with_a_line_search(x64, lenient):
    p = jax.tree.map(lambda x: x.astype(jnp.float64), START)
    ours, _ = path(gx.lbfgs(), p, quadratic, 20, search=True)
    theirs, _ = path(optax.lbfgs(), p, quadratic, 20, search=True)
    for x, y in zip(ours, theirs, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-9), x, y)
    assert quadratic(ours[-1]) < 1e-6


def test_exchanges_states_with_optax(lenient):
    ours, theirs = gx.lbfgs(0.3, 3, linesearch=None), optax.lbfgs(0.3, 3, linesearch=None)
    p, pure, mixed = START, theirs.init(START), theirs.init(START)
    assert jax.tree.structure(ours.init(p)) == jax.tree.structure(pure)
    for i in range(6):
        g = jax.grad(quadratic)(p)
        u, mixed = (ours if i % 2 else theirs).update(g, mixed, p)
        v, pure = theirs.update(g, pure, p)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), u, v)
        p = gx.apply_updates(p, v)


def test_has_the_arguments_of_optax_first():
    for name in ("lbfgs", "scale_by_lbfgs", "scale_by_zoom_linesearch", "scale_by_backtracking_linesearch"):
        ours, theirs = (
            [(p.name, p.default) for p in inspect.signature(getattr(m, name)).parameters.values()]
            for m in (gx, optax)
        )
        same = [a for a in zip(ours, theirs, strict=False) if a[0][0] != "linesearch"]  # ours knows equality
        assert all(a == b for a, b in same), name
        assert [a for a, _ in ours[: len(theirs)]] == [a for a, _ in theirs]


def test_the_newest_pair_is_met_exactly(x64):
    """The secant equation: H y = s for the newest pair."""
    tx = gx.scale_by_lbfgs(5)
    rng = np.random.default_rng(0)
    hessian = jnp.diag(jnp.arange(1.0, 7.0))
    p = jnp.zeros(6)
    state = tx.init(p)
    for _ in range(8):
        q = p + jnp.asarray(rng.standard_normal(6))
        _, state = tx.update(hessian @ p, state, p)
        _, after = tx.update(hessian @ q, state, q)
        y = hessian @ (q - p)
        # The direction for a gradient y at the same point: no new pair comes in, as s is 0.
        u, _ = tx.update(y, after._replace(updates=y), q)
        np.testing.assert_allclose(u, q - p, rtol=1e-9, atol=1e-9)
        state, p = after, q
        _, state = tx.update(hessian @ p, state, p)


def test_pairs_of_bad_curvature_are_left_out(lenient):
    """Negative, zero or NaN: the direction is that of the pairs before, downhill."""
    tx = gx.scale_by_lbfgs(3)
    p, g = jnp.array([1.0, 1.0]), jnp.array([1.0, 4.0])
    state = tx.init(p)
    _, state = tx.update(g, state, p)
    good, state = tx.update(0.5 * g, state, 0.5 * p)
    for bad in (jnp.array([0.6, 2.4]), 0.5 * g, jnp.array([jnp.nan, 1.0])):
        _, after = tx.update(bad, state, 0.25 * p)
        assert after.weights_memory[1] == 0
        assert not jnp.any(after.diff_updates_memory[1])
        u, _ = tx.update(0.5 * g, after, 0.25 * p)
        np.testing.assert_allclose(u, good, rtol=1e-5)
        assert jnp.vdot(u, g) > 0


def test_a_pair_needs_more_than_the_least_curvature():
    """s·y is half of ‖s‖‖y‖, to the last bit: too little for 0.5, and enough for any less."""
    p, g, y = jnp.zeros(4), jnp.ones(4), jnp.ones(4)
    for least, kept in ((0.5, 0.0), (0.4999, 1.0)):
        tx = gx.scale_by_lbfgs(3, min_curvature=least)
        _, state = tx.update(g, tx.init(p), p)
        _, state = tx.update(g + y, state, p.at[0].set(1.0))
        assert state.weights_memory[0] == kept


def test_after_memory_size_bad_pairs_it_starts_anew():
    tx = gx.scale_by_lbfgs(2)
    p, g = jnp.array([1.0, 1.0]), jnp.array([3.0, 4.0])
    state = tx.init(p)
    for i in range(3):
        _, state = tx.update(g * (1 - 0.1 * i), state, p * (1 + 0.1 * i))
    u, _ = tx.update(g, state, p * 1.2)
    np.testing.assert_allclose(u, g / 5, rtol=1e-6)


def test_the_memory_is_sharded_like_its_parameter():
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    p = jax.device_put(jnp.ones((4, 3)), NamedSharding(mesh, PartitionSpec("data")))
    tx = gx.scale_by_lbfgs(2)
    state = tx.init(p)
    _, after = jax.jit(tx.update)(p, state, p)
    expected = NamedSharding(mesh, PartitionSpec(None, "data"))
    for s in (state, after):
        assert s.diff_params_memory.sharding.is_equivalent_to(expected, 3)
        assert s.diff_updates_memory.sharding.is_equivalent_to(expected, 3)


def test_the_state_does_not_hold_the_arrays_of_the_caller():
    tx = gx.scale_by_lbfgs(2)
    p, g = jnp.ones(3), jnp.ones(3)
    _, state = tx.update(g, tx.init(p), p)
    theirs = {p.unsafe_buffer_pointer(), g.unsafe_buffer_pointer()}
    assert not theirs & {x.unsafe_buffer_pointer() for x in jax.tree.leaves(state)}


@pytest.mark.parametrize(
    "tx",
    [gx.lbfgs(), gx.lbfgs(memory_size=3), gx.lbfgs(linesearch=gx.scale_by_backtracking_linesearch(10))],
    ids=repr,
)
def test_compares_prints_and_pickles(tx):
    again = pickle.loads(pickle.dumps(tx))
    assert again == tx
    assert eval(repr(tx), vars(gx)) == tx
    assert repr(gx.lbfgs()) == "lbfgs()"
    state = tx.init(START)
    _, after = jax.jit(lambda p, s: with_search(tx, quadratic, p, s))(START, state)
    assert aval(after) == aval(state)


def test_says_what_is_wrong():
    with pytest.raises(ValueError, match="memory_size must be an integer of at least 1, got 0"):
        gx.lbfgs(memory_size=0)
    with pytest.raises(ValueError, match="min_curvature must be at least 0 and less than 1"):
        gx.lbfgs(min_curvature=1.0)
    tx = gx.scale_by_lbfgs()
    with pytest.raises(ValueError, match="scale_by_lbfgs needs the parameters"):
        tx.update(START, tx.init(START))
    with pytest.raises(TypeError, match="scale_by_lbfgs needs a ScaleByLBFGSState"):
        tx.update(START, gx.EmptyState(), START)


def test_goes_on_from_a_state_of_numpy_arrays():
    """As a checkpoint restores it; outside of jit too."""
    tx, p = gx.lbfgs(0.1, linesearch=None), jnp.array([1.0, -2.0])
    _, state = tx.update(p, tx.init(p), p)
    want, _ = tx.update(0.9 * p, state, 0.9 * p)
    got, _ = tx.update(0.9 * p, jax.tree.map(np.asarray, state), 0.9 * p)
    np.testing.assert_array_equal(got, want)


def test_a_step_without_curvature_has_a_derivative():
    """Of parameters that stand still, between equal gradients."""
    tx, p = gx.scale_by_lbfgs(), jnp.array([1.0, 2.0])

    def length(g):
        state = tx.init(p)
        for _ in range(3):
            u, state = tx.update(g, state, p)
        return jnp.sum(u * u)

    assert jnp.all(jnp.isfinite(jax.grad(length)(jnp.array([3.0, 4.0]))))
