"""States with several counts, all different: each is kept, restored or started anew as it must be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import keystr, tree_flatten_with_path

import gradx as gx
from tests.problems import aval

PARAMS = {"w": jnp.ones((2, 2)), "count": jnp.ones(3)}
RATE = gx.cosine_decay_schedule(0.1, 50)
CALLS, BAD, MICRO = 7, (2, 5), 3
# Two schedules and a rule; a skipped step between them; an accumulation inside.
TX = gx.named_chain(
    ("skipping", gx.skip_if(gx.adamw(RATE), gx.nonfinite())),
    ("accumulating", gx.accumulate(gx.chain(gx.ema(0.9), gx.scale_by_schedule(RATE)), MICRO)),
    ("last", gx.scale_by_schedule(RATE)),
)


@functools.cache
def trained():
    """The state after seven calls, of which two have no finite gradients."""
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    state, update = TX.init(PARAMS), jax.jit(TX.update)
    for t in range(CALLS):
        g = jax.tree.map(lambda x: x * (jnp.nan if t in BAD else t + 1.0), ones)
        _, state = update(g, state, PARAMS)
    return state


GOOD = CALLS - len(BAD)
COUNTS = {
    "skipping/consecutive": 0,
    "skipping/total": len(BAD),
    "skipping/exceeded": 0,
    "skipping/by_condition/nonfinite": len(BAD),
    "skipping/inner_state/0/count": GOOD,
    "skipping/inner_state/2/count": GOOD,
    "accumulating/mini_step": CALLS % MICRO,
    "accumulating/gradient_step": CALLS // MICRO,
    "accumulating/inner_opt_state/0/count": CALLS // MICRO,
    "accumulating/inner_opt_state/1/count": CALLS // MICRO,
    "last/count": CALLS,
}


def counts(state):
    """All integers of a state, by their paths. No parameter is an integer here."""
    leaves = tree_flatten_with_path(state)[0]
    return {
        keystr(path, simple=True, separator="/"): int(x)
        for path, x in leaves
        if not jnp.issubdtype(x.dtype, jnp.inexact)
    }


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_each_counts_what_it_says():
    assert counts(trained()) == COUNTS
    assert aval(trained()) == aval(TX.init(PARAMS))


def test_a_checkpoint_restores_each(tmp_path):
    gx.save_checkpoint(tmp_path, 1, PARAMS, trained())
    found = gx.restore_checkpoint(tmp_path, TX, PARAMS).state
    assert counts(found) == COUNTS
    same(found, trained())


def test_slots_name_each():
    """One name for one count, and what is read by it is the count."""
    named = {
        "ScaleByAdam/count": GOOD, "Ema/count": CALLS // MICRO, "last/ScaleBySchedule/count": CALLS,
        "skipping/ScaleBySchedule/count": GOOD, "accumulating/ScaleBySchedule/count": CALLS // MICRO,
        "mini_step": CALLS % MICRO, "gradient_step": CALLS // MICRO, "total": len(BAD), "consecutive": 0,
    }  # fmt: skip
    for name, value in named.items():
        assert gx.get_slot(trained(), PARAMS, name) == value, name
        changed = gx.set_slot(trained(), PARAMS, name, 40)
        assert list(counts(changed).values()).count(40) == 1
        assert gx.get_slot(changed, PARAMS, name) == 40


RESET = {
    "ScaleByAdam/count": ["skipping/inner_state/0/count"],
    "last/ScaleBySchedule/count": ["last/count"],
    "Ema/count": ["accumulating/inner_opt_state/0/count"],
    "total": ["skipping/total"],
    "mini_step": ["accumulating/mini_step"],
}


@pytest.mark.parametrize("name", RESET)
def test_reset_sets_one_to_zero(name):
    """And no slot with it; nor does it reset another count whose name begins or ends alike."""
    state = gx.reset(
        TX, trained(), PARAMS, names=name.removeprefix("skipping/").removeprefix("accumulating/")
    )
    assert counts(state) == COUNTS | dict.fromkeys(RESET[name], 0)
    for slot in ("mu", "nu", "ema", "acc_grads"):
        same(gx.get_slot(state, PARAMS, slot), gx.get_slot(trained(), PARAMS, slot))


def test_reset_of_slots_leaves_all_counts():
    for where in ("^w$", "count", None):
        state = gx.reset(TX, trained(), PARAMS, where, names=["mu", "ema"])
        assert counts(state) == COUNTS
        mu, ema = (gx.get_slot(state, PARAMS, name) for name in ("mu", "ema"))
        for name in PARAMS:
            anew = where is None or name in where
            assert (not np.any(mu[name])) == (not np.any(ema[name])) == anew
    assert counts(gx.reset(TX, trained(), PARAMS, "^count$")) == COUNTS  # a parameter of that name


def moved(new, old=TX, state=None):
    found = gx.migrate(trained() if state is None else state, old, new, PARAMS)
    assert aval(found.state) == aval(new.init(PARAMS))
    return found, counts(found.state)


def test_migrate_keeps_each_behind_new_links():
    """All counts have the names of their parts; a clip, a wrapper and a mean that come in change none."""
    skipping = gx.skip_if(gx.chain(gx.clip(1.0), gx.adamw(RATE)), gx.nonfinite(), gx.spike("gradient_norm"))
    new = gx.named_chain(
        ("first", gx.clip_by_global_norm(1.0)),
        ("skipping", skipping),
        ("accumulating", gx.accumulate(gx.chain(gx.ema(0.9), gx.scale_by_schedule(RATE)), 4, weight="n")),
        ("last", gx.scale_by_schedule(RATE)),
        ("mean", gx.ema_params(0.9)),
    )
    found, kept = moved(new)
    renamed = {name: value for name, value in COUNTS.items() if "inner_state" not in name}
    renamed |= {"skipping/inner_state/1/0/count": GOOD, "skipping/inner_state/1/2/count": GOOD}
    started = {"accumulating/skip_state/dropped": 0, "skipping/by_condition/spike_gradient_norm": 0}
    started |= {"skipping/statistics/spike_gradient_norm/steps": 0, "mean/inner_state/count": 0}
    assert kept == renamed | started
    assert not found.dropped


def test_migrate_takes_the_count_of_the_slots():
    """The rule's five and the mean's two steps, though a schedule has counted seven."""
    found, kept = moved(gx.chain(gx.scale_by_amsgrad(), gx.ema(0.5), gx.scale_by_schedule(RATE)))
    assert kept == {"0/count": GOOD, "1/count": CALLS // MICRO, "2/count": CALLS}
    assert {name for name, _ in found.new} == {"nu_max"}


def test_migrate_starts_the_count_of_new_slots_anew():
    """Beside counts that go on: a trace has none to lend."""
    old = gx.chain(gx.trace(0.9), gx.scale_by_schedule(RATE))
    state = gx.set_slot(old.init(PARAMS), PARAMS, "count", 9)
    _, kept = moved(gx.chain(gx.trace(0.9), gx.scale_by_adam(), gx.scale_by_schedule(RATE)), old, state)
    assert kept == {"1/count": 0, "2/count": 9}
    _, kept = moved(gx.chain(gx.average_params(), gx.trace(0.9)), old, state)
    assert kept == {"0/count": 0}


def test_migrate_out_of_a_lookahead_whose_resets_set_one_back():
    """Five steps in all, of which two since the last reset."""
    old = gx.lookahead(gx.adamw(RATE), 3, reset_state=True)
    state, update = old.init(PARAMS), jax.jit(old.update)
    for _ in range(5):
        _, state = update(PARAMS, state, PARAMS)
    expected = {"slow_state/count": 5, "fast_state/0/count": 2, "fast_state/2/count": 2}
    assert counts(state) == expected
    _, kept = moved(gx.adam(0.1), old, state)
    assert kept == {"0/count": 2}
    _, kept = moved(gx.chain(gx.scale_by_amsgrad(), gx.average_params()), old, state)
    assert kept == {"0/count": 2, "1/count": 0}


def test_a_reset_of_lookahead_is_of_all_counts_within():
    """Those of skipping and of accumulation too; the slow weights count on."""
    inner = gx.skip_if(gx.accumulate(gx.adamw(RATE), 2), gx.nonfinite())
    tx = gx.lookahead(inner, 4, reset_state=True)
    state, update, seen = tx.init(PARAMS), jax.jit(tx.update), []
    for t in range(7):
        g = jax.tree.map(lambda p: p * (jnp.nan if t in (2, 4) else 1.0), PARAMS)
        _, state = update(g, state, PARAMS)
        found = counts(state)
        names = ("slow_state/count", "fast_state/total", "fast_state/inner_state/mini_step")
        rule = "fast_state/inner_state/inner_opt_state/0/count"
        seen.append([*(found[name] for name in names), found[rule], found[rule.replace("0", "2")]])
    # Skipped at the third call and the fifth, started anew after the fourth.
    by_hand = [[1, 0, 1, 0, 0], [2, 0, 0, 1, 1], [3, 1, 0, 1, 1], [4, 0, 0, 0, 0]]
    assert seen == [*by_hand, [5, 1, 0, 0, 0], [6, 1, 1, 0, 0], [7, 1, 0, 1, 1]]
