"""`python -m tests.mutants gradx/optimizers/lion.py`: prints the slips that no test sees."""

import argparse
import difflib
import os
import pathlib
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait

from tests.mutants.child import Run, warm_up
from tests.mutants.choice import ROOT, Chosen, Ranked, choice_for
from tests.mutants.slips import Slip, slips_of

SLOWER = lambda seconds: 60 + 5 * seconds  # how long the tests may take with a slip


def check(path: pathlib.Path, options: argparse.Namespace) -> None:
    """Print the slips of the file that no test sees, and how many are seen."""
    text, start, seen = path.read_text(), time.monotonic(), 0
    slips = [slip for slip in slips_of(text) if not options.lines or slip.line in options.lines]
    if options.sample:
        slips = sorted(random.Random(options.seed).sample(slips, min(options.sample, len(slips))))
    choice = choice_for(path)
    failed, known = Run(path, text, Chosen(choice, options.seconds), limit=900).wait()
    if failed:
        sys.exit(f"{path}: without a slip these tests fail already: {', '.join(failed)}")
    name, total = path.relative_to(ROOT), min(sum(known.values()), 2 * options.seconds)
    print(f"{name}: {len(slips)} slips, {len(known)} tests, {total:.0f} s", flush=True)
    keen: list[str] = []  # that saw a slip, the latest first
    make = lambda slip: Run(path, slip.text, Ranked(choice, options.seconds, known, keen), SLOWER(total))
    for slip, failed in results(slips, make, options.jobs):
        keen[:] = dict.fromkeys([x for x in failed if x in known] + keen)
        seen += bool(failed)
        if not failed or options.verbose:
            print(f"{name}:{slip.line}", *failed[:1], *diff(text, slip), sep="\n", flush=True)
    took = time.monotonic() - start
    print(f"{name}: {seen} of {len(slips)} seen, {took:.0f} s", flush=True)


def results(slips: list[Slip], make: Callable[[Slip], Run], jobs: int) -> Iterator[tuple[Slip, list[str]]]:
    """Each slip and the tests that saw it, by so many processes at once."""
    waiting, running = list(slips), {}
    while waiting or running:
        while waiting and len(running) < jobs:
            slip = waiting.pop(0)
            run = make(slip)
            running[run.pipe] = slip, run
        ready = wait(list(running), timeout=1)
        for pipe in [p for p, (_, run) in running.items() if p in ready or time.monotonic() > run.end]:
            slip, run = running.pop(pipe)
            yield slip, run.result()[0]


def diff(text: str, slip: Slip) -> list[str]:
    """The lines that the slip changes."""
    lines = difflib.ndiff(text.split("\n"), slip.text.split("\n"))
    return [f"  {x}" for x in lines if x[:1] in ("-", "+")]


def main() -> None:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--sample", type=int, help="so many slips of each file; all, if not given")
    parser.add_argument("--lines", type=int, nargs="+", default=(), help="only slips of these lines")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once")
    parser.add_argument("--seconds", type=float, default=40, help="of tests, the quickest first")
    parser.add_argument("--verbose", action="store_true", help="also what was seen, and by which test")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the children end too
    warm_up()
    for path in options.files:
        check(path.resolve(), options)


if __name__ == "__main__":
    main()
