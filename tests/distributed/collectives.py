"""The reductions between devices in a compiled program, counted as often as they run."""

import math
import re


def reductions(compiled, *, taken=True):
    """The number of elements of each all-reduce and reduce-scatter that runs, once for every time.

    What is in a loop runs as often as the loop; branches of a `cond` count if `taken`.
    """
    programs, name = {}, ""
    for line in compiled.as_text().splitlines():
        start = re.match(r"(ENTRY )?%?([\w.-]+) .*\{$", line)
        if start:
            name = "ENTRY" if start[1] else start[2]
        programs.setdefault(name, []).append(line)
    return list(found(programs, "ENTRY", taken))


def found(programs, name, taken):
    for line in programs[name]:
        reduced = re.search(r" = (.*?) (all-reduce|reduce-scatter)(-start)?\(", line)
        if reduced:
            shapes = re.findall(r"\[([\d,]*)\]", reduced[1])
            yield sum(math.prod(int(n) for n in shape.split(",") if n) for shape in shapes)
            continue
        times = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
        called = re.search(r"(?:body|to_apply|calls)=%?([\w.-]+)", line)
        if called:
            inside = list(found(programs, called[1], taken))
            assert times or not inside or " while(" not in line, "a loop of unknown length"
            yield from inside * (int(times[1]) if times else 1)
        branches = re.search(r"branch_computations=\{(.*?)\}", line)
        for branch in re.findall(r"[\w.-]+", branches[1]) if branches and taken else []:
            yield from found(programs, branch, taken)
