"""Slots by name: which there are, in every state there is; get, set and reset."""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gradx as gx
from gradx.states.entries import entries, full_names
from tests.problems import aval, params
from tests.test_contract import ALL

MODEL = {"dense": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}, "out": {"kernel": jnp.ones((4, 2))}}
PATHS = ["dense/bias", "dense/kernel", "out/kernel"]
RATE = gx.cosine_decay_schedule(0.1, 10)
ADAMW = gx.adamw(RATE)
MOMENTUM = gx.sgd(0.1, momentum=0.9)


def of_groups():
    labels = {"dense": "body", "out": "head"}  # a prefix: what is masked out is a branch
    return optax.partition({"body": optax.adam(0.1), "head": gx.sgd(0.1, momentum=0.9)}, labels)


def after_a_step(tx, p=MODEL):
    return tx.update(jax.tree.map(jnp.ones_like, p), tx.init(p), p)[1]


STATES = [
    (ADAMW, {"mu": 3, "nu": 3}, {"ScaleByAdam/count", "ScaleBySchedule/count"}),
    (gx.chain(gx.clip(1.0), ADAMW), {"mu": 3, "nu": 3}, {"ScaleByAdam/count", "ScaleBySchedule/count"}),
    (optax.adamw(0.1), {"mu": 3, "nu": 3}, {"count"}),
    (gx.chain(gx.trace(0.9), gx.trace(0.9)), {"trace[0]": 3, "trace[1]": 3}, set()),
    (gx.named_chain(("slow", MOMENTUM), ("fast", MOMENTUM)), {"slow/trace": 3, "fast/trace": 3}, set()),
    (gx.chain(gx.trace(0.9), gx.ema(0.9)), {"trace": 3, "ema": 3}, {"count"}),
    (gx.adafactor(0.1, 4), {"v_row": 3, "v_col": 3, "v": 3}, {"count"}),
    (gx.sm3(0.1), {"mu/0": 3, "mu/1": 2, "nu": 3}, set()),
    (gx.lookahead(MOMENTUM), {"slow_params": 3, "trace": 3}, {"count"}),
    (gx.masked(gx.scale_by_adam(), "matrices_only"), {"mu": 2, "nu": 2}, {"count"}),
    (of_groups(), {"mu": 2, "nu": 2, "trace": 1}, {"count"}),
    (optax.MultiSteps(MOMENTUM, 4), {"trace": 3, "acc_grads": 3}, {"mini_step", "gradient_step"}),
    (
        gx.scale_by_lbfgs(5),
        dict.fromkeys(["params", "updates", "diff_params_memory", "diff_updates_memory"], 3),
        {"count", "weights_memory"},
    ),
    (
        gx.inject_hyperparams(gx.sgd)(0.1, momentum=0.9),
        {"trace": 3},
        {"count", "hyperparams/learning_rate", "hyperparams/momentum"},
    ),
    (gx.nadam(0.1, momentum_decay=0.1), {"mu": 3, "nu": 3}, {"count", "weights/momentum"}),
]


def label(tx):
    return repr(tx) if isinstance(tx, gx.GradientTransformation) else type(tx).__name__


@pytest.mark.parametrize(("tx", "named", "scalars"), STATES, ids=[label(tx) for tx, _, _ in STATES])
def test_names_and_paths(tx, named, scalars, lenient):
    found = gx.slots(tx.init(MODEL), MODEL, scalars=True)
    assert collections.Counter(s.name for s in found if s.path is not None) == named
    assert {s.name for s in found if s.path is None} == scalars
    assert {s.path for s in found} <= {None, *PATHS}
    own = [(s.name, s.path) for s in gx.slots(tx.init(MODEL), MODEL)]
    assert own == [(s.name, s.path) for s in found if s.path is not None]


@pytest.mark.parametrize("tx", ALL, ids=repr)
def test_every_array_of_every_state_has_one_name(tx, lenient):
    """In order, so that nothing is left out; and the arrays of the shape of a parameter are its slots."""
    p = params()
    state = jax.eval_shape(tx.init, p)
    found = entries(state, p)
    assert [id(e.array) for e in found] == [id(x) for x in jax.tree.leaves(state)]
    names = [(name, e.path) for name, e in zip(full_names(found), found, strict=True)]
    assert len(set(names)) == len(names)
    if "packed(" in repr(tx):
        return
    short = [(name, path) for name, path, _ in gx.slots(state, p, scalars=True)]
    assert len(set(short)) == len(short)
    shapes = {"w": (3, 4), "b": (4,), "layers/0": ()}
    for name, path, array in gx.slots(state, p, scalars=True):
        assert path is not None or array.shape not in {(3, 4), (4,)}, name
        assert path is None or path in shapes


@pytest.mark.parametrize(
    "p",
    [jnp.ones((2, 3)), (jnp.ones((2, 3)), jnp.ones(3)), [jnp.ones((2, 3))], jnp.ones(())],
    ids=["matrix", "tuple", "list", "scalar"],
)
def test_parameters_that_are_a_list_or_one_array(p):
    """Whose structure other parts of a state may have too."""
    state = gx.chain(gx.clip(1.0), gx.inject_hyperparams(gx.adamw)(RATE)).init(p)
    found = gx.slots(state, p, scalars=True)
    count = len(jax.tree.leaves(p))
    assert collections.Counter(s.name for s in found if s.path is not None) == {"mu": count, "nu": count}
    jax.tree.map(np.testing.assert_array_equal, gx.get_slot(state, p, "mu"), jax.tree.map(jnp.zeros_like, p))


def test_get_is_a_tree_like_the_parameters(lenient):
    p = params()  # with a None
    state = after_a_step(gx.masked(gx.scale_by_adam(), "matrices_only"), p)
    mu = gx.get_slot(state, p, "mu")
    assert mu.keys() == p.keys()
    assert mu["b"] == optax.MaskedNode()
    assert mu["layers"][1] is None
    np.testing.assert_allclose(mu["w"], 0.1 * np.ones((3, 4)), rtol=1e-6)
    merged = gx.get_slot(after_a_step(of_groups()), MODEL, "mu")
    assert merged["out"]["kernel"] == optax.MaskedNode()
    np.testing.assert_allclose(merged["dense"]["bias"], 0.1 * np.ones(4), rtol=1e-6)


def test_get_takes_the_end_of_a_name():
    state = gx.inject_hyperparams(gx.adamw)(0.1).init(MODEL)
    assert float(gx.get_slot(state, MODEL, "learning_rate")) == pytest.approx(0.1)


def test_set_changes_one_slot_and_nothing_else():
    state = after_a_step(ADAMW)
    mu = jax.tree.map(lambda p: np.full(p.shape, 2.0), MODEL)  # float64, and no array of JAX's
    new = gx.set_slot(state, MODEL, "mu", mu)
    assert aval(new) == aval(state)
    jax.tree.map(np.testing.assert_array_equal, gx.get_slot(new, MODEL, "mu"), mu)
    back = gx.set_slot(new, MODEL, "mu", gx.get_slot(state, MODEL, "mu"))
    jax.tree.map(np.testing.assert_array_equal, back, state)
    counted = gx.set_slot(state, MODEL, "ScaleBySchedule/count", 7)
    assert aval(counted) == aval(state)
    assert [int(s.array) for s in gx.slots(counted, MODEL, scalars=True) if s.path is None] == [1, 7]


def test_what_is_set_is_a_copy_and_may_be_donated():
    given = jax.tree.map(jnp.ones_like, MODEL)
    state = gx.set_slot(MOMENTUM.init(MODEL), MODEL, "trace", given)
    jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(state)
    assert not any(x.is_deleted() for x in jax.tree.leaves(given))


def test_set_in_groups_and_under_jit(lenient):
    tx = of_groups()
    halve = jax.jit(
        lambda s: gx.set_slot(s, MODEL, "mu", jax.tree.map(lambda x: x / 2, gx.get_slot(s, MODEL, "mu")))
    )
    state = after_a_step(tx)
    mu = gx.get_slot(halve(state), MODEL, "mu")
    np.testing.assert_allclose(mu["dense"]["bias"], 0.05 * np.ones(4), rtol=1e-6)


def test_reset_by_path_name_and_predicate():
    state = after_a_step(ADAMW)
    ones = lambda s, name: {
        x.path for x in gx.slots(s, MODEL, scalars=True) if x.name == name and np.any(x.array != 0)
    }
    head = gx.reset(ADAMW, state, MODEL, r"^out/")
    assert ones(head, "mu") == ones(head, "nu") == {"dense/bias", "dense/kernel"}
    assert ones(head, "ScaleByAdam/count") == {None}
    first = gx.reset(ADAMW, state, MODEL, lambda path, p: p.ndim == 1, names="mu")
    assert (ones(first, "mu"), ones(first, "nu")) == ({"dense/kernel", "out/kernel"}, set(PATHS))
    counted = gx.reset(ADAMW, state, MODEL, names=["mu", "ScaleByAdam/count"])
    assert (ones(counted, "mu"), ones(counted, "ScaleByAdam/count")) == (set(), set())
    assert ones(counted, "ScaleBySchedule/count") == {None}
    assert aval(head) == aval(first) == aval(counted) == aval(state)


def test_reset_goes_back_to_the_parameters_of_now():
    """Slots that start as copies, in a packed state and under jit."""
    tx = gx.packed(gx.lookahead(MOMENTUM))
    p = jax.tree.map(lambda x: 3 * x, MODEL)
    reset = jax.jit(lambda s, p: gx.reset(tx, s, p, "out", names="slow_params"))
    slow = gx.get_slot(gx.unpack_state(tx, reset(after_a_step(tx), p), MODEL), MODEL, "slow_params")
    np.testing.assert_array_equal(slow["out"]["kernel"], p["out"]["kernel"])
    np.testing.assert_array_equal(slow["dense"]["bias"], MODEL["dense"]["bias"])


def random_key_state():
    return gx.add_noise(0.1, 0.5, key=0).init(MODEL)


PACKED = gx.chain(gx.clip(1.0), gx.packed(ADAMW))
ERRORS = [
    (lambda s: gx.get_slot(s, MODEL, "nu_max"), KeyError, "no slot is named 'nu_max'; the state has ['Scale"),
    (lambda s: gx.get_slot(s, MODEL, "count"), ValueError, "'count' may be any of ['ScaleByAdam/count', 'Sc"),
    (
        lambda s: gx.set_slot(s, MODEL, "mu", {"dense": MODEL["dense"]}),
        ValueError,
        "the parameters and the value for mu have different structures: ['out'] is in the parameters",
    ),
    (
        lambda s: gx.set_slot(s, MODEL, "mu", jax.tree.map(lambda x: x[:1], MODEL)),
        ValueError,
        "set_slot: mu, at dense/bias, has shape (4,), and was given (1,)",
    ),
    (
        lambda s: gx.set_slot(s, MODEL, "mu", jax.tree.map(lambda x: x.astype(complex), MODEL)),
        TypeError,
        "set_slot: mu, at dense/bias, is float32, which cannot hold complex64",
    ),
    (
        lambda s: gx.set_slot(s, MODEL, "mu", {**MODEL, "out": {"kernel": None}}),
        ValueError,
        "set_slot: mu, at out/kernel, has no value",
    ),
    (
        lambda s: gx.set_slot(of_groups().init(MODEL), MODEL, "mu", MODEL),
        ValueError,
        "set_slot: mu, at out/kernel, has a value, and no such slot",
    ),
    (
        lambda s: gx.set_slot(s, MODEL, "ScaleByAdam/count", 1.5),
        TypeError,
        "set_slot: ScaleByAdam/count is int32, which cannot hold float64",
    ),
    (
        lambda s: gx.set_slot(random_key_state(), MODEL, "rng_key", 0),
        TypeError,
        "set_slot: rng_key is key<fry>, which cannot hold int64",
    ),
    (lambda s: gx.slots(PACKED.init(MODEL), MODEL), ValueError, "put packed around the whole transformation"),
    (
        lambda s: gx.reset(PACKED, PACKED.init(MODEL), MODEL, "out"),
        ValueError,
        "reset: a part of the state is packed",
    ),
    (lambda s: gx.reset(ADAMW, s, MODEL), TypeError, "to start all anew, call tx.init(params)"),
    (lambda s: gx.reset(ADAMW, s, MODEL, "x"), ValueError, "where='x' matches none of the parameters ['dens"),
    (lambda s: gx.reset(ADAMW, s, MODEL, names="x"), KeyError, "reset: no slot is named 'x'; the state has"),
    (
        lambda s: gx.reset(ADAMW, s, MODEL, "out", names="ScaleByAdam/count"),
        ValueError,
        "reset: no slot is named 'ScaleByAdam/count' where 'out' matches",
    ),
    (
        lambda s: gx.reset(MOMENTUM, s, MODEL, "out"),
        ValueError,
        "the state that init makes and the one given have different structures",
    ),
]


@pytest.mark.parametrize(("call", "error", "text"), ERRORS, ids=[text[:40] for _, _, text in ERRORS])
def test_errors(call, error, text):
    with pytest.raises(error, match=re.escape(text)):
        call(ADAMW.init(MODEL))


def test_the_slots_of_flax_nnx():
    """Whose parameters are boxes, and whose lists become states; `as_pure` opens those of an optimizer."""
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    p = nnx.state(model, nnx.Param)
    assert [(s.name, s.path) for s in gx.slots(gx.sm3(0.1).init(p), p)] == [
        ("mu/0", "bias"),
        ("mu/0", "kernel"),
        ("mu/1", "kernel"),
        ("nu", "bias"),
        ("nu", "kernel"),
    ]
    optimizer = nnx.Optimizer(model, gx.adam(0.1), wrt=nnx.Param)
    found = gx.slots(nnx.as_pure(optimizer.opt_state), nnx.as_pure(p))
    assert [(s.name, s.path) for s in found] == [(n, q) for n in ("mu", "nu") for q in ("bias", "kernel")]
