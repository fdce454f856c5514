"""What is saved is restored bit by bit; what does not fit is refused by name; a save is all or nothing."""

import builtins
import os
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gradx as gx
from tests.problems import aval, grads, params
from tests.states.filled import filled

MODEL = {"w": jnp.linspace(-1.0, 1.0, 12, dtype=jnp.bfloat16).reshape(4, 3), "b": jnp.ones(4), "none": None}
RATE = gx.cosine_decay_schedule(0.1, 10)
TX = gx.chain(gx.add_noise(0.1, 0.5, key=0), gx.adamw(RATE), gx.master_weights())


def trained(tx=TX, p=MODEL, step=3):
    return filled(p), filled(tx.init(p), step)


def bits(tree):
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in jax.tree.leaves(tree)]


def assert_same(a, b):
    assert aval(a) == aval(b)
    for x, y in zip(bits(a), bits(b), strict=True):
        np.testing.assert_array_equal(x, y)


TXS = [
    TX,
    gx.adafactor(0.1, 2, momentum=0.9),
    gx.sm3(0.1),
    gx.lookahead(gx.nadam(0.1, momentum_decay=0.1)),
    gx.chain(gx.trace(0.9), gx.trace(0.9)),
    gx.chain(gx.clip(1.0), gx.packed(gx.adamw(RATE))),
    gx.named_chain(("a", gx.sgd(0.1)), ("b", gx.masked(gx.adam(0.1), "matrices_only"))),
    gx.inject_hyperparams(gx.adamw)(RATE, mask=gx.matrices_only),
]


@pytest.mark.parametrize("tx", TXS, ids=repr)
def test_restores_every_bit(tx, tmp_path):
    p, state = trained(tx)
    gx.save_checkpoint(tmp_path, 2, p, state)
    found = gx.restore_checkpoint(str(tmp_path), tx, jax.tree.map(jnp.zeros_like, p))
    assert found.step == gx.latest_checkpoint(tmp_path) == 2
    assert_same((found.params, found.state), (p, state))
    assert found.extra is None


def test_restores_an_optax_state(tmp_path, lenient):
    tx = optax.MultiSteps(optax.chain(optax.clip(1.0), optax.adamw(0.1)), 4)
    p, state = trained(tx)
    gx.save_checkpoint(tmp_path, 2, p, state)
    assert_same(gx.restore_checkpoint(tmp_path, tx, p).state, state)


def test_what_is_restored_can_be_donated(tmp_path):
    tx = gx.chain(gx.adamw(RATE), gx.master_weights())
    gx.save_checkpoint(tmp_path, 0, *trained(tx))
    _, p, state, _ = gx.restore_checkpoint(tmp_path, tx, MODEL)
    leaves = jax.tree.leaves((p, state))
    assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)

    def step(p, state, g):
        updates, state = tx.update(g, state, p)
        return gx.apply_updates(p, updates), state

    expected = jax.jit(step)(*trained(tx), grads(2, MODEL))
    assert_same(jax.jit(step, donate_argnums=(0, 1))(p, state, grads(2, MODEL)), expected)
    assert all(x.is_deleted() for x in leaves)


def test_restores_onto_the_shardings_of_the_parameters(tmp_path):
    """Given as arrays or as shapes; factored slots go by what `init` gives."""
    tx = gx.chain(gx.adamw(RATE), gx.master_weights(), gx.adafactor(0.1, 2))
    p, state = trained(tx)
    gx.save_checkpoint(tmp_path, 2, p, state)
    rows = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("data",)), PartitionSpec("data"))
    like = {**jax.device_put({"w": p["w"], "b": p["b"]}, rows), "none": None}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    for given in (like, shapes):
        found = gx.restore_checkpoint(tmp_path, tx, given)
        assert_same((found.params, found.state), (p, state))
        split = [x.array for x in gx.slots(found.state, p) if x.array.shape == p[x.path].shape]
        assert len(split) == 6  # mu and nu of both; the master of the matrix, which is bf16; v of the vector
        assert all(x.sharding == rows for x in [found.params["w"], *split])
        jax.block_until_ready(jax.jit(tx.update)(grads(2, p), found.state, found.params))  # all on one mesh
    factors = [x.array for x in gx.slots(found.state, p) if x.array.shape in {(3,), (4,)} - {p[x.path].shape}]
    assert len(factors) == 2  # of adafactor; shapes of parameters do not say where these are
    assert all(len(x.sharding.device_set) == 1 for x in factors)
    eager = gx.restore_checkpoint(tmp_path, tx, like).state
    same = jax.tree.map(lambda x, y: x.sharding == y.sharding, eager, tx.init(like))
    assert all(jax.tree.leaves(same))


def test_restores_the_state_in_parts(tmp_path):
    """Of parameters that are whole on each device, as `state_sharding` says; onto fewer devices too."""
    tx = gx.chain(gx.add_noise(0.1, 0.5, key=0), gx.adamw(RATE))
    p = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(4, 3), "b": jnp.ones(4)}
    state = filled(tx.init(p))
    for n in (2, 1):
        whole = NamedSharding(Mesh(np.array(jax.devices()[:n]), ("data",)), PartitionSpec())
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), p)
        places = gx.state_sharding(tx, p, whole, zero_axis="data")
        if n == 2:
            gx.save_checkpoint(tmp_path, 2, jax.device_put(p, whole), jax.device_put(state, places))
        found = gx.restore_checkpoint(tmp_path, tx, like, state_sharding=places)
        assert_same((found.params, found.state), (p, state))
        assert jax.tree.map(lambda x: x.sharding, (found.params, found.state)) == (
            jax.tree.map(lambda _: whole, p),
            places,
        )
        assert found.state[1][0].mu["w"].addressable_shards[0].data.shape == (4 // n, 3)
    with pytest.raises(ValueError, match="state_sharding has another structure than the state of tx: give"):
        gx.restore_checkpoint(tmp_path, tx, p, state_sharding=places[1])


def test_extra_is_restored_like_what_is_given(tmp_path):
    """Random keys, numbers and NumPy's arrays, of more bits than JAX has; empty arrays too."""
    extra = {
        "key": jax.random.split(jax.random.key(1, impl="rbg"), 3),
        "epoch": 3,
        "best": 0.1,
        "done": False,
        "order": np.arange(5) + 2**40,
        "none": [None, jnp.zeros((0, 2), jnp.bfloat16)],
    }
    p, state = trained()
    gx.save_checkpoint(tmp_path, 0, p, state, extra=extra)
    like = {**extra, "epoch": 0, "best": 0.0, "done": True}
    found = gx.restore_checkpoint(tmp_path, TX, p, extra=like).extra
    assert (found["epoch"], found["best"], found["done"]) == (3, 0.1, False)
    assert (type(found["epoch"]), type(found["done"])) == (int, bool)
    np.testing.assert_array_equal(found["order"], extra["order"])
    assert_same((found["key"], found["none"]), (extra["key"], extra["none"]))
    assert gx.restore_checkpoint(tmp_path, TX, p).extra is None


def test_links_without_a_state_may_come_and_go(tmp_path):
    p, state = trained()
    gx.save_checkpoint(tmp_path, 2, p, state)
    clipped = gx.chain(gx.clip_by_global_norm(1.0), TX, gx.identity())
    found = gx.restore_checkpoint(tmp_path, clipped, p).state
    assert aval(found) == aval(clipped.init(p))
    assert_same(found[1], state)


REFUSED = [
    (
        gx.amsgrad(0.1),
        MODEL,
        "missing from it: state/ScaleByAmsgrad/count, state/ScaleByAmsgrad/mu/b, state/ScaleByAmsgrad/mu/w, "
        "state/ScaleByAmsgrad/nu/b, state/ScaleByAmsgrad/nu/w, state/ScaleByAmsgrad/nu_max/b, "
        "state/ScaleByAmsgrad/nu_max/w; left over in it: state/ScaleByAdam/count, state/ScaleByAdam/mu/b",
    ),
    (gx.adabelief(0.1), MODEL, "missing from it: state/ScaleByBelief/count, state/ScaleByBelief/mu/b"),
    (
        gx.adam(0.1, mu_dtype=jnp.bfloat16),
        MODEL,
        "different: state/ScaleByAdam/mu/b (float32[4] in it, bfloat16[4] asked for), state/ScaleByAdam/mu/w",
    ),
    (
        gx.adam(0.1),
        {**MODEL, "w": jnp.ones((4, 2), jnp.bfloat16)},
        "different: params/w (bfloat16[4, 3] in it, bfloat16[4, 2] asked for), state/ScaleByAdam/mu/w",
    ),
    (
        gx.adam(0.1),
        {**MODEL, "c": jnp.ones(())},
        "missing from it: params/c, state/ScaleByAdam/mu/c, state/ScaleByAdam/nu/c. Restore it with the "
        "transformation that it was saved with, then use migrate for another",
    ),
]


@pytest.mark.parametrize(("tx", "p", "text"), REFUSED, ids=range(len(REFUSED)))
def test_a_checkpoint_of_something_else_is_refused_by_name(tx, p, text, tmp_path):
    gx.save_checkpoint(tmp_path, 2, *trained(gx.adam(0.1)))
    with pytest.raises(ValueError, match=re.escape(text)):
        gx.restore_checkpoint(tmp_path, tx, p)


def test_another_extra_is_refused_by_name(tmp_path):
    gx.save_checkpoint(tmp_path, 2, *trained(), extra={"key": jax.random.key(0), "epoch": 1})
    with pytest.raises(ValueError, match=re.escape("different: extra/key (key<fry>[] in it, uint32[] asked")):
        gx.restore_checkpoint(tmp_path, TX, MODEL, extra={"key": jnp.uint32(0), "epoch": 1})
    with pytest.raises(ValueError, match="left over in it: extra/epoch"):
        gx.restore_checkpoint(tmp_path, TX, MODEL, extra={"key": jax.random.key(0)})


def test_keeps_the_latest_and_removes_what_a_kill_left(tmp_path):
    p, state = trained(gx.sgd(0.1))
    for left in ("3.orbax-checkpoint-tmp-17", "1.deleted", "notes"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "half").write_text("half")
    assert gx.latest_checkpoint(tmp_path) is None
    for step in range(8, 12):
        gx.save_checkpoint(tmp_path, step, p, state, keep=2)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["10", "11", "notes"]
    assert gx.restore_checkpoint(tmp_path, gx.sgd(0.1), p, step=10).step == 10


def test_a_save_that_fails_before_the_rename_leaves_the_one_before(tmp_path, monkeypatch):
    """The rename is what makes a checkpoint: without it there is none, and the next save goes through."""
    p, state = trained()
    gx.save_checkpoint(tmp_path, 1, p, state)

    def stop(*args, **kwargs):
        raise OSError("no more")

    later = trained(step=4)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", stop)
        patch.setattr(os, "replace", stop)
        patch.setattr(pathlib.Path, "rename", stop)
        with pytest.raises(OSError, match="no more"):
            gx.save_checkpoint(tmp_path, 2, *later)
    assert len(list(tmp_path.iterdir())) == 2  # with what was written
    assert gx.latest_checkpoint(tmp_path) == 1
    assert_same(gx.restore_checkpoint(tmp_path, TX, p).state, state)
    gx.save_checkpoint(tmp_path, 2, p, state)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["1", "2"]


SAVING = [
    (dict(step=-1), ValueError, "step must be an integer of at least 0, got -1"),
    (dict(step=jnp.int32(1)), ValueError, "step must be an integer of at least 0, got Array(1"),
    (dict(keep=0), ValueError, "keep must be an integer of at least 1, got 0"),
    (dict(step=2), ValueError, "there is a checkpoint of step 2 in "),
    (dict(extra={"name": "run"}), TypeError, "holds arrays and numbers, and extra/name is 'run'"),
    (dict(extra={"a/b": 1, "a": {"b": 2}}), ValueError, "these names stand for two arrays: ['extra/a/b']"),
]


@pytest.mark.parametrize(("changed", "error", "text"), SAVING, ids=[text for _, _, text in SAVING])
def test_errors_of_saving_write_nothing(changed, error, text, tmp_path):
    p, state = trained(gx.sgd(0.1))
    gx.save_checkpoint(tmp_path, 2, p, state)
    with pytest.raises(error, match=re.escape(text)):
        gx.save_checkpoint(tmp_path, **dict(step=3, params=p, state=state) | changed)
    assert [x.name for x in tmp_path.iterdir()] == ["2"]


def test_errors_of_restoring(tmp_path):
    tx = gx.sgd(0.1)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*; there are checkpoints of \[\]"):
        gx.restore_checkpoint(tmp_path / "none", tx, MODEL)
    assert gx.latest_checkpoint(tmp_path / "none") is None
    gx.save_checkpoint(tmp_path, 2, *trained(tx))
    (tmp_path / "3").mkdir()
    with pytest.raises(ValueError, match=r"/3 was not made by save_checkpoint"):
        gx.restore_checkpoint(tmp_path, tx, MODEL)
    with pytest.raises(
        FileNotFoundError, match=r"no checkpoint of step 1 in .*; there are checkpoints of \[2, 3\]"
    ):
        gx.restore_checkpoint(tmp_path, tx, MODEL, step=1)
    with pytest.raises(TypeError, match="tx of restore_checkpoint is not a gradient transformation"):
        gx.restore_checkpoint(tmp_path, gx.sgd, MODEL)


def test_says_what_to_install(tmp_path, monkeypatch):
    found = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("orbax"):
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    for call in (
        lambda: gx.save_checkpoint(tmp_path, 0, params(), ()),
        lambda: gx.restore_checkpoint(tmp_path, gx.sgd(0.1), params()),
    ):
        with pytest.raises(ImportError, match=re.escape("needs Orbax: pip install 'gradx[checkpoint]'")):
            call()
