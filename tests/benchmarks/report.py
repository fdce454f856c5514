"""What was measured, as JSON, as a page of Markdown tables, and as one in the README, between two marks.

`python -m tests.benchmarks.report` writes page and README anew from the results that are there.
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.benchmarks.subjects import OPTIMIZERS

Records = list[dict[str, Any]]
COLUMNS = {
    "gpt2": "GPT-2 small",
    "vit_b16": "ViT-B/16",
    "resnet50": "ResNet-50",
    "1x25000000": "1 × 25M",
    "40x256": "40 × 256",
    "1000x256": "1,000 × 256",
    "4000x256": "4,000 × 256",
}
MARKS = "<!-- bench -->", "<!-- /bench -->"
ROOT = pathlib.Path(__file__).parent.parent.parent
README = ROOT / "README.md"
PUBLISHED = ROOT / "docs" / "benchmarks"
INTRODUCTION = """# Speed

gradx against Optax and torch, in one process, turn by turn; every ratio is the median of the rounds' ratios,
and below 1 gradx is the faster. "40 × 256" is a tree of 40 leaves of 256 elements each. `results.json`,
beside this page, has the quartiles. `make bench` measures all of it again in about half an hour on two cores,
`make bench ARGS=--quick` some of it in two minutes. On a GPU it leaves torch out; what a step moves on an
H100 or a TPU can be seen without one, by `gx.cost`.
"""
GROWTH = """\
How time grows with parameters, and with leaves; level is linear (XLA itself takes more for each of
thousands of leaves, from either library):

![Time of a step for each parameter, from 100,000 to 200 million](parameters.png)

![Time for each leaf of a step, of tracing and of compiling, from 10 leaves to 4,000](leaves.png)
"""


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    size, unit = next(
        ((size, unit) for size, unit in ((1.0, "s"), (1e-3, "ms")) if seconds >= size), (1e-6, "µs")
    )
    return f"{seconds / size:.3g} {unit}"


def times(record: dict[str, Any]) -> str:
    """The ratio to Optax, and what it is a ratio of."""
    return f"{record['ratios']['optax']['median']:.2f} ({duration(record['values']['gradx']['median'])})"


def torch_times(record: dict[str, Any]) -> str:
    """The ratios to torch's two forms."""
    found = [record["ratios"].get(f"torch {how}") for how in ("foreach", "fused")]
    return ", ".join(f"{r['median']:.2f}" for r in found) if all(found) else ""


def pair(scale: Callable[[dict], float] = lambda record: 1.0, digits: int = 0) -> Callable[[dict], str]:
    """gradx's figure and Optax's, in units of `scale`."""

    def cell(record):
        figures = [record["values"][name]["median"] / scale(record) for name in ("gradx", "optax")]
        return " / ".join(f"{x:.{digits}f}" for x in figures)

    return cell


def parameters(record: dict[str, Any]) -> float:
    return record["parameters"]


class Table(NamedTuple):
    """One quantity over all optimizers and trees."""

    title: str
    what: str
    cell: Callable[[dict], str]
    dtype: str = "float32"


TABLES = [
    Table("One jitted, donated step: time over Optax's, and gradx's time", "step", times),
    Table("The same step over torch's: `foreach`, `fused`", "step", torch_times),
    Table(
        "With bfloat16 parameters: time over Optax's. gradx keeps float32 slots there, and moves more; in "
        "Optax's bfloat16 slots the second moment stalls",
        "step",
        times,
        "bfloat16",
    ),
    Table("Over torch's, likewise", "step", torch_times, "bfloat16"),
    Table("To trace and lower: time over Optax's", "trace + lower", times),
    Table("To trace, lower and compile: time over Optax's", "trace + lower + compile", times),
    Table("`update` outside of jit, the first call: time over Optax's", "eager, first", times),
    Table("Later calls: time over Optax's", "eager", times),
    Table("`init`: time over Optax's", "init", times),
    Table("Bytes a step moves, for each parameter: gradx / Optax", "bytes", pair(parameters, 1)),
    Table("Bytes of temporaries, for each parameter", "temporaries", pair(parameters, 1)),
    Table("Arguments and temporaries, MB", "peak", pair(lambda record: 1e6, 0)),
    Table(
        "Bytes that a step takes for itself, as measured, for each parameter", "memory", pair(parameters, 1)
    ),
    Table("Kernels", "kernels", pair()),
    Table(
        "Roofline, %: the time that the least bytes would take at the bandwidth of a copy, of the step's",
        "roofline",
        pair(lambda record: 0.01),
    ),
]


class Column(NamedTuple):
    """One quantity on one tree, in the README's table."""

    title: str
    what: str
    tree: str
    cell: Callable[[dict], str]


SUMMARY = [
    *(Column(COLUMNS[tree], "step", tree, times) for tree in ("gpt2", "resnet50", "1000x256")),
    Column("GPT-2 small, over torch's `fused`", "step", "gpt2", lambda r: torch_times(r).rpartition(", ")[2]),
    Column("bytes moved, gradx / Optax", "bytes", "gpt2", pair(parameters)),
]


def origin(report: dict[str, Any]) -> str:
    """A line that says of what, where and when the figures are."""
    m = report["machine"]
    libraries = ", ".join(f"{name} {m[name]}" for name in ("gradx", "jax", "optax", "torch") if m[name])
    copied = f"{m['copy_bandwidth'] / 1e9:.1f} GB/s copied"
    quick = ", a quick run" * m["quick"]
    return f"{libraries}; {m['device']}, {m['cpus']} cores, {copied}; {m['date']}{quick}."


def markdown(report: dict[str, Any]) -> str:
    """The tables that have a row, after the line that says where they are from."""
    return "\n\n".join([origin(report), *filter(None, (table(report["results"], t) for t in TABLES))])


def summary(report: dict[str, Any]) -> str:
    """The README's table: a few columns of several of the others."""
    found = {(r["optimizer"], r["what"], r["tree"]): r for r in report["results"] if r["dtype"] == "float32"}
    lines = ["| | " + " | ".join(c.title for c in SUMMARY) + " |", "|---" * (1 + len(SUMMARY)) + "|"]
    for name in OPTIMIZERS:
        records = [found.get((name, c.what, c.tree)) for c in SUMMARY]
        if any(records):
            cells = [c.cell(r) if r else "" for c, r in zip(SUMMARY, records, strict=True)]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", origin(report)])


def line(records: Records) -> str:
    """What is printed of a case while others are measured: its step."""
    step = next(r for r in records if r["what"] == "step")
    over_torch = torch_times(step)
    return f"{times(step)} of Optax's" + (f", {over_torch} of torch's (foreach, fused)" if over_torch else "")


def table(results: Records, t: Table) -> str:
    """An optimizer a row, a tree a column; nothing where nothing was measured."""
    cells = {
        (r["optimizer"], r["tree"]): t.cell(r)
        for r in results
        if r["what"] == t.what and r["dtype"] == t.dtype and r["tree"] in COLUMNS
    }
    filled = {key for key, cell in cells.items() if cell}
    rows = [name for name in OPTIMIZERS if any(name == o for o, _ in filled)]
    columns = [name for name in COLUMNS if any(name == tree for _, tree in filled)]
    if not rows:
        return ""
    lines = ["| | " + " | ".join(COLUMNS[c] for c in columns) + " |", "|---" * (1 + len(columns)) + "|"]
    lines += [f"| {o} | " + " | ".join(cells.get((o, c), "") for c in columns) + " |" for o in rows]
    return "\n".join([f"{t.title}:", "", *lines])


def save(report: dict[str, Any], folder: pathlib.Path) -> None:
    """`results.json`, a result a line, and all tables in `tables.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    machine, results = json.dumps(report["machine"]), ",\n".join(map(json.dumps, report["results"]))
    (folder / "results.json").write_text(f'{{"machine": {machine},\n"results": [\n{results}\n]}}\n')
    (folder / "tables.md").write_text("\n".join([INTRODUCTION, markdown(report), "", GROWTH]))


def publish(report: dict[str, Any]) -> None:
    README.write_text(into(README.read_text(), summary(report)))


def into(text: str, block: str) -> str:
    """A document with `block` between its marks; raises ValueError if it has not both."""
    start, end = MARKS
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"no place for the tables: the document must hold {start} and, after it, {end}")
    return f"{before}{start}\n\n{block}\n\n{end}{after}"


if __name__ == "__main__":
    measured = json.loads((PUBLISHED / "results.json").read_text())
    save(measured, PUBLISHED)
    publish(measured)
