"""A state for another transformation: what goes over, what starts anew, and that the run goes on."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradx as gx
from tests.problems import aval, grads
from tests.states.filled import filled

MODEL = {"dense": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}, "out": {"kernel": jnp.ones((4, 2))}}
RATE = gx.cosine_decay_schedule(0.1, 50)
ADAM = gx.adamw(0.1)
ADAMW = gx.adamw(RATE)
MOMENTUM = gx.sgd(0.1, momentum=0.9)
STEPS = 3


def of_groups(**txs):
    return optax.partition(txs, {"dense": "body", "out": "head"})


def trained(tx):
    return filled(MODEL), filled(tx.init(MODEL), STEPS)


def moved(old, new):
    p, state = trained(old)
    found = gx.migrate(state, old, new, p)
    assert aval(found.state) == aval(new.init(p))
    return p, state, found


def names(pairs):
    return {name for name, _ in pairs}


SAME = [
    (ADAMW, gx.chain(gx.clip_by_global_norm(1e6), ADAMW)),
    (gx.chain(gx.clip_by_global_norm(1e6), ADAMW), ADAMW),
    (ADAMW, gx.masked(ADAMW, lambda p: jax.tree.map(lambda _: True, p))),
    (ADAMW, of_groups(body=ADAMW, head=ADAMW)),
    (of_groups(body=ADAMW, head=ADAMW), ADAMW),
    (ADAMW, gx.packed(ADAMW)),
    (gx.packed(ADAMW), gx.packed(ADAMW, max_size=8)),
    (ADAMW, gx.named_chain(("clip", gx.clip(1e6)), ("adamw", ADAMW))),
    (optax.adamw(RATE, weight_decay=1e-4), ADAMW),
    (ADAMW, gx.inject_hyperparams(gx.adamw)(RATE)),
    (ADAM, ADAMW),
]


@pytest.mark.parametrize("i", range(len(SAME)))
def test_the_run_goes_on_as_if_nothing_had_changed(i, lenient):
    """Slots and step counts go over, so the next update is what the new one would have given all along."""
    old, new = SAME[i]
    p, state, found = moved(old, new)
    assert all(name.startswith("hyperparams/") for name in names(found.new))
    reference = ADAMW if old is ADAM else old
    state = gx.migrate(state, old, ADAMW, p).state if old is ADAM else state
    u, _ = reference.update(grads(STEPS, p), state, p)
    v, _ = new.update(grads(STEPS, p), found.state, p)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=3e-5), u, v)


def test_amsgrad_takes_adams_moments():
    _, state, found = moved(ADAM, gx.amsgrad(0.1))
    assert (names(found.kept), names(found.new), found.dropped) == ({"count", "mu", "nu"}, {"nu_max"}, [])
    jax.tree.map(np.testing.assert_array_equal, found.state[0].nu, state[0].nu)
    assert int(found.state[0].count) == STEPS
    assert str(found) == "\n".join(
        ["kept    count, mu (3 arrays), nu (3 arrays)", "new     nu_max (3 arrays)", "dropped nothing"]
    )


def test_a_new_schedule_goes_on_at_the_step_of_the_run():
    _, _, found = moved(ADAM, ADAMW)
    assert [int(s.array) for s in gx.slots(found.state, MODEL, scalars=True) if s.path is None] == [STEPS] * 2


def test_an_average_that_starts_anew_counts_anew():
    """Its bias correction must; a schedule beside it goes on."""
    _, _, found = moved(ADAMW, gx.chain(gx.ema(0.9), gx.scale_by_schedule(RATE), gx.average_params()))
    counts = {s.name: int(s.array) for s in gx.slots(found.state, MODEL, scalars=True) if s.path is None}
    assert counts == {"Ema/count": 0, "ScaleBySchedule/count": STEPS, "Scheduled/count": 0}
    assert names(found.dropped) == {"ScaleByAdam/count", "mu", "nu"}


def test_wrappers_keep_what_is_inside_and_start_their_own(lenient):
    p, state, found = moved(MOMENTUM, gx.lookahead(MOMENTUM))
    jax.tree.map(np.testing.assert_array_equal, gx.get_slot(found.state, p, "trace"), state[0].trace)
    jax.tree.map(np.testing.assert_array_equal, gx.get_slot(found.state, p, "slow_params"), p)
    p, state, found = moved(MOMENTUM, optax.MultiSteps(MOMENTUM, 4))
    assert names(found.kept) == {"trace"}
    assert names(found.new) == {"mini_step", "gradient_step", "acc_grads"}


def test_parameters_that_leave_and_join_a_mask():
    matrices = gx.masked(ADAM, "matrices_only")
    _, _, found = moved(ADAM, matrices)
    assert found.dropped == [("mu", "dense/bias"), ("nu", "dense/bias")]
    _, _, found = moved(matrices, ADAM)
    assert found.new == [("mu", "dense/bias"), ("nu", "dense/bias")]


def test_a_parameter_that_thaws_does_not_set_back_the_count_of_the_others(lenient):
    """Its averages start anew; those of the others, and their bias correction, go on."""
    groups = of_groups(body=ADAM, head=optax.set_to_zero())
    _, _, found = moved(groups, ADAMW)
    assert found.new == [("mu", "out/kernel"), ("nu", "out/kernel")]
    counts = [int(s.array) for s in gx.slots(found.state, MODEL, scalars=True) if s.path is None]
    assert counts == [STEPS] * 2
    two = of_groups(body=ADAM, head=gx.adam(0.1))
    _, _, found = moved(gx.named_chain(("of", groups)), two)
    assert names(found.new) == {"mu", "nu", "head/count"}


def test_two_links_of_a_kind_are_not_mixed_up():
    """Which of two traces the one is, cannot be said; by the names of a named chain it can."""
    _, _, found = moved(MOMENTUM, gx.chain(gx.trace(0.5), MOMENTUM))
    assert (names(found.new), names(found.dropped)) == ({"trace[0]", "trace[1]"}, {"trace"})
    first, both = gx.named_chain(("b", MOMENTUM)), gx.named_chain(("a", gx.trace(0.5)), ("b", MOMENTUM))
    _, state, found = moved(first, both)
    assert (names(found.kept), names(found.new)) == ({"b/trace"}, {"a/trace"})
    jax.tree.map(np.testing.assert_array_equal, found.state["b"][0].trace, state["b"][0].trace)


def test_dtypes_and_shapes_are_those_of_the_new_state():
    _, state, found = moved(ADAM, gx.adamw(0.1, mu_dtype=jnp.bfloat16))
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(x, y.astype(jnp.bfloat16)), found.state[0].mu, state[0].mu
    )
    _, _, found = moved(gx.adafactor(0.1, 2), gx.adafactor(0.1, factored=False))
    assert names(found.kept) == {"count", "v_row", "v_col", "v"}  # of the vector, which neither factors
    assert ("v", "dense/kernel") in found.new
    assert ("v_row", "dense/kernel") in found.dropped


def test_random_keys_go_over():
    noisy = gx.chain(gx.add_noise(0.1, 0.5, key=0), MOMENTUM)
    _, state, found = moved(noisy, gx.chain(gx.clip(1.0), noisy))
    key = lambda s, p: jax.random.key_data(gx.get_slot(s, p, "rng_key"))
    np.testing.assert_array_equal(key(found.state, MODEL), key(state, MODEL))


def test_the_new_state_can_be_donated_and_migrate_jitted():
    p, state = trained(ADAMW)
    new = jax.jit(lambda s, p: gx.migrate(s, ADAMW, gx.chain(gx.clip(1.0), gx.amsgrad(RATE)), p).state)(
        state, p
    )
    eager = gx.migrate(state, ADAMW, gx.chain(gx.clip(1.0), gx.amsgrad(RATE)), p).state
    jax.tree.map(np.testing.assert_array_equal, new, eager)
    pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(eager)]
    assert len(set(pointers)) == len(pointers)


LINKS = [
    gx.clip(1.0),
    gx.trace(0.9),
    gx.ema(0.9),
    gx.scale_by_adam(),
    gx.scale_by_schedule(RATE),
    gx.scale_by_rss(),
    gx.centralize(),
]


@settings(max_examples=25, deadline=None)
@given(
    links=st.lists(st.sampled_from(LINKS), unique_by=repr, max_size=5),
    at=st.integers(0, 5),
    there=st.booleans(),
)
def test_there_and_back_changes_nothing(links, at, there):
    """Links put into a chain and taken out again leave what was there, in any nesting."""
    state = jax.tree.map(jnp.ones_like, gx.chain(*links).init(MODEL))
    more = gx.chain(*links[:at], gx.clip_by_global_norm(1.0), gx.chain(*links[at:]), gx.average_params())
    new = gx.lookahead(more) if there else gx.named_chain(("all", more))
    found = gx.migrate(state, gx.chain(*links), new, MODEL)
    assert not found.dropped
    back = gx.migrate(found.state, new, gx.chain(*links), MODEL)
    assert not back.new
    jax.tree.map(np.testing.assert_array_equal, back.state, state)


def test_errors():
    with pytest.raises(
        ValueError, match="the state that old_tx makes and old_state have different structures"
    ):
        gx.migrate(MOMENTUM.init(MODEL), ADAM, ADAMW, MODEL)
    with pytest.raises(TypeError, match="new_tx of migrate is not a gradient transformation"):
        gx.migrate(ADAM.init(MODEL), ADAM, gx.adamw, MODEL)
    inside = gx.chain(gx.clip(1.0), gx.packed(ADAM))
    with pytest.raises(ValueError, match=re.escape("migrate: a part of the state is packed")):
        gx.migrate(ADAM.init(MODEL), ADAM, inside, MODEL)
