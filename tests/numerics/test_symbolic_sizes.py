"""Arrays whose sizes are known only when an exported step runs (`jax.export.symbolic_shape`)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import gradx as gx
from tests.cases import FIRST
from tests.test_contract import LINKS

(B,) = export.symbolic_shape("b")
SHAPES = {
    "w": jax.ShapeDtypeStruct((B, 3), jnp.float32),
    "b": jax.ShapeDtypeStruct((B,), jnp.float32),
    "layers": [jax.ShapeDtypeStruct((), jnp.float32), None],
}


def filled(b, seed):
    rng = np.random.default_rng(seed)
    normal = lambda x: jnp.asarray(
        rng.normal(size=[b if not isinstance(n, int) else n for n in x.shape]), jnp.float32
    )
    return jax.tree.map(normal, SHAPES)


def step_of(tx):
    def step(grads, params):
        updates, state = tx.update(grads, tx.init(params), params)
        updates, _ = tx.update(updates, state, params)
        return gx.apply_updates(params, updates)

    return jax.jit(step)


@pytest.mark.parametrize(
    "tx",
    [
        gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(0.1)),
        gx.chain(gx.clip_by_block_rms(0.5), gx.scale_by_param_block_rms()),
        gx.chain(gx.adaptive_grad_clip(0.1), gx.lamb(0.1)),
        gx.chain(gx.normalize_by_update_norm(), gx.packed(gx.lars(0.1))),
    ],
    ids=repr,
)
def test_an_exported_step_runs_at_any_size(tx):
    program = export.export(step_of(tx))(SHAPES, SHAPES)
    for b in (2, 5000):  # norms of small arrays are taken in another way than those of large ones
        grads, params = filled(b, 0), filled(b, 1)
        expected = step_of(tx)(grads, params)
        for x, y in zip(*map(jax.tree.leaves, (program.call(grads, params), expected)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


# Which axes are factored, and which are stacked, must be known.
NEEDS_SIZES = ("adafactor", "factored_rms", "stacked")
ANY_SIZE = [
    tx for tx in [c.make() for c in FIRST] + LINKS if not any(name in repr(tx) for name in NEEDS_SIZES)
]


@pytest.mark.slow
def test_every_transformation_can_be_exported(lenient):
    for tx in ANY_SIZE:
        try:
            export.export(step_of(tx))(SHAPES, SHAPES)
        except Exception as e:
            e.add_note(f"(of {tx!r})")
            raise
