"""What a donated step moves, by the compiler's own count, against Optax in the same process.

Bytes and temporaries do not depend on the machine's load, so they are asserted; times are not.
"""

import jax
import jax.numpy as jnp
import optax
import pytest

import gradx as gx

# 80 leaves: matrices and their biases, 8.4M parameters.
PARAMS = {
    f"layer{i}": {
        "kernel": jax.ShapeDtypeStruct((384, 544), jnp.float32),
        "bias": jax.ShapeDtypeStruct((544,), jnp.float32),
    }
    for i in range(40)
}
SIZE = sum(p.size for p in jax.tree.leaves(PARAMS))


def cost(tx, apply_updates):
    """(bytes moved, temporary bytes) a parameter, of one donated step on the CPU."""
    state = jax.eval_shape(tx.init, PARAMS)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(PARAMS, state, PARAMS).compile()
    moved = compiled.cost_analysis()["bytes accessed"]
    return moved / SIZE, compiled.memory_analysis().temp_size_in_bytes / SIZE


def at_value(tx):
    """`tx` with the loss given."""
    return optax.GradientTransformation(
        tx.init, lambda updates, state, params: tx.update(updates, state, params, value=1.0)
    )


ROWS = [
    # what, made by, bytes, temporaries, and at least so much better than Optax in bytes
    ("sgd", lambda m: m.sgd(1e-2, momentum=0.9), 24.5, 0.1, 1.0),
    ("adamw", lambda m: m.adamw(1e-3), 40.5, 0.1, 1.0),
    (
        "clip+adamw",
        lambda m: m.chain(
            m.clip_by_global_norm(1.0),
            m.adamw(m.warmup_cosine_decay_schedule(0.0, 1e-3, 10, 100), weight_decay=0.1),
        ),
        44.5,
        0.1,
        0.75,
    ),
    ("injected adamw", lambda m: m.inject_hyperparams(m.adamw)(1e-3), 40.5, 0.1, 1.0),
    ("lion", lambda m: m.lion(1e-3), 36.5, 4.1, 1.0),
    ("lamb", lambda m: m.lamb(1e-3, weight_decay=0.01), 61.0, 4.2, 0.75),
    ("lars", lambda m: m.lars(0.1, weight_decay=0.01), 44.5, 4.2, 0.8),
    ("radam", lambda m: m.radam(1e-3), 40.5, 0.1, 1.0),
    ("polyak", lambda m: at_value(m.polyak_sgd(0.1)), 16.5, 0.1, 0.8),
    ("centralized sgd", lambda m: m.chain(m.centralize(), m.sgd(1e-2)), 16.5, 0.1, 1.0),
    ("lbfgs", lambda m: m.lbfgs(1e-3, linesearch=None), 204.5, 12.1, 0.97),
    ("block rms", lambda m: m.chain(m.clip_by_block_rms(1.0), m.sgd(1e-2)), 16.5, 0.1, 1.0),
]


@pytest.mark.parametrize(
    ("name", "make", "most_bytes", "most_temporary", "ratio"), ROWS, ids=[r[0] for r in ROWS]
)
def test_a_step_moves_no_more_than(name, make, most_bytes, most_temporary, ratio, lenient):
    moved, temporary = cost(make(gx), gx.apply_updates)
    optax_moved, optax_temporary = cost(make(optax), optax.apply_updates)
    assert moved <= most_bytes
    assert temporary <= most_temporary
    assert moved <= ratio * optax_moved + 0.1
    assert temporary <= optax_temporary + 0.1


def test_a_mask_costs_no_copy(lenient):
    masked = cost(gx.adamw(1e-3, weight_decay=0.1, mask="matrices_only"), gx.apply_updates)
    assert masked[0] <= 40.5
    assert masked[1] <= 0.1


def test_lookahead_costs_what_pairs_of_parameters_cost_in_optax(lenient):
    """84 a parameter around Adam: two copies, as both parameters are made from both."""
    tx, pairs = optax.lookahead(optax.adam(1e-3), 6, 0.5), optax.LookaheadParams(PARAMS, PARAMS)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    arguments = pairs, jax.eval_shape(tx.init, pairs), PARAMS
    theirs = jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile()
    moved, temporary = cost(gx.lookahead(gx.adam(1e-3), 6, 0.5), gx.apply_updates)
    assert moved <= theirs.cost_analysis()["bytes accessed"] / SIZE + 0.1
    assert temporary <= 4.3
    assert cost(gx.ranger(1e-3), gx.apply_updates)[0] <= moved + 4.1  # a pass for the means
