"""The digits once more, with a Flax Linen model and a `TrainState` that holds a gradx chain.

python examples/digits_linen.py --optimizer lion
"""

from functools import partial

import common  # first: it says what is missing
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState

import gradx as gx


class Network(nn.Module):
    """Two convolutions and a hidden layer; 8 x 8 images in, 10 scores out."""

    @nn.compact
    def __call__(self, x):
        x = nn.max_pool(nn.relu(nn.Conv(24, (3, 3))(x)), (2, 2), strides=(2, 2))
        x = nn.max_pool(nn.relu(nn.Conv(48, (3, 3))(x)), (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(96)(x.reshape(x.shape[0], -1)))
        return nn.Dense(10)(x)


def make_optimizer(name: str, schedule: gx.Schedule, weight_decay: float) -> gx.GradientTransformation:
    """The ready-made optimizers, each behind a clip."""
    decay = {"weight_decay": weight_decay, "mask": gx.matrices_only}
    optimizer = {
        "sgd": partial(gx.sgd, momentum=0.9, nesterov=True),
        "adam": gx.adam,
        "adamw": partial(gx.adamw, **decay),
        "lion": partial(gx.lion, **decay),
        "lars": partial(gx.lars, weight_decay=weight_decay, weight_decay_mask=gx.matrices_only),
        "lamb": partial(gx.lamb, **decay),
    }
    l2 = gx.add_decayed_weights(**decay) if name in ("sgd", "adam") else gx.identity()
    return gx.chain(gx.clip_by_global_norm(1.0), l2, optimizer[name](schedule))


@partial(jax.jit, donate_argnums=0)
def step(state: TrainState, images, labels):
    def loss_of(params):
        scores = state.apply_fn({"params": params}, images)
        return optax.losses.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

    loss, grads = jax.value_and_grad(loss_of)(state.params)
    return state.apply_gradients(grads=grads), loss


@jax.jit
def accuracy(state: TrainState, images, labels):
    return jnp.mean(jnp.argmax(state.apply_fn({"params": state.params}, images), axis=-1) == labels)


def main() -> None:
    args = common.parse_args(__doc__.splitlines()[0], "digits_linen.png")
    train, validation, test = common.load_data()
    epoch_steps = len(train.labels) // args.batch_size
    steps = args.epochs * epoch_steps
    # One step more than there are, so that the last one still moves, and a run of one step is allowed.
    schedule = gx.warmup_cosine_decay_schedule(0.0, args.learning_rate, steps // 10, steps + 1)

    model = Network()
    tx = make_optimizer(args.optimizer, schedule, args.weight_decay)
    print(tx)
    params = model.init(jax.random.key(args.seed), train.images[:1])["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    rng = np.random.default_rng(args.seed)
    rates = np.asarray(jax.vmap(schedule)(jnp.arange(steps)))
    log = common.Log(args, epoch_steps)
    for _ in range(args.epochs):
        for images, labels in common.batches(train, args.batch_size, rng):
            state, loss = step(state, images, labels)
            log.step(loss, rates[len(log.losses)])
        log.epoch(float(accuracy(state, *validation)))
    log.finish(float(accuracy(state, *test)))


if __name__ == "__main__":
    main()
