"""Which slots are stored as squares: every optimizer of the table is run, and what it holds is looked at."""

import collections

import jax
import numpy as np
import optax
import pytest
from optax import contrib

from gradx.codecs.squares import SQUARES, SQUARES_OF_LINK, declare_squares, is_positive
from gradx.states.entries import entries
from tests.cases import CASES


@pytest.fixture(scope="module")
def smallest():
    """The smallest and the largest element of each slot of the table, by link and field."""
    found = collections.defaultdict(lambda: [np.inf, -np.inf])
    draw = lambda seed: {"k": np.random.default_rng(seed).standard_normal((4, 6), np.float32)}
    for case in CASES:
        tx, params = case.make(), draw(0)
        state, step = tx.init(params), jax.jit(tx.update)
        known = {slot for slot, (low, high) in found.items() if low < high}
        if {(e.owner, e.field) for e in entries(state, params) if e.i is not None} <= known:
            continue  # another row has had them all
        for seed in range(1, 6):
            _, state = step(draw(seed), state, params)
            for e in entries(state, params):
                if e.i is not None:
                    low, high = found[e.owner, e.field]
                    found[e.owner, e.field] = [min(low, np.min(e.array)), max(high, np.max(e.array))]
    return found


def test_squares_are_those_slots_that_are_never_negative(smallest):
    """No average of squares is missed, and nothing else is taken for one."""
    never_negative = {slot for slot, (low, high) in smallest.items() if low >= 0 and high > 0}
    assert {slot for slot in smallest if is_positive(*slot)} == never_negative


def test_no_name_is_there_in_vain(smallest):
    fields = {field.split("/")[0] for _, field in smallest}
    assert SQUARES - fields == {"exp_avg_sq", "grad_sum_sq"}  # of optax.contrib's D-Adaptation and MADGRAD
    links = {link for link, _ in smallest}
    assert SQUARES_OF_LINK.keys() - links == {"ScaleBySimplifiedAdEMAMix", "Sophia"}  # of optax.contrib


def test_those_of_optax(lenient):
    params = {"k": np.ones((4, 6), np.float32)}
    for tx, squares in [
        (contrib.dadapt_adamw(), {"exp_avg_sq"}),
        (contrib.prodigy(), {"exp_avg_sq"}),
        (contrib.scale_by_ademamix(), {"nu"}),
        (contrib.scale_by_simplified_ademamix(), {"n"}),
        (optax.adam(1e-3), {"nu"}),
        (optax.sm3(1e-3), {"mu/0", "mu/1"}),
        (optax.trace(0.9), set()),
    ]:
        found = {
            e.field
            for e in entries(tx.init(params), params)
            if e.i is not None and is_positive(e.owner, e.field)
        }
        assert found == squares


def test_one_class_has_one_declaration():
    declare_squares("n", of=optax.ScaleByAdanState)  # the same again is fine
    with pytest.raises(ValueError, match="squares of ScaleByAdanState are declared twice"):
        declare_squares("m", of=optax.ScaleByAdanState)
    assert is_positive("ScaleByAdan", "n")
    assert not is_positive("ScaleByAdan", "m")
