"""Stored slots in all that looks into states, keeps them and carries them over."""

import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx
from tests.low_precision.problem import MODEL, TARGET, same, start, trained
from tests.problems import aval

ADAMW = gx.adamw(0.1)
EIGHT, HALF = gx.Blockwise(rounding="nearest"), gx.Rounded()
STORED = gx.store(ADAMW, EIGHT)
FORMATS = [STORED, gx.store(ADAMW, HALF, seed=0), gx.store(ADAMW, gx.Blockwise(4), seed=0)]
each = pytest.mark.parametrize("tx", [pytest.param(STORED, marks=pytest.mark.slow), *FORMATS[1:]], ids=repr)


def test_names_are_those_of_the_arrays():
    found = gx.slots(jax.eval_shape(STORED.init, MODEL), MODEL)
    at_matrix = {s.name: (s.array.dtype.name, s.array.shape) for s in found if s.path == "matrix"}
    assert at_matrix == {
        "mu/codes": ("int8", (64, 128)),
        "mu/scales": ("float32", (64, 1)),
        "nu/codes": ("uint8", (64, 128)),
        "nu/scales": ("float32", (64, 1)),
    }
    assert {s.name for s in found if s.path == "vector"} == {"mu", "nu"}


@each
def test_get_decodes_and_set_encodes(tx):
    p, state = trained(tx, 3)
    nu = gx.get_slot(state, p, "nu")
    assert aval(nu) == aval(p)
    same(nu, gx.decode_state(state.inner_state)[0].nu)
    same(gx.set_slot(state, p, "nu", nu), state)
    halved = gx.set_slot(state, p, "nu", jax.tree.map(lambda x: x / 2, nu))
    assert aval(halved) == aval(state)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(2 * x, y), gx.get_slot(halved, p, "nu"), nu)
    with pytest.raises(
        ValueError, match=r"set_slot: nu, at matrix, has shape \(64, 128\), and was given \(3,\)"
    ):
        gx.set_slot(state, p, "nu", {**nu, "matrix": jnp.ones(3)})


@each
def test_reset_starts_some_anew(tx):
    p, state = trained(tx, 3)
    state = gx.reset(tx, state, p, "^matrix", names="mu")
    assert not jnp.any(gx.get_slot(state, p, "mu")["matrix"])
    assert jnp.any(gx.get_slot(state, p, "nu")["matrix"])
    assert jnp.any(gx.get_slot(state, p, "mu")["vector"])
    assert aval(state) == aval(tx.init(p))


def test_the_summary_has_bytes_and_format():
    table = str(gx.summarize(gx.store(ADAMW, {"nu": gx.Blockwise()}, seed=0), {"w": MODEL["matrix"]}))
    assert table.splitlines() == [
        "slot       dtype    format       arrays   bytes  B/parameter",
        "steps      int32                      1       4         0.00",
        "count      int32                      1       4         0.00",
        "mu         float32                    1  32,768         4.00",
        "nu/codes   uint8    Blockwise()       1   8,192         1.00",
        "nu/scales  float32  Blockwise()       1     256         0.03",
        "total                                 5  41,224         5.03",
    ]


def test_explain_lists_it_before_what_it_holds():
    assert str(
        gx.explain(gx.store(gx.trace(0.9), gx.Blockwise(), seed=0), {"w": MODEL["matrix"]})
    ).splitlines() == [
        "parameter  shape      dtype    link   hyperparameters",
        "w          (64, 128)  float32  store  codecs=Blockwise(), min_size=4096, seed=0",
        "                               trace  decay=0.9",
    ]


@each
def test_a_checkpoint_restores_every_bit(tx, tmp_path):
    p, state = trained(tx, 2)
    gx.save_checkpoint(tmp_path, 2, p, state)
    found = gx.restore_checkpoint(tmp_path, tx, p)
    same((found.params, found.state), (p, state))
    same(trained(tx, 1, *found[1:3]), trained(tx, 1, p, state))
    same(pickle.loads(pickle.dumps(state)), state)


def test_a_checkpoint_in_another_format_is_refused_by_both_names(tmp_path):
    p = {"w": TARGET["matrix"]}
    gx.save_checkpoint(tmp_path, 1, p, STORED.init(p))
    dynamic = gx.Blockwise(map="dynamic")
    text = f"(int8[64, 128] of {EIGHT!r} in it, int8[64, 128] of {dynamic!r} asked for)"
    with pytest.raises(ValueError, match=re.escape(f"different: state/ScaleByAdam/mu/codes/w {text}")):
        gx.restore_checkpoint(tmp_path, gx.store(ADAMW, dynamic, seed=0), p)
    with pytest.raises(
        ValueError, match=r"missing from it: state/ScaleByAdam/mu/w, .*use migrate for another"
    ):
        gx.restore_checkpoint(tmp_path, ADAMW, p)


def test_a_checkpoint_goes_onto_the_shardings_of_abstract_parameters(tmp_path):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    p = {"w": TARGET["matrix"]}
    tx = gx.store(ADAMW, gx.Blockwise(4), seed=0)
    gx.save_checkpoint(tmp_path, 1, p, tx.init(p))
    like = {"w": jax.ShapeDtypeStruct((64, 128), jnp.float32, sharding=sharding)}
    for name, _, x in gx.slots(gx.restore_checkpoint(tmp_path, tx, like).state, p):
        assert x.sharding.is_equivalent_to(sharding, 2), name


@each
def test_a_run_goes_on_with_fewer_bits_and_back(tx):
    p, state = trained(ADAMW, 3)
    there = gx.migrate(state, ADAMW, tx, p)
    assert aval(there.state) == aval(tx.init(p))
    assert not there.dropped
    assert there.new == [("steps", None)]
    assert int(there.state.inner_state[0].count) == 3
    nu = gx.get_slot(there.state, p, "nu")
    expected = state[0].nu["matrix"]  # 4 bits have a range of 15 octaves
    np.testing.assert_allclose(nu["matrix"], expected, rtol=0.5, atol=2e-3 * jnp.max(expected))
    same(nu["vector"], state[0].nu["vector"])
    back = gx.migrate(there.state, tx, ADAMW, p)
    same(back.state, gx.decode_state(there.state.inner_state))
    same(gx.migrate(back.state, ADAMW, tx, p).state, there.state)
    same(gx.migrate(there.state, tx, tx, p).state, there.state)


def test_from_one_format_to_another():
    p, state = trained(STORED, 3)
    moved = gx.migrate(state, STORED, FORMATS[1], p).state
    assert aval(moved) == aval(FORMATS[1].init(p))
    expected = state.inner_state[0].mu["matrix"].decode().astype(jnp.bfloat16)
    same(moved.inner_state[0].mu["matrix"].arrays["codes"], expected)


def test_stored_averages_are_evaluated():
    chain = gx.chain(gx.sgd(0.1), gx.ema_params(0.5))
    tx = gx.store(chain, {"average": EIGHT})
    p, state = trained(tx, 3)
    q, plain = trained(chain, 3)
    found, expected = gx.eval_params(state, p), gx.eval_params(plain, q)
    assert aval(found) == aval(p)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0.05, atol=1e-4), found, expected)


def test_states_of_torch_are_encoded():
    moments = {"step": 3.0, "exp_avg": np.asarray(TARGET["matrix"]), "exp_avg_sq": np.ones((64, 128))}
    saved = {"state": {0: moments}, "param_groups": [{"params": [0]}]}
    p = {"w": jnp.zeros((64, 128))}
    state = gx.import_torch_state(STORED, p, saved)
    assert aval(state) == aval(STORED.init(p))
    assert jnp.all(gx.get_slot(state, p, "nu")["w"] == 1)
    fresh = STORED.init(p).inner_state[0].mu["w"]
    same(state.inner_state[0].mu["w"], fresh.encode(TARGET["matrix"]))


def test_around_and_inside_of_packed():
    for tx in (gx.packed(STORED), gx.store(gx.packed(ADAMW), EIGHT)):
        p, state = trained(tx, 3)
        q, _ = trained(STORED, 3)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), p, q)
        assert aval(state) == aval(tx.init(start()))
    packed = gx.packed(STORED)
    p, state = trained(packed, 3)
    plain = gx.unpack_state(packed, state, p)
    assert aval(plain) == aval(STORED.init(p))
    same(gx.pack_state(packed, plain, p), state)
    same(gx.migrate(plain, STORED, packed, p).state, state)
