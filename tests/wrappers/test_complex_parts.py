"""Two real numbers for each complex one: the same optimizer on the parts, with complex slots."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gradx as gx
from gradx.core.display import text
from tests.problems import aval, complex_params, grads, params

P = complex_params()
ADAMW = gx.adamw(0.1, weight_decay=0.1)


def parts(tree):
    """Each complex array as a dict of its parts, in a tree that has no complex numbers."""
    two = lambda x: {"re": x.real, "im": x.imag} if jnp.iscomplexobj(x) else x
    return jax.tree.map(two, tree)


def run(tx, p, turn=lambda g: g, like=P):
    state, update = tx.init(p), jax.jit(tx.update)
    for i in range(5):
        u, state = update(turn(grads(i, like)), state, p)
        p = gx.apply_updates(p, u)
    return p, state


def assert_of_the_parts(tx, split=None, p=P):
    """A run on complex numbers is one on their parts."""
    ours, _ = run(gx.split_real_and_imaginary(tx) if split is None else split, p)
    theirs, _ = run(tx, parts(p), parts)
    for x, y in zip(jax.tree.leaves(parts(ours)), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "tx",
    [
        ADAMW,
        gx.chain(gx.clip(0.5), gx.sgd(0.1, momentum=0.9)),  # which refuses complex numbers
        gx.rprop(0.1),  # likewise
        gx.lamb(0.1, weight_decay=0.1),  # a trust ratio for each part
        gx.chain(gx.clip_by_global_norm(1.0), gx.adabelief(0.1)),
        gx.lookahead(gx.sgd(0.1), 2),
        gx.packed(ADAMW),
        optax.adamw(0.1, weight_decay=0.1),
    ],
    ids=text,
)
def test_gives_the_numbers_of_the_parts(tx, lenient):
    assert_of_the_parts(tx)


def test_gives_the_numbers_of_optax(lenient, x64):
    p = complex_params("complex128")
    ours, _ = run(gx.split_real_and_imaginary(gx.adam(0.1)), p, like=p)
    theirs, _ = run(optax.contrib.split_real_and_imaginary(optax.adam(0.1)), p, like=p)
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12)


def test_both_parts_of_the_first_step_of_adam_are_the_rate():
    """netket #1009: by |g|² the second is 30 times smaller."""
    p, g = {"z": jnp.array([1 + 1j])}, {"z": jnp.array([3 + 0.1j])}
    tx = gx.split_real_and_imaginary(gx.adam(0.1))
    u, _ = tx.update(g, tx.init(p))
    np.testing.assert_allclose(u["z"], [-0.1 - 0.1j], rtol=1e-5)


def test_the_state_is_the_inner_one_with_complex_slots():
    tx = gx.split_real_and_imaginary(ADAMW)
    _, state = run(tx, P)
    assert aval(state) == aval(tx.init(P))
    assert jax.tree.structure(state) == jax.tree.structure(ADAMW.init(P))
    for name in ("mu", "nu"):
        assert aval(gx.get_slot(state, P, name)) == aval(P)
    assert np.all(gx.get_slot(state, P, "nu")["z"].imag > 0)
    doubled = gx.set_slot(state, P, "nu", jax.tree.map(lambda x: 2 * x, gx.get_slot(state, P, "nu")))
    np.testing.assert_array_equal(doubled[0].nu["z"], 2 * state[0].nu["z"])
    assert [s.name for s in gx.slots(state, P)] == ["mu"] * 3 + ["nu"] * 3


def test_without_a_complex_leaf_nothing_changes():
    """The same state and the same program."""
    tx, p = gx.split_real_and_imaginary(ADAMW), params()
    assert aval(tx.init(p)) == aval(ADAMW.init(p))
    program = lambda tx: str(jax.make_jaxpr(tx.update)(grads(0, p), tx.init(p), p))
    assert program(tx) == program(ADAMW)


def test_a_real_leaf_beside_complex_ones_is_left_alone():
    """Its numbers are those of a tree without them, bit by bit."""
    ours, state = run(gx.split_real_and_imaginary(ADAMW), P)
    alone, other = run(ADAMW, {"b": P["b"]}, lambda g: {"b": g["b"]})
    np.testing.assert_array_equal(ours["b"], alone["b"])
    np.testing.assert_array_equal(state[0].nu["b"], other[0].nu["b"])
    assert state[0].nu["b"].dtype == jnp.float32


def test_slots_that_no_complex_array_holds_stay_apart(lenient):
    tx = gx.split_real_and_imaginary(gx.adam(0.1, mu_dtype=jnp.bfloat16))
    _, state = run(tx, P)
    assert aval(state) == aval(tx.init(P))
    names = [s.name for s in gx.slots(state, P) if s.path == "z"]
    assert names == ["mu/real part", "mu/imaginary part", "nu"]
    assert_of_the_parts(gx.adam(0.1, mu_dtype=jnp.bfloat16), tx)


def test_a_masked_slot_is_missing():
    """Patterns are of the parameter's path, a tree of bools is one like the parameters."""
    tx = gx.split_real_and_imaginary(gx.groups(gx.adam(0.1), {"^z$": gx.frozen()}))
    ours, state = run(tx, P)
    np.testing.assert_array_equal(ours["z"], P["z"])
    assert isinstance(gx.get_slot(state, P, "mu")["z"], gx.MaskedNode)
    tx = gx.split_real_and_imaginary(gx.masked(gx.adam(0.1), {"z": False, "b": True, "layers": [True, None]}))
    _, state = run(tx, P)
    assert isinstance(gx.get_slot(state, P, "mu")["z"], gx.MaskedNode)
    assert gx.get_slot(state, P, "mu")["layers"][0].dtype == jnp.complex64


def test_stacked_layers_are_those_of_the_parameter():
    """Each row and each part has a trust ratio of its own."""
    p, g = {"z": P["z"]}, {"z": grads(0, P)["z"]}
    tx = gx.stacked(gx.split_real_and_imaginary(gx.scale_by_trust_ratio()), {"^z$": 0})
    u, _ = tx.update(g, tx.init(p), p)
    for part in (jnp.real, jnp.imag):
        x, y = part(p["z"]), part(g["z"])
        ratio = np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
        np.testing.assert_allclose(part(u["z"]), y * ratio[:, None], rtol=1e-5)


def test_slots_are_sharded_as_their_parameter_is():
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    p, place = {"z": P["z"]}, NamedSharding(mesh, PartitionSpec(None, "data"))
    parted = gx.state_sharding(gx.split_real_and_imaginary(ADAMW), p, place)
    assert parted[0].nu["z"].spec == place.spec


def test_a_real_gradient_of_a_complex_parameter():
    """Its imaginary part is 0."""
    p, g = {"z": P["z"]}, {"z": jnp.ones((3, 4))}
    tx = gx.split_real_and_imaginary(gx.adam(0.1))
    u, state = tx.update(g, tx.init(p), p)
    np.testing.assert_allclose(u["z"], jnp.full((3, 4), -0.1 + 0j), rtol=1e-5)
    assert aval(state) == aval(tx.init(p))


def test_errors_say_where():
    tx = gx.split_real_and_imaginary(gx.adam(0.1))
    real, mixed = {"z": jnp.ones(2)}, {"z": jnp.ones(2, jnp.complex64)}
    text = "the update at ['z'] is complex, and its parameter is real"
    with pytest.raises(TypeError, match=re.escape(text)):
        tx.update(mixed, tx.init(real), real)
    with pytest.raises(ValueError, match="Was the state made by this transformation's init"):
        tx.update(mixed, tx.init(real))
    tx, other = gx.split_real_and_imaginary(ADAMW), {"z": jnp.ones(3, jnp.complex64)}
    with pytest.raises(ValueError, match=re.escape("at ['z'].real part: the update has shape (2,), its ")):
        tx.update(mixed, tx.init(mixed), other)
    with pytest.raises(TypeError, match="the inner transformation of split_real_and_imaginary is not"):
        gx.split_real_and_imaginary(gx.adam)


@pytest.mark.slow
def test_a_line_search_sees_complex_parameters():
    """L-BFGS finds the least of |z - c|² + |z|⁴ in 2 n real numbers."""
    c = jnp.array([1 + 2j, -0.5j])
    loss = lambda p: jnp.sum(jnp.abs(p["z"] - c) ** 2) + jnp.sum(jnp.abs(p["z"]) ** 4)
    tx, p = gx.split_real_and_imaginary(gx.lbfgs()), {"z": jnp.ones(2, jnp.complex64)}
    state = tx.init(p)
    for _ in range(12):
        value, g = jax.value_and_grad(loss)(p)
        g = jax.tree.map(jnp.conj, g)
        u, state = tx.update(g, state, p, value=value, grad=g, value_fn=loss)
        p = gx.apply_updates(p, u)
    np.testing.assert_allclose(jax.grad(loss)(p)["z"], 0, atol=1e-4)
