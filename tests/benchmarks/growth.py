"""How cost grows with parameters and with leaves: cases, lines and plots."""

import pathlib
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from tests.benchmarks.measure import Case

OPTIMIZER = "clip+adamw"
SIZES = [10**5, 10**6, 10**7, 5 * 10**7, 2 * 10**8]  # parameters, in one leaf or in 40
LEAVES = [10, 40, 150, 400, 1000, 4000]  # of 256 parameters each
STYLES = {
    "gradx": dict(color="black", linestyle="-", marker="o"),
    "optax": dict(color="0.55", linestyle="--", marker="s"),
}
LABELS = {"gradx": "gradx", "optax": "Optax"}


class Panel(NamedTuple):
    """One set of axes: for each subject the points of a line."""

    title: str
    x: str
    y: str
    lines: dict[str, list[tuple[float, float]]]


def cases(largest: int = SIZES[-1], most_leaves: int = LEAVES[-1]) -> list[Case]:
    """The cases whose results the plots show, as far as they go."""
    sizes = [n for n in SIZES if n <= largest]
    names = [f"1x{n}" for n in sizes] + [f"40x{n // 40}" for n in sizes]
    return [Case(name, OPTIMIZER) for name in names + [f"{n}x256" for n in LEAVES if n <= most_leaves]]


def vectors(records: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    """The results of one quantity on the trees of equal leaves, from the smallest to the largest."""
    same = {"what": what, "optimizer": OPTIMIZER, "dtype": "float32"}
    found = [r for r in records if r["tree"][0].isdigit() and all(r[k] == v for k, v in same.items())]
    return sorted(found, key=lambda r: r["parameters"])


def per(records: list[dict[str, Any]], each: str, unit: float) -> dict[str, list[tuple[float, float]]]:
    """For each subject its time for one of `each`, in so many seconds, over their number."""
    of = lambda r, name: (r[each], r["values"][name]["median"] / r[each] / unit)
    return {name: [of(r, name) for r in records] for name in STYLES}


def by_size(records: list[dict[str, Any]]) -> list[Panel]:
    """The time of a step for each parameter, in one leaf and in 40."""
    panels = []
    for leaves, title in ((1, "one leaf"), (40, "40 leaves")):
        found = [r for r in vectors(records, "step") if r["leaves"] == leaves]
        panels.append(Panel(title, "parameters", "step, ns per parameter", per(found, "parameters", 1e-9)))
    return panels


def by_leaves(records: list[dict[str, Any]]) -> list[Panel]:
    """The time of a step, and the times to trace and lower it, and to compile it, for each leaf."""
    panels = []
    for what, unit, name in (("step", 1e-6, "µs"), ("trace + lower", 1e-3, "ms"), ("compile", 1e-3, "ms")):
        found = [r for r in vectors(records, what) if r["tree"].endswith("x256")]
        panels.append(Panel("", "leaves of 256", f"{what}, {name} per leaf", per(found, "leaves", unit)))
    return panels


def draw(panels: list[Panel]) -> Figure:
    """Panels side by side, on logarithmic axes."""
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    for axes, p in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, points in p.lines.items():
            if points:
                axes.plot(*zip(*points, strict=True), label=LABELS[name], markersize=4, **STYLES[name])
        axes.set(title=p.title, xlabel=p.x, ylabel=p.y, xscale="log", yscale="log")
        for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            formatter("{x:g}")  # 12.5, not 1.25 × 10¹
        axes.grid(alpha=0.3, which="both", linewidth=0.5)
        if axes.lines:
            axes.legend()
    return figure


def save(records: list[dict[str, Any]], folder: pathlib.Path) -> None:
    """Both plots, as far as there are results to draw."""
    for name, panels in (("parameters.png", by_size(records)), ("leaves.png", by_leaves(records))):
        if any(points for p in panels for points in p.lines.values()):
            draw(panels).savefig(folder / name, dpi=90)
