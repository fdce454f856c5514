"""Train with parameters and slots in 32, 16 and 8 bits, and compare the losses in the end.

A character model learns the text of Python's standard library, and a small network noisy digits, with five
seeds each. For a seed, every format starts from the same weights and sees the same batches. The models
compute in float32 whatever the parameters are stored in: nothing but the optimizer's precision differs.

python examples/low_precision.py
"""

import argparse
import dataclasses
import pathlib
import sys
import sysconfig
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import common  # first: it says what is missing
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from matplotlib import pyplot as plt
from tqdm import tqdm

import gradx as gx

CHARACTERS = 96  # a newline and the printable ones of ASCII
BASELINE, PLAIN = "float32", "plain bf16"
FORMATS = [BASELINE, PLAIN, "bf16-stochastic", "bf16-kahan", "master", "8-bit"]
POINTS = 30  # of a curve


def adamw(name: str, learning_rate: Callable) -> tuple[Any, Any]:
    """The dtype of the parameters, and the optimizer: plain is Optax's, with slots as its parameters are."""
    library = optax if name == PLAIN else gx
    tx = library.adamw(learning_rate, weight_decay=0.01)
    if name == BASELINE:
        return jnp.float32, tx
    return jnp.bfloat16, tx if name == PLAIN else gx.precision(tx, name)


class CharacterModel(nn.Module):
    """A gated recurrent network: characters (batch, length) in, scores of the next ones out."""

    width: int

    @nn.compact
    def __call__(self, characters):
        x = nn.Embed(CHARACTERS, 96)(characters)
        return nn.Dense(CHARACTERS)(nn.RNN(nn.GRUCell(self.width))(x))


class DigitModel(nn.Module):
    """Two hidden layers; 8 x 8 images in, 10 scores out."""

    @nn.compact
    def __call__(self, images):
        x = images.reshape(images.shape[0], -1)
        for width in (256, 128):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(10)(x)


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What is learnt: a batch is (inputs, labels), and drawn by a key."""

    name: str
    model: nn.Module
    batch: Callable
    held_out: tuple[jax.Array, jax.Array]
    steps: int
    learning_rate: float

    @partial(jax.jit, static_argnums=0)
    def init(self, key):
        return self.model.init(key, self.held_out[0][:1])

    @partial(jax.jit, static_argnums=0)
    def loss(self, params, batch):
        """The mean cross-entropy, computed in float32."""
        inputs, labels = batch
        scores = self.model.apply(jax.tree.map(lambda p: p.astype(jnp.float32), params), inputs)
        return optax.losses.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

    @partial(jax.jit, static_argnums=0)
    def gradients(self, params, key):
        """The loss of a new batch, and its gradients in the dtype of the parameters."""
        return jax.value_and_grad(self.loss)(params, self.batch(key))


def library_text() -> list[np.ndarray]:
    """Python's standard library as numbers below `CHARACTERS`: to train with, and a tenth of its files."""
    train, test = [], []
    for path in sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py")):
        # By a hash of the name, a file is on the same side in every version of Python.
        (train if zlib.crc32(path.name.encode()) % 10 else test).append(path.read_bytes())
    codes = [np.frombuffer(b"\n".join(files), np.uint8) for files in (train, test)]
    codes = [x[(x == ord("\n")) | ((x >= ord(" ")) & (x <= ord("~")))] for x in codes]
    return [np.maximum(x, 31) - 31 for x in codes]  # the newline is 0


def text(quick: bool) -> Task:
    """What comes next, at each of 32 characters: 16 windows a batch, anywhere in the text."""
    train, test = map(jnp.asarray, library_text())
    size, length = 16, 32

    def windows(data, starts):
        found = data[starts[:, None] + jnp.arange(length + 1)].astype(jnp.int32)
        return found[:, :-1], found[:, 1:]

    def batch(key):
        return windows(train, jax.random.randint(key, (size,), 0, len(train) - length))

    held_out = windows(test, jnp.linspace(0, len(test) - length - 1, 1024).astype(jnp.int32))
    return Task("text", CharacterModel(128 if quick else 512), batch, held_out, 150 if quick else 600, 4e-3)


def digits(quick: bool) -> Task:
    """Under noise, as without it the loss would go to 0, and a percentage of it mean nothing."""
    train, _, test = common.load_data()
    noise = 0.5

    def batch(key):
        chosen, noisy = jax.random.split(key)
        i = jax.random.randint(chosen, (128,), 0, len(train.labels))
        images = jnp.asarray(train.images)[i]
        return images + noise * jax.random.normal(noisy, images.shape), jnp.asarray(train.labels)[i]

    images, labels = (np.repeat(x, 10, axis=0) for x in test)
    held_out = jnp.asarray(images) + noise * jax.random.normal(jax.random.key(0), images.shape)
    return Task("digits", DigitModel(), batch, (held_out, jnp.asarray(labels)), 300 if quick else 3000, 1e-3)


class Run(NamedTuple):
    """What one format came to with one seed."""

    losses: np.ndarray  # of each step
    final: float  # loss, held out
    size: int  # parameters
    bytes: int  # of them and the state


def train(task: Task, name: str, seeds: Iterable[int], bar: tqdm) -> list[Run]:
    """A format with each seed: the weights to begin with and the batches are those of all formats."""
    schedule = gx.warmup_cosine_decay_schedule(0.0, task.learning_rate, task.steps // 20, task.steps + 1)
    dtype, tx = adamw(name, schedule)

    @partial(jax.jit, donate_argnums=(1, 2))
    def step(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return gx.apply_updates(params, updates), state

    runs = []
    for seed in seeds:
        bar.set_description(f"{task.name}, {name}, seed {seed}")
        weights, order = jax.random.split(jax.random.key(seed))
        params = jax.tree.map(lambda p: p.astype(dtype), task.init(weights))
        state, losses = tx.init(params), []
        size = sum(p.size for p in jax.tree.leaves(params))
        held = sum(x.nbytes for x in jax.tree.leaves((params, state)))
        for key in jax.random.split(order, task.steps):
            loss, grads = task.gradients(params, key)
            params, state = step(grads, state, params)
            losses.append(loss)
            bar.update()
        final = float(task.loss(params, task.held_out))
        runs.append(Run(np.asarray(jax.device_get(losses)), final, size, held))
    return runs


def differences(runs: dict[str, list[Run]], name: str) -> np.ndarray:
    """Percent of float32's final loss with the same seed."""
    pairs = zip(runs[name], runs[BASELINE], strict=True)
    return np.array([100 * (run.final / base.final - 1) for run, base in pairs])


def table(task: Task, runs: dict[str, list[Run]]) -> str:
    """The mean over the seeds, and the seed that is furthest off."""
    base = runs[BASELINE]
    lines = [f"{task.name}: {base[0].size:,} parameters, {task.steps} steps, seeds: {len(base)}"]
    lines.append(f"{'':16}{'loss':>8}{'above float32':>15}{'furthest':>10}{'B/parameter':>13}")
    for name, found in runs.items():
        off, loss = differences(runs, name), np.mean([run.final for run in found])
        row = f"{name:16}{loss:8.4f}{off.mean():+13.2f} %{off[abs(off).argmax()]:+8.2f} %"
        lines.append(f"{row}{found[0].bytes / found[0].size:13.2f}")
    return "\n".join(lines) + "\n"


def draw(results: dict[str, dict[str, list[Run]]]) -> None:
    """What each format loses to float32: of the training loss on the way, and of the loss in the end."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    others = [name for name in FORMATS if name != BASELINE]
    styles = dict(zip(others, ["-", "--", "-.", ":", (0, (8, 2, 1, 2, 1, 2))], strict=True))
    for ax, (task, runs) in zip(axes, results.items(), strict=False):
        losses = {name: np.mean([run.losses for run in found], axis=0) for name, found in runs.items()}
        curves = {name: x.reshape(POINTS, -1).mean(axis=1) for name, x in losses.items()}
        steps = (np.arange(POINTS) + 0.5) * len(losses[BASELINE]) / POINTS
        for name in others:
            off = 100 * (curves[name] / curves[BASELINE] - 1)
            ax.plot(steps, off, ls=styles[name], lw=2.5 if name == PLAIN else 1.2, label=name)
        ax.set(title=f"{task}: training loss", xlabel="step", ylabel="above float32's, %")
        ax.legend(fontsize="small")
    last = axes[-1]
    last.axvspan(-0.5, 0.5, color="0.88", label="0.5 %")
    for (task, runs), marker, shift in zip(results.items(), "os", (-0.12, 0.12), strict=True):
        for i, name in enumerate(others):
            off, at = differences(runs, name), len(others) - 1 - i - shift
            last.plot(off, np.full(len(off), at), marker, mfc="none", mec="0.5", ms=4)
            last.plot(off.mean(), at, marker, color="k", ms=6, label=None if i else f"{task}, and each seed")
    last.set_yticks(range(len(others)), others[::-1])
    last.set(title="held-out loss in the end", xlabel="above float32's, %")
    last.legend(fontsize="small", loc="lower right")
    for ax in axes:
        ax.grid(alpha=0.3)
    figure.savefig("low_precision.png", dpi=120)
    print("picture: low_precision.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, fewer steps, a narrower network")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    args = parser.parse_args()
    seeds = range(1 if args.quick else 5)
    tasks = [text(args.quick), digits(args.quick)]

    results = {}
    total = sum(task.steps for task in tasks) * len(FORMATS) * len(seeds)
    with tqdm(total=total, disable=args.no_progress, unit="step", leave=False) as bar:
        for task in tasks:
            results[task.name] = {name: train(task, name, seeds, bar) for name in FORMATS}
            with bar.external_write_mode(file=sys.stdout):
                print(table(task, results[task.name]))
    draw(results)


if __name__ == "__main__":
    main()
