"""gradx against Optax and torch on the trees of known models: `make bench`, python -m tests.benchmarks."""

import argparse
import fnmatch
import itertools
import pathlib
from typing import Any

import jax
from tqdm import tqdm

from tests.benchmarks import growth, report
from tests.benchmarks.machine import copy_bandwidth, describe
from tests.benchmarks.measure import Case, measure
from tests.benchmarks.subjects import OPTIMIZERS, why_no_torch
from tests.benchmarks.timing import Limits

DTYPES = ["float32", "bfloat16"]
SMALL = ["40x256", "1000x256", "4000x256"]
MAIN = {"adamw", "clip+adamw", "lamb"}
PACKED = "clip+adamw, packed"


def every_case() -> list[Case]:
    """All optimizers on all trees, which takes hours; a few outside of jit too, which is slow."""
    cases = [Case(*names) for names in itertools.product(report.COLUMNS, OPTIMIZERS, DTYPES)]
    cases = [c for c in cases if c.optimizer != PACKED or c.tree in SMALL]
    eager = {Case("resnet50", "adamw"), Case("resnet50", "clip+adamw")}
    return [c._replace(eager=c in eager) for c in cases]


def default(case: Case) -> bool:
    """What is measured in half an hour on two cores."""
    if case.dtype == "bfloat16":
        return case.tree in ("gpt2", "resnet50") and case.optimizer in MAIN
    if case.tree == "4000x256":
        return case.optimizer in ("clip+adamw", PACKED)
    return case.tree != "vit_b16" or case.optimizer in MAIN


def quick(case: Case) -> bool:
    """What is measured in two minutes."""
    if case.dtype == "bfloat16":
        return False
    if case.tree in ("40x256", "1000x256"):
        return case.optimizer in ("clip+adamw", PACKED)
    return case.tree == "resnet50" and case.optimizer in ("clip+adamw", "lamb")


def chosen(args: argparse.Namespace) -> list[Case]:
    """The cases to measure, each once."""
    if args.only:
        cases = every_case() + growth.cases()
        cases = [c for c in cases if fnmatch.fnmatch(f"{c.tree}/{c.optimizer}", args.only)]
    elif args.quick:
        cases = [*filter(quick, every_case()), *growth.cases(10**7, 400)]
    else:
        cases = [*filter(default, every_case()), *growth.cases()]
    return list(dict.fromkeys(cases))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.partition(":")[0])
    parser.add_argument("--quick", action="store_true", help="a few cases, in about two minutes")
    parser.add_argument("--only", metavar="TREE/OPTIMIZER", help="what matches of all, such as 'gpt2/*adamw'")
    parser.add_argument("--seconds", type=float, help="for the rounds of each comparison; 2, or 0.3 if quick")
    parser.add_argument("--rounds", type=int, default=50, help="at most, of each comparison")
    parser.add_argument(
        "--publish", action="store_true", help="into the README too, be it quick, a part or of a GPU"
    )
    args = parser.parse_args(argv)
    if args.seconds is None:
        args.seconds = 0.3 if args.quick else 2.0
    if args.rounds < 1 or args.seconds <= 0:
        parser.error("--rounds must be at least 1, and --seconds more than 0")
    if not chosen(args):
        trees, optimizers = ", ".join(report.COLUMNS), ", ".join(OPTIMIZERS)
        parser.error(f"--only {args.only!r} matches nothing; trees: {trees}; optimizers: {optimizers}")
    return args


def run(cases: list[Case], limits: Limits, folder: pathlib.Path, machine: dict[str, Any]) -> dict[str, Any]:
    """Measure and print; save after each case, so that a run that is stopped keeps what it has."""
    reason = why_no_torch()
    if reason:
        print(f"Without torch: {reason}")
    done = {"machine": machine, "results": []}
    progress = tqdm(cases, unit="case", disable=None)
    for case in progress:
        progress.set_postfix_str(str(case))
        torch = reason is None and case.tree in report.COLUMNS
        records = measure(case, limits, torch=torch, bandwidth=machine["copy_bandwidth"])
        done["results"] += records
        progress.write(f"{case!s:40} {report.line(records)}")
        report.save(done, folder)
    growth.save(done["results"], folder)
    return done


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    publish = args.publish or not (args.quick or args.only or jax.default_backend() != "cpu")
    folder = report.PUBLISHED if publish else report.ROOT / "build" / "benchmarks"
    limits = Limits(args.seconds, least=min(3, args.rounds), most=args.rounds)
    machine = {**describe(), "copy_bandwidth": copy_bandwidth(), "quick": args.quick}
    done = run(chosen(args), limits, folder, machine)
    print("\n" + report.markdown(done))
    if publish:
        report.publish(done)
    print(f"\nSaved in {folder}{' and in the README' * publish}.")


if __name__ == "__main__":
    main()
