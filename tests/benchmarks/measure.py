"""One case measured in every respect: an optimizer on a tree of one dtype."""

import dataclasses
import gc
import math
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

import gradx as gx
from gradx.analysis.compilers import bytes_moved, kernels
from gradx.analysis.lower_bound import floor_bytes
from tests.benchmarks.machine import extra_memory
from tests.benchmarks.subjects import GRADIENT, OPTIMIZERS, OfJax, OfTorch, arrays, tree_of
from tests.benchmarks.timing import Limits, Spread, interleave, ratio, seconds, spread, turns

Samples: TypeAlias = dict[str, tuple[str, dict[str, list[float]]]]  # what -> (unit, subject -> samples)


class Case(NamedTuple):
    """What is measured: names of a tree and an optimizer of `subjects.py`, and a dtype."""

    tree: str
    optimizer: str
    dtype: str = "float32"
    eager: bool = False  # outside of jit too

    def __str__(self) -> str:
        return f"{self.tree}/{self.optimizer}/{self.dtype}"


@dataclasses.dataclass
class Result:
    """One quantity of a case: samples of each subject, a round at a time."""

    case: Case
    what: str
    unit: str
    samples: dict[str, list[float]]

    def record(self) -> dict[str, Any]:
        """For JSON: median and quartiles of each subject, and of gradx over each other."""
        leaves = jax.tree.leaves(tree_of(self.case.tree))
        ours = self.samples["gradx"]
        others = {k: v for k, v in self.samples.items() if k != "gradx" and all(v)}
        return {
            "tree": self.case.tree,
            "optimizer": self.case.optimizer,
            "dtype": self.case.dtype,
            "leaves": len(leaves),
            "parameters": sum(math.prod(leaf.shape) for leaf in leaves),
            "what": self.what,
            "unit": self.unit,
            "rounds": len(ours),
            "values": {k: rounded(spread(v)) for k, v in self.samples.items()},
            "ratios": {k: rounded(ratio(ours, v)) for k, v in others.items()},
        }


def rounded(spread: Spread) -> dict[str, float]:
    """Six digits: a run has some thousand of these."""
    return {name: float(f"{x:.6g}") for name, x in spread._asdict().items()}


def measure(case: Case, limits: Limits, *, torch: bool, bandwidth: float) -> list[dict[str, Any]]:
    """The records of a case: programs, what they move and hold, steps, `init`, and eager updates."""
    optimizer, shapes = OPTIMIZERS[case.optimizer], tree_of(case.tree, jnp.dtype(case.dtype))
    ours, theirs = optimizer.ours(optimizer.make(gx)), optimizer.make(optax)
    subjects = {
        "gradx": OfJax(ours, gx.apply_updates, shapes),
        "optax": OfJax(theirs, optax.apply_updates, shapes),
    }
    results = {}
    results |= programs(subjects, limits)
    results |= counts(subjects)
    floor = results["floor"][1]["gradx"][0]

    grads = arrays(shapes, GRADIENT)
    for subject in subjects.values():
        subject.start(grads)
    runs = {k: subject.step for k, subject in subjects.items()}
    if torch and optimizer.torch:
        runs |= {f"torch {how}": OfTorch(optimizer, shapes, how).step for how in ("foreach", "fused")}
    step = interleave(runs, limits)
    results["step"] = "s", step
    results["roofline"] = "1", {k: [floor / t / bandwidth for t in v] for k, v in step.items()}
    memory = {k: extra_memory(run) for k, run in runs.items()}
    if None not in memory.values():
        results["memory"] = "B", {k: [float(v)] for k, v in memory.items()}
    del runs
    limits = limits._replace(most=min(10, limits.most))
    results["init"] = "s", interleave({k: s.init for k, s in subjects.items()}, limits)
    if case.eager:
        results |= eager(subjects, limits)
    records = [Result(case, what, unit, samples).record() for what, (unit, samples) in results.items()]
    del subjects, grads
    gc.collect()
    return records


def programs(subjects: dict[str, OfJax], limits: Limits) -> Samples:
    """Seconds to trace, lower and compile a step, each time as the first time."""
    made = {name: [] for name in subjects}
    for name in turns(list(subjects), limits._replace(least=1, most=5)):
        made[name].append(subjects[name].program())
    took = lambda what, program: sum(program[f"{part}_seconds"] for part in what.split(" + "))
    sums = ["trace", "lower", "trace + lower", "compile", "trace + lower + compile"]
    return {what: ("s", {k: [took(what, p) for p in v] for k, v in made.items()}) for what in sums}


def counts(subjects: dict[str, OfJax]) -> Samples:
    """What the compiled steps move, hold and launch; the least bytes that any could move."""
    quantities = {
        "bytes": ("B", lambda s, memory: bytes_moved(s.compiled, jax.default_backend())),
        "floor": ("B", lambda s, memory: floor_bytes(s.jaxpr, s.donated)),
        "temporaries": ("B", lambda s, memory: memory.temp_size_in_bytes),
        "peak": ("B", lambda s, memory: memory.argument_size_in_bytes + memory.temp_size_in_bytes),
        "kernels": ("1", lambda s, memory: len(kernels(s.compiled.as_text()))),
    }
    analyses = {name: (s, s.compiled.memory_analysis()) for name, s in subjects.items()}
    return {
        what: (unit, {name: [float(f(*analysis))] for name, analysis in analyses.items()})
        for what, (unit, f) in quantities.items()
    }


def eager(subjects: dict[str, OfJax], limits: Limits) -> Samples:
    """Seconds of the first `update` outside of jit, nothing being compiled yet, and of later ones."""
    first = {name: [] for name in subjects}
    for name in turns(list(subjects), limits._replace(least=1, most=3)):
        jax.clear_caches()
        first[name].append(seconds(subjects[name].eager))
    later = interleave({name: s.eager for name, s in subjects.items()}, limits)
    return {"eager, first": ("s", first), "eager": ("s", later)}
