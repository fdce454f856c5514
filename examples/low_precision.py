"""Train with the parameters and the optimizer's slots in 32, 16 and 8 bits, and compare the losses they end with.

A character model learns the source text of Python's standard library, and a network the digits under noise. Each
format starts from the same weights and sees the same batches, for every seed. The models compute in float32 whatever
the parameters are stored in, so that nothing but the optimizer's precision differs.

python examples/low_precision.py
"""

import argparse
import pathlib
import sysconfig
import zlib
from collections.abc import Callable
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
BASELINE = "float32"

# The dtype of the parameters, and what becomes of AdamW.
FORMATS: dict[str, tuple[Any, Callable]] = {
    BASELINE: (jnp.float32, lambda make: make(gx)),
    "bf16, plain": (jnp.bfloat16, lambda make: make(optax)),
    "master": (jnp.bfloat16, lambda make: gx.chain(make(gx), gx.master_weights())),
}


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


class Task(NamedTuple):
    """A model, its batches (inputs, labels) by key, what the loss is taken of in the end, and how long it learns."""

    name: str
    model: nn.Module
    batch: Callable
    held_out: tuple[jax.Array, jax.Array]
    steps: int
    learning_rate: float

    def loss(self, params, batch):
        """The mean cross-entropy, computed in float32."""
        inputs, labels = batch
        scores = self.model.apply(jax.tree.map(lambda p: p.astype(jnp.float32), params), inputs)
        return optax.losses.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


def library_text() -> tuple[np.ndarray, np.ndarray]:
    """Python's standard library as numbers below `CHARACTERS`, and, to test with, that of a tenth of its files."""
    train, test = [], []
    for path in sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py")):
        # By a hash of the name, a file is on the same side in every version of Python.
        (train if zlib.crc32(path.name.encode()) % 10 else test).append(path.read_bytes())
    codes = [np.frombuffer(b"\n".join(files), np.uint8) for files in (train, test)]
    codes = [x[(x == ord("\n")) | ((x >= ord(" ")) & (x <= ord("~")))] for x in codes]
    return tuple(np.maximum(x, 31) - 31 for x in codes)


def text(quick: bool) -> Task:
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
    """What one format came to with one seed: the loss of each step, the loss in the end, bytes per parameter."""

    losses: np.ndarray
    final: float
    size: float


def train(task: Task, format: str, seed: int, bar: tqdm) -> Run:
    """From the same weights, with the same batches, whatever the format."""
    dtype, around = FORMATS[format]
    schedule = gx.warmup_cosine_decay_schedule(0.0, task.learning_rate, task.steps // 20, task.steps + 1)
    tx = around(lambda library: library.adamw(schedule, weight_decay=0.01))

    @partial(jax.jit, donate_argnums=(0, 1))
    def steps(params, state, keys):
        def step(carry, key):
            params, state = carry
            loss, grads = jax.value_and_grad(task.loss)(params, task.batch(key))
            updates, state = tx.update(grads, state, params)
            return (gx.apply_updates(params, updates), state), loss

        (params, state), losses = jax.lax.scan(step, (params, state), keys)
        return params, state, losses

    weights, order = jax.random.split(jax.random.key(seed))
    params = task.model.init(weights, task.held_out[0][:1])
    params = jax.tree.map(lambda p: p.astype(dtype), params)
    state, losses = tx.init(params), []
    held = sum(x.nbytes for x in jax.tree.leaves((params, state)))
    for keys in jax.random.split(order, (10, task.steps // 10)):
        params, state, found = steps(params, state, keys)
        losses.append(np.asarray(found))
        bar.update(len(keys))
    final = float(jax.jit(task.loss)(params, task.held_out))
    return Run(np.concatenate(losses), final, held / sum(p.size for p in jax.tree.leaves(params)))


def differences(runs: dict[str, list[Run]], format: str) -> np.ndarray:
    """Percent of float32's final loss with the same seed."""
    pairs = zip(runs[format], runs[BASELINE], strict=True)
    return np.array([100 * (run.final / base.final - 1) for run, base in pairs])


def table(runs: dict[str, list[Run]]) -> str:
    lines = [f"{'':16} {'loss':>7} {'difference':>11} {'of a seed, at most':>20} {'B/parameter':>12}"]
    for name, found in runs.items():
        off = differences(runs, name)
        lines.append(
            f"{name:16} {np.mean([run.final for run in found]):7.4f} {off.mean():+10.2f}% "
            f"{off[abs(off).argmax()]:+19.2f}% {found[0].size:12.2f}"
        )
    return "\n".join(lines)


def draw(results: dict[str, dict[str, list[Run]]], path: pathlib.Path) -> None:
    """What each format loses while it learns, and in the end: mean and seeds."""
    figure, axes = plt.subplots(1, len(results) + 1, figsize=(13, 3.8), layout="constrained")
    styles = dict(zip(FORMATS, ["-", ":", "--", "-.", (0, (1, 1)), (0, (5, 1))], strict=False))
    for ax, (task, runs) in zip(axes, results.items(), strict=False):
        smooth = {name: np.mean([r.losses for r in found], 0) for name, found in runs.items()}
        smooth = {name: x.reshape(30, -1).mean(1) for name, x in smooth.items()}
        at = (np.arange(30) + 0.5) * len(runs[BASELINE][0].losses) / 30
        for name, x in smooth.items():
            ax.plot(at, 100 * (x / smooth[BASELINE] - 1), ls=styles[name], label=name)
        ax.set(title=f"{task}: training loss against float32's", xlabel="step", ylabel="%")
    for i, (task, runs) in enumerate(results.items()):
        for j, name in enumerate(runs):
            off = differences(runs, name)
            axes[-1].plot(off, [j + 0.3 * i] * len(off), "os"[i], mfc="none", color=f"C{i}", ms=4)
            axes[-1].plot(off.mean(), j + 0.3 * i, "os"[i], color=f"C{i}", label=task if not j else None)
    figure.savefig(path, dpi=120)
