"""Run Optax's tests on gradx.optax, or on Optax itself: `python -m tests.optax_suite [WORD ...]`.

WORD is part of the name of a test module, such as `alias` or `transforms.`; without one, all modules are run
that reach a function of gradx. Options: `--all` for the others too, `--optax` to replace nothing, `--json
FILE` to write what became of each test.
"""
# ruff: noqa: N802, as unittest names its methods so

import argparse
import json
import os
import pathlib
import sys
import time
import traceback
import unittest
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import optax
from absl import flags

import gradx
from tests.optax_suite.views import Optax, replacements

ROOT = pathlib.Path(optax.__file__).parent
OURS = str(pathlib.Path(gradx.__file__).parent)


# In these no test runs a function of gradx.
APART = [
    "_src.linear_algebra",
    "_src.numerics",
    "_src.utils",
    "assignment._hungarian_algorithm",
    "contrib._privacy",
    "contrib._reduce_on_plateau",
    "losses._classification",
    "losses._fenchel_young",
    "losses._ranking",
    "losses._regression",
    "losses._segmentation",
    "losses._self_supervised",
    "losses._smoothing",
    "microbatching._microbatching",
    "optax",
    "perturbations._make_pert",
    "projections._projections",
    "tree_utils._casting",
    "tree_utils._random",
    "tree_utils._tree_math",
]


def modules(words: list[str], every: bool) -> list[str]:
    """The test modules of Optax that have one of the words in their names; of all, or of those not apart."""
    files = [file.relative_to(ROOT).with_suffix("") for file in sorted(ROOT.rglob("*_test.py"))]
    names = [".".join(file.parts) for file in files]
    chosen = [name for name in names if every or name.removesuffix("_test") not in APART]
    return [f"optax.{name}" for name in chosen if not words or any(word in name for word in words)]


class Record(unittest.TestResult):
    """What became of each test, by its name; and whether it ran a function of gradx."""

    def __init__(self):
        super().__init__()
        self.rows: dict[str, dict[str, Any]] = {}

    def startTest(self, test):
        super().startTest(test)
        self.row = self.rows[name_of(test)] = {"outcome": "passed", "reached": False}
        self.since = time.perf_counter()
        sys.setprofile(self.watch)

    def watch(self, frame, event, arg):
        """Called for each function, until one of gradx is."""
        if frame.f_code.co_filename.startswith(OURS):
            self.row["reached"] = True
            sys.setprofile(None)

    def stopTest(self, test):
        sys.setprofile(None)
        self.row["seconds"] = round(time.perf_counter() - self.since, 2)
        super().stopTest(test)

    def addSkip(self, test, reason):
        self.row |= {"outcome": "skipped", "error": reason}

    def addError(self, test, err):
        self.failed(err)

    def addFailure(self, test, err):
        self.failed(err)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.failed(err)

    def failed(self, err):
        if self.row["outcome"] != "failed":
            self.row |= {"outcome": "failed", "error": first_lines(err[1]), "at": places(err[2])}


def name_of(test: unittest.TestCase) -> str:
    """`_src.alias_test.AliasTest.test_optimization3`: without the text of the parameters."""
    module = type(test).__module__.removeprefix("with_gradx.").removeprefix("optax.")
    return f"{module}.{type(test).__name__}.{test._testMethodName}"


def first_lines(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' / '.join(lines[:4])}"[:400]


def places(tb: Any) -> list[str]:
    """Where it was raised: the last lines in Optax's test, in gradx, and at all."""
    frames = traceback.extract_tb(tb)
    picks = [
        [f for f in frames if f.filename.endswith("_test.py")],
        [f for f in frames if OURS in f.filename],
    ]
    chosen = [fs[-1] for fs in (*picks, frames) if fs]
    return list(dict.fromkeys(f"{pathlib.Path(f.filename).name}:{f.lineno} {f.name}" for f in chosen))


def run(names: list[str], seen: Optax) -> tuple[dict[str, dict], dict[str, str]]:
    """The rows of all tests, and the modules that could not be imported, each with its error."""
    record, left_out = Record(), {}
    for name in names:
        try:
            module = seen.load(name)
        except Exception as e:
            left_out[name] = first_lines(e)
            continue
        since = time.perf_counter()
        unittest.defaultTestLoader.loadTestsFromModule(module).run(record)
        jax.clear_caches()  # thousands of programs, gigabytes by the end
        print(f"{name}: {time.perf_counter() - since:.0f} s", file=sys.stderr, flush=True)
    return record.rows, left_out


def report(rows: dict[str, dict], left_out: dict[str, str]) -> str:
    """The failures, one a line, and the counts."""
    by = lambda outcome, rs: [name for name, row in rs.items() if row["outcome"] == outcome]
    reached = {name: row for name, row in rows.items() if row["reached"]}
    lines = [f"{name}: {rows[name]['error']}" for name in by("failed", rows)]
    lines += [f"left out {name}: {error}" for name, error in left_out.items()]
    for what, rs in (("all", rows), ("that run gradx", reached)):
        counts = ", ".join(f"{len(by(word, rs))} {word}" for word in ("passed", "failed", "skipped"))
        lines.append(f"{what}: {len(rs)} tests, {counts}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="*")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--optax", action="store_true")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 8)  # the tests of shardings ask for them
    flags.FLAGS(sys.argv[:1])  # absl's tests read flags that its own main would have parsed
    rows, left_out = run(modules(args.words, args.all), Optax({} if args.optax else replacements()))
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "left_out": left_out}, indent=1))
    print(report(rows, left_out))
