"""Checkpoints of this version of gradx, for later versions: `python -m tests.states.make_checkpoints FOLDER`.

Those under `checkpoints_0_1_0` were made by gradx 0.1.0. Each is a zip archive of a folder that
`save_checkpoint` wrote; its `extra` is what the next step made.
"""

import pathlib
import shutil
import sys
import tempfile

import jax
import jax.numpy as jnp

import gradx as gx

MATRIX = jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)
MODEL = {"w": MATRIX, "b": MATRIX[0] / 2, "head": {"w": MATRIX[:2] * 1.5, "scale": jnp.float32(0.3)}}
# The smallest array whose slots are kept in 8 bits. Its rows repeat, so it takes few bytes on disk.
LARGE = {"w": jnp.tile(MATRIX.reshape(-1), (64, 6))[:, :64].astype(jnp.bfloat16), "b": MODEL["b"]}


def falling(last):
    """A schedule that has another value at each of the first steps."""
    return gx.linear_schedule(0.1, last, 10)


OPTIMIZERS = {
    "adamw": lambda: gx.adamw(0.1, weight_decay=0.1),
    "inject_numbers": lambda: gx.inject_hyperparams(gx.adamw)(0.1, b1=0.8, weight_decay=0.1),
    "inject_schedules": lambda: gx.inject_hyperparams(gx.adamw)(
        falling(0.01), b1=gx.linear_schedule(0.95, 0.5, 5), weight_decay=0.1
    ),
    "lamb": lambda: gx.lamb(0.1, weight_decay=0.1),
    "measured": lambda: gx.measured(gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(falling(0.01)))),
    "groups": lambda: gx.groups(
        gx.adamw(0.1), {"head/w": gx.frozen(), "b$": {"weight_decay": 0.0, "learning_rate": gx.scaled(0.5)}}
    ),
    "accumulate": lambda: gx.accumulate(gx.adamw(0.1), 2),
    "skip_if": lambda: gx.skip_if(gx.adamw(0.1), gx.nonfinite()),
    "lookahead": lambda: gx.lookahead(gx.sgd(0.02, momentum=0.9), sync_period=3),
    "precision": lambda: gx.precision(gx.adamw(0.1), "8-bit"),
    "lbfgs": lambda: gx.lbfgs(memory_size=3),
    "packed": lambda: gx.packed(gx.adamw(0.1)),
    "ema_params": lambda: gx.chain(gx.adamw(0.1), gx.ema_params(0.9)),
}
PARAMS = {"precision": LARGE}
# Two steps each. A mean of two gradients is saved half-way: the next call completes it.
CALLS = {"accumulate": 3}


def loss(params):
    """A bowl with its minimum at 2 that is no parabola, so that each step has another gradient."""
    away = [x.astype(jnp.float32) - 2.0 for x in jax.tree.leaves(params)]
    return sum(jnp.sum(d**2 + 0.1 * d**4) / d.size for d in away)


def advance(tx, params, state):
    """One step: the updates, and the parameters and the state after it."""
    value, grads = jax.value_and_grad(loss)(params)
    updates, state = tx.update(grads, state, params, value=value, grad=grads, value_fn=loss)
    return updates, gx.apply_updates(params, updates), state


def next_step(name, params, state):
    """What the next step makes: its updates, the parameters to evaluate with, and the metrics, in float32."""
    updates, params, state = advance(OPTIMIZERS[name](), params, state)
    made = {"updates": updates, "evaluated": gx.eval_params(state, params)}
    if name == "measured":
        made["metrics"] = gx.metrics(state)
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), made)


def write(folder, name):
    """The checkpoint of one optimizer, as `folder/name.zip`."""
    tx, params = OPTIMIZERS[name](), PARAMS.get(name, MODEL)
    state = tx.init(params)
    for _ in range(CALLS.get(name, 2)):
        _, params, state = advance(tx, params, state)
    with tempfile.TemporaryDirectory() as made:
        gx.save_checkpoint(made, 2, params, state, extra=next_step(name, params, state))
        shutil.make_archive(str(folder / name), "zip", made)


if __name__ == "__main__":
    target = pathlib.Path(sys.argv[1])
    target.mkdir(parents=True)
    for optimizer in OPTIMIZERS:
        write(target, optimizer)
