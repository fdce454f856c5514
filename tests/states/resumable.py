"""A run that goes on from its last checkpoint: `python -m tests.states.resumable FOLDER STEPS`.

It prints each step as it begins, and at the end a digest of every bit of what it made.
"""

import hashlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

import gradx as gx

EVERY = 3  # steps from one checkpoint to the next


def optimizer(steps):
    """A schedule, noise from a random key, an average of the parameters: what would show a bad restart."""
    return gx.chain(
        gx.clip_by_global_norm(1.0),
        gx.add_noise(0.01, 0.55, key=jax.random.key(1)),
        gx.adamw(gx.warmup_cosine_decay_schedule(0.0, 0.05, 5, steps), weight_decay=0.01),
        gx.average_params(),
    )


def main(folder, steps):
    tx = optimizer(steps)
    params = {"kernel": jnp.linspace(-1.0, 1.0, 32).reshape(8, 4), "out": jnp.ones(4, jnp.bfloat16)}
    data = jnp.asarray(np.random.default_rng(0).standard_normal((64, 8)), jnp.float32)

    def loss(params, x):
        hidden = jnp.tanh(x @ params["kernel"])
        return jnp.mean((hidden @ params["out"].astype(jnp.float32) - jnp.sin(x[:, 0])) ** 2)

    def step(params, state, place):
        grads = jax.grad(loss)(params, jax.lax.dynamic_slice_in_dim(data, place % 48, 16))
        updates, state = tx.update(grads, state, params)
        return gx.apply_updates(params, updates), state, place + 7

    donated = jax.jit(step, donate_argnums=(0, 1, 2))
    start, state, place = 0, jax.jit(tx.init)(params), jnp.zeros((), jnp.int32)
    if gx.latest_checkpoint(folder) is not None:
        start, params, state, place = gx.restore_checkpoint(folder, tx, params, extra=place)
    for i in range(start, steps):
        print(i, flush=True)
        params, state, place = donated(params, state, place)
        if (i + 1) % EVERY == 0:
            gx.save_checkpoint(folder, i + 1, params, state, extra=place, keep=2)
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    state = jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, state)
    bits = b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves((params, state)))
    print("digest", hashlib.sha256(bits).hexdigest(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
