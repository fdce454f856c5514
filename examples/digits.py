"""Train a small convolutional network (Flax NNX) on handwritten digits with a chain of gradx links.

python examples/digits.py --optimizer lamb --batch-size 256
"""

from functools import partial

import common  # first: it says what is missing
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import gradx as gx


class Network(nnx.Module):
    """Two convolutions and a hidden layer; 8 x 8 images in, 10 scores out."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 24, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(24, 48, (3, 3), rngs=rngs)
        self.hidden = nnx.Linear(2 * 2 * 48, 96, rngs=rngs)
        self.scores = nnx.Linear(96, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.conv1(x)), (2, 2), strides=(2, 2))
        x = nnx.max_pool(nnx.relu(self.conv2(x)), (2, 2), strides=(2, 2))
        x = nnx.relu(self.hidden(x.reshape(x.shape[0], -1)))
        return self.scores(x)


def make_optimizer(name: str, schedule: gx.Schedule, weight_decay: float) -> gx.GradientTransformation:
    """Clip, find a direction, step: every optimizer is a chain."""
    decay = gx.add_decayed_weights(weight_decay, mask=gx.matrices_only)  # not of biases
    rate = gx.scale_by_learning_rate(schedule)
    links = {
        "sgd": [decay, gx.trace(decay=0.9, nesterov=True), rate],  # decay before the rule: L2
        "adam": [decay, gx.scale_by_adam(), rate],
        "adamw": [gx.scale_by_adam(), decay, rate],  # and after it: decoupled
        "lion": [gx.scale_by_lion(), decay, rate],
        "lars": [decay, gx.scale_by_trust_ratio(trust_coefficient=0.001), rate, gx.trace(decay=0.9)],
        "lamb": [gx.scale_by_adam(eps=1e-6), decay, gx.scale_by_trust_ratio(), rate],
    }
    return gx.chain(gx.clip_by_global_norm(1.0), *links[name])


def main() -> None:
    args = common.parse_args(__doc__.splitlines()[0], "digits.png")
    train, validation, test = common.load_data()
    epoch_steps = len(train.labels) // args.batch_size
    steps = args.epochs * epoch_steps
    # One step more than there are, so that the last one still moves, and a run of one step is allowed.
    schedule = gx.warmup_cosine_decay_schedule(0.0, args.learning_rate, steps // 10, steps + 1)

    tx = make_optimizer(args.optimizer, schedule, args.weight_decay)
    print(tx)
    graph, params = nnx.split(Network(nnx.Rngs(args.seed)))
    state = tx.init(params)

    def loss_of(params, images, labels):
        scores = nnx.merge(graph, params)(images)
        return optax.losses.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, images, labels):
        loss, grads = jax.value_and_grad(loss_of)(params, images, labels)
        updates, state = tx.update(grads, state, params)
        return gx.apply_updates(params, updates), state, loss

    @jax.jit
    def accuracy(params, images, labels):
        return jnp.mean(jnp.argmax(nnx.merge(graph, params)(images), axis=-1) == labels)

    rng = np.random.default_rng(args.seed)
    rates = np.asarray(jax.vmap(schedule)(jnp.arange(steps)))
    log = common.Log(args, epoch_steps)
    for _ in range(args.epochs):
        for images, labels in common.batches(train, args.batch_size, rng):
            params, state, loss = step(params, state, images, labels)
            log.step(loss, rates[len(log.losses)])
        log.epoch(float(accuracy(params, *validation)))
    log.finish(float(accuracy(params, *test)))


if __name__ == "__main__":
    main()
