"""What the formats of low precision cost in AdamW, for each parameter and on three machines.

`make bench-formats` writes docs/benchmarks/low_precision.md. The H100 and the v5e are compiled for, not run.
"""

import argparse
import functools
import pathlib
from typing import Any

import jax.numpy as jnp

import gradx as gx
from gradx.low_precision.precision import POLICIES
from tests.benchmarks.machine import describe
from tests.benchmarks.subjects import GRADIENT, PARAMETER, arrays, tree_of
from tests.benchmarks.timing import Limits, Spread, interleave, ratio

PUBLISHED = pathlib.Path(__file__).parents[2] / "docs" / "benchmarks" / "low_precision.md"
ADAMW = gx.adamw(1e-3, weight_decay=0.1)
NEAREST = gx.Rounded("bfloat16", rounding="nearest", force=True)
PLAIN, BF16 = "float32 slots, nothing else", "bf16 slots, all rounded to nearest"
FORMATS = {
    PLAIN: ADAMW,
    "float32 slots, `stochastic_rounding`": gx.chain(ADAMW, gx.stochastic_rounding(0)),
    BF16: gx.store(ADAMW, NEAREST),
} | {f'`precision(tx, "{name}")`': gx.precision(ADAMW, name) for name in POLICIES}
TARGETS = {"cuda": "H100", "tpu": "v5e", "cpu": "CPU"}


def costs(shapes: Any) -> dict[str, dict[str, gx.Cost]]:
    """What a step costs in each format, on each target whose compiler is there."""
    found: dict[str, dict[str, gx.Cost]] = {}
    for platform in TARGETS:
        try:
            found[platform] = {
                name: gx.cost(tx, shapes, platform=platform, grads_dtype=jnp.bfloat16)
                for name, tx in FORMATS.items()
            }
        except ImportError as e:
            print(e)
    return found


def times(shapes: Any, limits: Limits) -> dict[str, list[float]]:
    """Seconds of a step by `gradx.step` in each format, a round at a time."""
    grads, runs = arrays(shapes, GRADIENT), {}
    for name, tx in FORMATS.items():
        params = arrays(shapes, PARAMETER)
        runs[name] = functools.partial(Steps(tx, params).next, grads)
    return interleave(runs, limits)


class Steps:
    """An optimizer's steps, one after the other."""

    def __init__(self, tx: Any, params: Any) -> None:
        self.step, self.params, self.state = gx.step(tx), params, tx.init(params)

    def next(self, grads: Any) -> Any:
        self.params, self.state = self.step(grads, self.state, self.params)
        return self.params, self.state


def table(found: dict[str, dict[str, gx.Cost]], samples: dict[str, list[float]]) -> str:
    """A format a row."""
    over = functools.partial(lambda other, name: ratio(samples[name], samples[other]))
    platforms = list(found)
    heads = ["bf16 parameters, AdamW", "state"]
    heads += [f"{TARGETS[p]}: moved, temporary, kernels" for p in platforms]
    heads += ["time over the first", "over the third"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name in FORMATS:
        cost = {p: found[p][name] for p in platforms}
        cells = [name, f"{cost['cpu'].state_per_parameter:.2f}"]
        cells += [
            f"{c.moved_per_parameter:.1f}, {c.temporary_per_parameter:.2f}, {c.kernels}"
            for c in cost.values()
        ]
        cells += [quartiles(over(other, name)) for other in (PLAIN, BF16)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def quartiles(x: Spread) -> str:
    return f"{x.median:.2f} ({x.low:.2f} – {x.high:.2f})"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="make bench-formats", description=__doc__.partition("\n")[0])
    parser.add_argument("--tree", default="gpt2", help="a model, or 40x256 for 40 arrays of 256 elements")
    parser.add_argument("--seconds", type=float, default=60.0, help="for the rounds")
    parser.add_argument("--out", type=pathlib.Path, default=PUBLISHED)
    args = parser.parse_args(argv)
    shapes = tree_of(args.tree, jnp.bfloat16)
    found = costs(shapes)
    text = table(found, times(shapes, Limits(args.seconds)))
    m = describe()
    head = (
        "# The formats of low precision\n\n"
        f"AdamW in each: {args.tree}, parameters and gradients in bfloat16.\n"
        "Bytes are for each parameter; time is that of `gradx.step` on this CPU, over that of another row\n"
        f"in the same round (median and quartiles). gradx {m['gradx']}, jax {m['jax']}; {m['device']},\n"
        f"{m['cpus']} cores; {m['date']}. `make bench-formats` makes it."
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(f"{head}\n\n{text}\n")
    print(f"{text}\n\nSaved in {args.out}.")


if __name__ == "__main__":
    main()
