"""Train with batches from 32 to half of the data, and see which optimizer still learns as well.

Two data sets, four optimizers, a fixed number of epochs. The learning rate is chosen for each batch size on
validation data ("tuned"), or for a batch of 32 only and then scaled by the square root of the batch size or
in proportion to it. Every seed has a split of the data, a start and an order of its own, the same for all.

python examples/large_batch.py
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import common  # noqa: F401  (first: it says what is missing)
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from matplotlib import pyplot as plt
from scipy.stats import t as student
from sklearn.datasets import load_breast_cancer, load_digits
from tqdm import tqdm

import gradx as gx

MATRICES = "matrices_only"
OPTIMIZERS: dict[str, tuple[Callable, float]] = {  # and the middle of the learning rates that are tried
    "SGD": (lambda rate: gx.sgd(rate, momentum=0.9, nesterov=True), 0.1),
    "AdamW": (partial(gx.adamw, weight_decay=0.01, mask=MATRICES), 8e-3),
    "LARS": (
        partial(
            gx.lars, trust_coefficient=0.02, weight_decay=5e-4, trust_ratio_mask=MATRICES, variant="mlperf"
        ),
        1.0,
    ),
    "LAMB": (partial(gx.lamb, weight_decay=0.01, mask=MATRICES, trust_ratio_mask=MATRICES), 3e-2),
}
RULES = ["tuned", "square root", "linear"]
STYLES = ["o-", "s--", "^-.", "D:"]


class Task(NamedTuple):
    """Rows by features, of which some are for training and some for validation; and how much is tried."""

    name: str
    inputs: np.ndarray
    labels: np.ndarray
    train: int
    validation: int
    sizes: list[int]  # of the batches
    seeds: int = 10
    rates: int = 9  # each twice the one before
    epochs: int = 20

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1

    @property
    def runs(self) -> int:
        return len(OPTIMIZERS) * self.seeds * (len(self.sizes) * (self.rates + 2) - 2)


class Data(NamedTuple):
    """What one seed decides: three pairs of inputs and labels, the order of training, the start."""

    train: Any
    validation: Any
    test: Any
    order: Any
    start: Any


class Sweep(NamedTuple):
    """One optimizer with one batch size: the rates, and accuracies of shape (seeds, rates) in percent."""

    rates: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    scaled: int  # how many of the rates, at the end, come from rules

    def best(self) -> int:
        """Which of the rates that were tried for tuning is best on the validation data."""
        return int(self.validation.mean(0)[: len(self.rates) - self.scaled].argmax())

    def chosen(self, rule: str) -> int:
        return self.best() if rule == "tuned" or not self.scaled else RULES.index(rule) - len(RULES)

    def accuracy(self, rule: str) -> np.ndarray:
        """On the test data, of each seed."""
        return self.test[:, self.chosen(rule)]


class Result(NamedTuple):
    """All of one task."""

    task: Task
    found: dict[str, dict[int, Sweep]]  # by optimizer and batch size
    noise: np.ndarray  # the gradient noise scale at each step, with the smallest batch


def tasks(quick: bool) -> list[Task]:
    digits, cancer = load_digits(), load_breast_cancer()
    both = [
        Task("digits", digits.data, digits.target, 1024, 256, [32, 64, 128, 256, 512]),
        Task("breast cancer", cancer.data, cancer.target, 384, 85, [32, 96, 192]),
    ]
    return [both[0]._replace(sizes=[32, 512], seeds=3, rates=5, epochs=4)] if quick else both


class Network(nn.Module):
    """Four hidden layers."""

    classes: int

    @nn.compact
    def __call__(self, x):
        for _ in range(4):
            x = nn.relu(nn.Dense(64)(x))
        return nn.Dense(self.classes)(x)


@partial(jax.jit, static_argnums=0)
def init(classes: int, seed: int, row: jax.Array) -> Any:
    return Network(classes).init(jax.random.key(seed), row)


def drawn(task: Task, seed: int) -> Data:
    """A split, scaled to mean 0 and variance 1 by what is for training; an order, and a start."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(task.labels))
    inputs, labels = task.inputs[rows], task.labels[rows].astype(np.int32)
    seen = inputs[: task.train]
    inputs = ((inputs - seen.mean(0)) / (seen.std(0) + 1e-3)).astype(np.float32)
    ends = [task.train, task.train + task.validation]
    parts = zip(np.split(inputs, ends), np.split(labels, ends), strict=True)
    order = np.concatenate([rng.permutation(task.train) for _ in range(task.epochs)])
    return Data(*parts, order, init(task.classes, seed, inputs[:1]))


class Job(NamedTuple):
    """What is compiled: one program trains all seeds with all rates."""

    classes: int
    optimizer: str
    size: int

    def fit(self, data: Data, rate: Any, observed: bool = False) -> tuple[Any, Any]:
        """Train: the parameters in the end, and the gradient noise at each step if it is observed."""
        steps = len(data.order) // self.size
        warmup = -(-steps // 10)
        curve = gx.warmup_cosine_decay_schedule(1 / (warmup + 1), 1.0, warmup, steps)
        tx = OPTIMIZERS[self.optimizer][0](lambda count: rate * curve(count))
        noise_scale = gx.gradient_noise_scale(0.9)
        in_parts = gx.accumulate_gradients(self.loss, squared_norms=True)

        def step(carry, chosen):
            params, state, noise = carry
            batch = jax.tree.map(lambda x: x[chosen], data.train)
            if observed:
                _, grads, squared_norms = in_parts(params, gx.micro_batches(batch, 4))
                noise = noise_scale.update(noise, squared_norms, grads, self.size)
            else:
                grads = jax.grad(self.loss)(params, batch)
            updates, state = tx.update(grads, state, params)
            return (gx.apply_updates(params, updates), state, noise), noise

        carry = data.start, tx.init(data.start), noise_scale.init()
        (params, *_), noise = jax.lax.scan(step, carry, data.order.reshape(steps, self.size))
        return params, noise

    def loss(self, params: Any, batch: Any) -> jax.Array:
        scores = Network(self.classes).apply(params, batch[0])
        return optax.losses.softmax_cross_entropy_with_integer_labels(scores, batch[1]).mean()

    @partial(jax.jit, static_argnums=0)
    def accuracies(self, data: Data, rates: Any) -> Any:
        """In percent on the validation and the test data, each of shape (seeds, rates)."""

        def one(data, rate):
            params, _ = self.fit(data, rate)
            right = lambda x, y: jnp.argmax(Network(self.classes).apply(params, x), axis=-1) == y
            return [100 * jnp.mean(right(*part), dtype=jnp.float32) for part in (data.validation, data.test)]

        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(data, rates)

    @partial(jax.jit, static_argnums=0)
    def noise(self, data: Data, rate: Any) -> jax.Array:
        """The gradient noise scale at each step: noise and signal are means over the seeds."""
        _, states = jax.vmap(partial(self.fit, observed=True), (0, None))(data, rate)
        return jax.tree.map(lambda x: x.mean(0), states).scale


def run(task: Task, bar: tqdm) -> Result:
    """All optimizers with all batch sizes."""
    data = jax.tree.map(lambda *x: jnp.stack(x), *(drawn(task, seed) for seed in range(task.seeds)))
    found: dict[str, dict[int, Sweep]] = {name: {} for name in OPTIMIZERS}
    for name, sweeps in found.items():
        grid = OPTIMIZERS[name][1] * 2.0 ** (np.arange(task.rates) - task.rates // 2)
        for size in task.sizes:
            bar.set_description(f"{task.name}, {name}, batch {size}")
            first, more = sweeps.get(task.sizes[0]), size / task.sizes[0]
            scaled = [] if first is None else [first.rates[first.best()] * x for x in (more**0.5, more)]
            rates = np.array([*grid, *scaled])
            accuracies = Job(task.classes, name, size).accuracies(data, jnp.asarray(rates, jnp.float32))
            sweeps[size] = Sweep(rates, *map(np.asarray, accuracies), len(scaled))
            bar.update(len(rates) * task.seeds)
    sweep = found["AdamW"][task.sizes[0]]
    noise = Job(task.classes, "AdamW", task.sizes[0]).noise(data, sweep.rates[sweep.best()])
    return Result(task, found, np.asarray(noise))


def interval(x: np.ndarray) -> np.ndarray:
    """Half the width of the 95 % confidence interval of the mean over the seeds."""
    return student.ppf(0.975, len(x) - 1) * x.std(0, ddof=1) / len(x) ** 0.5


def shown(x: np.ndarray) -> str:
    return f"{x.mean():.1f} ± {interval(x):.1f}"


def table(result: Result) -> str:
    """Markdown: the accuracy on the test data, and the rate that was chosen."""
    task, found, _ = result
    rows = [["batch (steps)", "rate", *OPTIMIZERS], ["---"] * (2 + len(OPTIMIZERS))]
    for size in task.sizes:
        for rule in RULES if size > task.sizes[0] else RULES[:1]:
            cells = [
                f"{shown(sweeps[size].accuracy(rule))} ({sweeps[size].rates[sweeps[size].chosen(rule)]:.2g})"
                for sweeps in found.values()
            ]
            rows.append([f"{size} ({task.epochs * task.train // size})", rule, *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def findings(result: Result) -> str:
    """What the largest batch costs, who is better there than AdamW, and what was not tried."""
    task, found, noise = result
    small, *_, large = task.sizes
    last = {rule: {name: x[large].accuracy(rule) for name, x in found.items()} for rule in RULES}
    lost = {name: x - found[name][small].accuracy("tuned") for name, x in last["tuned"].items()}
    compared = {f"tuned, batch {large} against {small}": lost}
    for rule, at in last.items():
        beside = {name: x - at["AdamW"] for name, x in at.items() if name != "AdamW"}
        compared[f"{rule}, batch {large}, against AdamW"] = beside
    lines = [f"In percentage points, bold where the interval is without 0 ({task.name}):", ""]
    for what, differences in compared.items():
        mark = lambda x: "**" if abs(x.mean()) > interval(x) else ""
        cells = [f"{name} {mark(x)}{shown(x)}{mark(x)}" for name, x in differences.items()]
        lines.append(f"- {what}: {', '.join(cells)}")
    at_end = lambda sweep: sweep.best() in (0, task.rates - 1)
    ends = [f"{name} at {k}" for name, sweeps in found.items() for k in sweeps if at_end(sweeps[k])]
    lines.append(f"- the best rate is the first or the last that was tried: {', '.join(ends) or 'nowhere'}")
    quarters = ", ".join(f"{np.median(x):.0f}" for x in np.array_split(noise, 4))
    lines.append(f"- gradient noise scale in the quarters of the run, at batch {small}: {quarters} rows")
    return "\n".join(lines)


def draw(results: list[Result]) -> None:
    """Accuracy over the batch size, tuned and scaled, and the noise scale over the epochs."""
    figure, axes = plt.subplots(len(results), 3, figsize=(13, 3.6 * len(results)), squeeze=False)
    figure.set_layout_engine("constrained")
    for row, (task, found, noise) in zip(axes, results, strict=True):
        for ax, rule in zip(row, RULES[:2], strict=False):
            for i, ((name, sweeps), style) in enumerate(zip(found.items(), STYLES, strict=True)):
                x = np.stack([sweep.accuracy(rule) for sweep in sweeps.values()], axis=1)
                beside = np.array(task.sizes) * 2 ** (0.06 * (i - 1.5))
                ax.errorbar(beside, x.mean(0), interval(x), fmt=style, capsize=3, label=name)
            ax.set(title=f"{task.name}, {rule} rate", xlabel="batch size", ylabel="test accuracy, %")
            ax.set_xscale("log", base=2)
            ax.set_xticks(task.sizes, map(str, task.sizes))
        row[2].semilogy(np.linspace(0, task.epochs, len(noise)), noise, "k", label="AdamW, batch 32")
        row[2].axhline(task.sizes[-1], color="0.6", ls="--", label="largest batch")
        row[2].set(title=f"{task.name}, gradient noise scale", xlabel="epoch", ylabel="rows")
    for ax in axes.flat:
        ax.grid(alpha=0.3)
        ax.legend(fontsize="small")
    figure.savefig("large_batch.png", dpi=120)
    print("picture: large_batch.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="digits alone, and less of everything")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    args = parser.parse_args()
    results, chosen = [], tasks(args.quick)
    with tqdm(
        total=sum(task.runs for task in chosen), disable=args.no_progress, unit="run", leave=False
    ) as bar:
        for task in chosen:
            results.append(run(task, bar))
            with bar.external_write_mode(file=sys.stdout):
                print(f"{table(results[-1])}\n\n{findings(results[-1])}\n")
    draw(results)


if __name__ == "__main__":
    main()
