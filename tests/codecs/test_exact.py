"""Which slots `store` leaves exact: those that a rule subtracts from."""

import jax.numpy as jnp
import numpy as np

import gradx as gx
from gradx.codecs.exact import EXACT, is_exact
from gradx.states.entries import entries
from tests.problems import params


def test_each_declared_field_is_there():
    p = params()
    found = {(e.owner, e.field) for e in entries(gx.lbfgs(linesearch=None).init(p), p)}
    assert {(link, field) for link, fields in EXACT.items() for field in fields} <= found
    assert is_exact("ScaleByLBFGS", "params")
    assert not is_exact("ScaleByLBFGS", "diff_params_memory")


def test_a_difference_of_close_gradients_survives_a_format_of_8_bits():
    """The state's `updates` are subtracted from the next gradient: 1e-6 of 1 is nothing in bfloat16."""
    p = {"w": jnp.ones((4, 64))}
    tx = gx.store(gx.scale_by_lbfgs(), gx.Rounded("bfloat16"), seed=0, min_size=1)
    state = tx.init(p)
    near = {"w": p["w"] * (1 + 1e-6)}
    for g, at in [(p, p), (near, near)]:
        _, state = tx.update(g, state, at)
    memory = gx.get_slot(state, p, "diff_updates_memory")["w"]
    np.testing.assert_allclose(np.max(np.abs(memory)), 1e-6, rtol=0.1)
