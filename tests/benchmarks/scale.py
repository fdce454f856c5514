"""What a step of a large model takes of each chip of a TPU slice, compiled for it, and not run.

`make bench-scale` writes docs/benchmarks/scale.md.
"""

import argparse
import collections
import pathlib
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gradx as gx
from gradx.analysis.compilers import tpu_slice
from gradx.core.apply import step_of
from gradx.core.tree import slash_paths
from tests import trees
from tests.benchmarks.machine import describe

PUBLISHED = pathlib.Path(__file__).parents[2] / "docs" / "benchmarks" / "scale.md"
SLICES = {"v5e:2x4": (2, 4), "v5e:16x16": (16, 16)}  # the mesh: data, model
LAYERS = {"layers/": 0}
ADAMW = gx.adamw(1e-3, weight_decay=0.1)
OPTIMIZERS = {
    "AdamW": ADAMW,
    "LAMB": gx.stacked(gx.lamb(1e-3, weight_decay=0.01), LAYERS),
    # Tensors are split into at most 16 along their last axis; the vectors of layers are left in float32.
    "AdamW, 8-bit": gx.stacked(
        gx.chain(gx.store(ADAMW, gx.Blockwise(shards=16), seed=0), gx.split_weights()), LAYERS
    ),
}
# The axis of a parameter that a model is split along, from the end: the heads, the hidden units, the words.
COLUMNS, ROWS = re.compile("/(q|k|v|gate|in)$|^head$"), re.compile("/out$|^token$")
COLLECTIVES = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"


class Layout(NamedTuple):
    """Where the parameters are, and over which axis the state is split besides."""

    place: Any
    zero_axis: str | None


def fully_sharded(path: str, p: Any) -> PartitionSpec:
    """Over all chips, along the last axis but one; the vectors of a layer along the last."""
    axes = [None] * p.ndim
    axes[-2 if COLUMNS.search(path) or ROWS.search(path) else -1] = ("data", "model")
    return PartitionSpec(*axes)


def tensor_sharded(path: str, p: Any) -> PartitionSpec:
    """Over the chips of the model axis, as Megatron splits a transformer; vectors are whole."""
    axes = [None] * p.ndim
    if COLUMNS.search(path):
        axes[-1] = "model"
    elif ROWS.search(path):
        axes[-2] = "model"
    return PartitionSpec(*axes)


LAYOUTS = {
    "fully sharded": Layout(fully_sharded, None),
    "ZeRO-1 over data, tensors over model": Layout(tensor_sharded, "data"),
}


class Chip(NamedTuple):
    """What one chip holds, in bytes, and the collectives of a step, by name."""

    arguments: int
    state: int
    temporaries: int
    collectives: dict[str, int]


def chip(tx: Any, params: Any, mesh: Mesh, layout: Layout) -> Chip:
    """Compile a step for all chips of a mesh; the gradients are where the parameters are."""
    treedef = jax.tree.structure(params)
    specs = map(layout.place, slash_paths(params), jax.tree.leaves(params))
    places = treedef.unflatten([NamedSharding(mesh, spec) for spec in specs])
    state_places = gx.state_sharding(tx, params, places, zero_axis=layout.zero_axis)
    on = lambda shapes, places: jax.tree.map(lambda x, s: x.update(sharding=s), shapes, places)
    params, state = on(params, places), on(jax.eval_shape(tx.init, params), state_places)
    step = jax.jit(step_of("tx", tx), donate_argnums=(1, 2), out_shardings=(places, state_places))
    compiled = step.lower(params, state, params).compile()
    memory = compiled.memory_analysis()
    held = sum(x.dtype.itemsize * np.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(state))
    found = re.findall(rf" ({COLLECTIVES})(?:-start)?\(", compiled.as_text())
    return Chip(
        memory.argument_size_in_bytes,
        int(held),
        memory.temp_size_in_bytes,
        dict(sorted(collections.Counter(found).items())),
    )


def report(params: Any, slices: dict[str, tuple[int, int]]) -> str:
    """A row for each slice, layout and optimizer."""
    heads = ["slice", "layout", "optimizer", "arguments, GB", "of it state", "temporaries, GB", "collectives"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, shape in slices.items():
        mesh = Mesh(np.array(tpu_slice(name)).reshape(shape), ("data", "model"))
        for how, layout in LAYOUTS.items():
            for words, tx in OPTIMIZERS.items():
                found = chip(tx, params, mesh, layout)
                sizes = [f"{n / 1e9:.2f}" for n in found[:3]]
                collectives = ", ".join(f"{n} {kind}" for kind, n in found.collectives.items()) or "none"
                lines.append("| " + " | ".join([name, how, words, *sizes, collectives]) + " |")
                print(lines[-1], flush=True)
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="make bench-scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--slices", nargs="+", default=list(SLICES), choices=list(SLICES))
    parser.add_argument("--out", type=pathlib.Path, default=PUBLISHED)
    args = parser.parse_args(argv)
    params = trees.llama_7b(jnp.bfloat16)
    count = sum(p.size for p in jax.tree.leaves(params))
    text = report(params, {name: SLICES[name] for name in args.slices})
    m = describe()
    head = (
        "# A 7B model on a TPU slice\n\n"
        f"What a step takes of each chip: LLaMA-7B ({count / 1e9:.2f}B parameters, layers\n"
        "stacked), parameters and gradients in bfloat16, compiled for it and not run. The arguments are\n"
        f"parameters, gradients and state. gradx {m['gradx']}, jax {m['jax']}; {m['date']}.\n"
        "`make bench-scale` makes it."
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(f"{head}\n\n{text}\n")
    print(f"Saved in {args.out}.")


if __name__ == "__main__":
    main()
