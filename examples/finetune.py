"""Train a network (Flax NNX) on the digits 0 to 4, and finetune it on a few images of the digits 5 to 9.

First its new head alone, then all layers, the lower ones slower; the average of the weights is evaluated.

python examples/finetune.py
"""

from typing import NamedTuple

import common  # first: it says what is missing
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib import pyplot as plt
from tqdm import tqdm

import gradx as gx
from gradx.flax import eval_model, opt_state

CLASSES, FEW = 5, 100  # images to finetune with
MICRO_BATCH, EVERY = 10, 2  # a step is taken for two micro-batches
LAYERS = ["^conv1/", "^conv2/", "^(hidden|norm)/", "^head/"]  # from the input to the output
GROUPS = [layer.rstrip("/") for layer in LAYERS]  # as metrics call them


class Network(nnx.Module):
    """Two convolutions, a hidden layer and a head; 8 x 8 images in, 5 scores out."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 24, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(24, 48, (3, 3), rngs=rngs)
        self.hidden = nnx.Linear(2 * 2 * 48, 96, rngs=rngs)
        self.norm = nnx.LayerNorm(96, rngs=rngs)
        self.head = nnx.Linear(96, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.conv1(x)), (2, 2), strides=(2, 2))
        x = nnx.max_pool(nnx.relu(self.conv2(x)), (2, 2), strides=(2, 2))
        return self.head(nnx.relu(self.norm(self.hidden(x.reshape(x.shape[0], -1)))))


def loss_of(model, images, labels):
    return optax.losses.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()


@nnx.jit
def step(model, optimizer, images, labels):
    loss, grads = nnx.value_and_grad(loss_of)(model, images, labels)
    optimizer.update(model, grads)
    return loss


@nnx.jit
def accuracy(model, images, labels):
    return jnp.mean(jnp.argmax(model(images), axis=-1) == labels)


def around(tx: gx.GradientTransformation, every: int = 1) -> gx.GradientTransformation:
    """What each phase has around its optimizer: clipping, an average, micro-batches, metrics."""
    return gx.measured(gx.accumulate(gx.chain(gx.clip_by_global_norm(1.0), tx, gx.ema_params(0.98)), every))


def halves(data: common.Split) -> tuple[common.Split, common.Split]:
    """The digits 0 to 4, and 5 to 9 with labels from 0 to 4."""
    low, high = (common.Split(data.images[x], data.labels[x] % CLASSES) for x in by_half(data.labels))
    return low, high


def by_half(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return labels < CLASSES, labels >= CLASSES


class History(NamedTuple):
    """Of a phase: the loss of each micro-batch, (micro-batch, accuracy) of each epoch, rates by group."""

    losses: list
    accuracies: list[tuple[int, float]]
    rates: dict[str, list[float]]


def train(name, model, tx, data, validation, epochs, batch_size, groups=(), patience=10) -> History:
    """Until the average stops being better on the validation images; the model is then the best there was."""
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    stopping = gx.early_stopping(patience, mode="max")
    best = stopping.init(nnx.as_pure(nnx.state(model, nnx.Param)))
    history, rng = History([], [], {group: [] for group in groups}), np.random.default_rng(0)
    with gx.CSVWriter(f"finetune_{name}.csv") as writer:
        for _ in tqdm(range(epochs), desc=name, unit="epoch", leave=False):
            for images, labels in common.batches(data, batch_size, rng):
                history.losses.append(step(model, optimizer, images, labels))
                state = opt_state(optimizer)
                if gx.has_updated(state):
                    metrics = gx.metrics(state)
                    writer.write(len(history.losses), {"loss": history.losses[-1], **metrics})
                    for group in history.rates:
                        history.rates[group].append(float(metrics[f"groups/{group}/learning_rate"]))
            averaged = eval_model(optimizer, model)
            found = float(accuracy(averaged, *validation))
            history.accuracies.append((len(history.losses), found))
            best = stopping.update(best, found, nnx.as_pure(nnx.state(averaged, nnx.Param)))
            if best.should_stop:
                break
    nnx.update(model, best.best_params)
    print(f"{name:8} {int(best.step):3d} epochs, validation accuracy {float(best.best):.4f}")
    return history


def draw(histories: dict[str, History]) -> None:
    """The losses, the accuracies, and the rates of the layers in the last phase."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    start = 0
    for (name, history), style in zip(histories.items(), ["-", "--", ":"], strict=True):
        losses = np.asarray(jax.device_get(history.losses))
        axes[0].semilogy(start + np.arange(len(losses)), losses, style, lw=0.9, label=name)
        at, found = zip(*history.accuracies, strict=True)
        axes[1].plot(start + np.asarray(at), found, style, label=name)
        start += len(losses)
    for (name, rates), style in zip(histories["all"].rates.items(), ["-", "--", ":", "-."], strict=True):
        axes[2].plot(rates, style, label=name)
    axes[2].set_ylim(0, 1.5 * max(rates))  # the head's are the highest; above them is the legend
    titles = ["training loss", "validation accuracy of the average", "learning rates of the layers"]
    for ax, title, x in zip(axes, titles, ["micro-batch", "micro-batch", "step"], strict=True):
        ax.set(title=title, xlabel=x)
        ax.grid(alpha=0.3)
        ax.legend()
    figure.savefig("finetune.png", dpi=120)
    print("picture: finetune.png; metrics: finetune_*.csv")


def main() -> None:
    (old, new), (old_validation, new_validation), (_, test) = map(halves, common.load_data())
    few = common.Split(new.images[:FEW], new.labels[:FEW])
    rngs = nnx.Rngs(0)
    model = Network(rngs)
    epochs, steps = 40, 40 * FEW // (MICRO_BATCH * EVERY)
    schedule = gx.warmup_cosine_decay_schedule(0.0, 3e-3, steps // 10, steps)
    decayed = gx.adamw(schedule, weight_decay=0.01, mask="no_bias_or_norm")

    pretraining = around(gx.adamw(3e-3, weight_decay=0.01, mask="no_bias_or_norm"))
    head_alone = gx.groups(gx.adamw(1e-2), {"^(conv|hidden|norm)": gx.frozen()})
    layers = gx.layerwise_decay(decayed, LAYERS, decay=0.6)
    print(gx.explain(head_alone, nnx.state(model, nnx.Param)))

    histories = {"pretrain": train("pretrain", model, pretraining, old, old_validation, 15, 64)}
    model.head = nnx.Linear(96, CLASSES, rngs=rngs)
    histories["head"] = train("head", model, around(head_alone, EVERY), few, new_validation, 15, MICRO_BATCH)
    alone = float(accuracy(model, *test))
    histories["all"] = train(
        "all", model, around(layers, EVERY), few, new_validation, epochs, MICRO_BATCH, GROUPS
    )
    draw(histories)
    print(f"head_accuracy={alone:.4f} test_accuracy={float(accuracy(model, *test)):.4f}")


if __name__ == "__main__":
    main()
