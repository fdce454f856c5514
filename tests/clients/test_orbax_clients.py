"""Orbax: states that Optax wrote go on with its face, and the other way round."""

import itertools

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import gradx.optax
from tests.clients.comparing import same
from tests.clients.problem import loss_of, params

LIBRARIES = {"optax": optax, "gradx.optax": gradx.optax}


def make(optax):
    kernels = lambda params: jax.tree.map(lambda p: p.ndim == 2, params)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 10)
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.multi_transform(
            {
                "adam": optax.inject_hyperparams(optax.adamw)(learning_rate=schedule, weight_decay=0.01),
                "sgd": optax.masked(optax.sgd(0.1, momentum=0.9), kernels),
            },
            {"encoder": "adam", "head": "sgd"},
        ),
        optax.ema(0.9),
    )


def steps(optax, p, state, count):
    tx = make(optax)

    @jax.jit
    def step(carry, _):
        p, state = carry
        loss, grads = jax.value_and_grad(loss_of)(p)
        updates, state = tx.update(grads, state, p)
        return (optax.apply_updates(p, updates), state), loss

    return jax.lax.scan(step, (p, state), length=count)


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize(("writer", "reader"), list(itertools.permutations(LIBRARIES)))
def test_a_run_goes_on(writer, reader, tmp_path):
    """Half of the steps, a checkpoint, and the other half by the other library: as all by one."""
    writes, reads = LIBRARIES[writer], LIBRARIES[reader]
    p = params()
    half, first = steps(writes, p, make(writes).init(p), 5)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "half", half)
        checkpointer.wait_until_finished()
        target = jax.eval_shape(lambda: (p, make(reads).init(p)))
        restored = checkpointer.restore(tmp_path / "half", target)
    assert jax.tree.structure(restored) == jax.tree.structure(half)
    ended, second = steps(reads, *restored, 5)
    whole, losses = steps(optax, p, make(optax).init(p), 10)
    np.testing.assert_allclose(np.concatenate([first, second]), losses, rtol=1e-4)
    same(ended, whole, 1e-4)
