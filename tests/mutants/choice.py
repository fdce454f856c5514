"""The tests that are about a file: all of the mirrored file, and those that name what the file defines."""

import collections
import inspect
import itertools
import pathlib
import re
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
ALWAYS = ["tests/test_signatures.py"]  # the defaults of all functions
FILES = 8
ELSEWHERE = ("parity/", "benchmarks/", "optax_suite/", "mutants/")  # slow, or of others


class Choice(NamedTuple):
    """For one file: the test files all of whose tests count, those to look through, and for which words."""

    whole: list[str]
    partly: list[str]
    words: re.Pattern


def choice_for(path: pathlib.Path) -> Choice:
    text = path.read_text()
    public = re.search(r"^__all__ = \[(.*?)\]", text, re.DOTALL | re.MULTILINE)
    names = re.findall(r'"(\w+)"', public[1] if public else "")
    names = names or re.findall(r"^(?:def|class) (\w+)", text, re.MULTILINE)
    words = re.compile(rf"(?<![\w.])((gx|gradx)\.)?({'|'.join(names)})\b")
    whole = [mirror(path)]
    if not whole[0].exists():
        # No test file mirrors this one. Take the test files of the modules that import it, and the test files
        # in the same folder that name its functions.
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        users = re.compile(rf"^from {module} import", re.MULTILINE)
        whole = [mirror(f) for f in sorted((ROOT / "gradx").rglob("*.py")) if users.search(f.read_text())]
        whole += [f for f in sorted(mirror(path).parent.glob("test_*.py")) if words.search(f.read_text())]
    whole = [f for f in dict.fromkeys(whole) if f.exists()]
    partly = [f for f in sorted((ROOT / "tests").rglob("test_*.py")) if f not in whole and may_tell(f, words)]
    name = lambda file: str(file.relative_to(ROOT))
    partly = [f for f in map(name, partly) if f not in ALWAYS]
    return Choice([*ALWAYS, *map(name, whole)], partly, words)


def mirror(path: pathlib.Path) -> pathlib.Path:
    inner = path.relative_to(ROOT / "gradx")
    return ROOT / "tests" / inner.parent / f"test_{inner.name}"


def may_tell(file: pathlib.Path, words: re.Pattern) -> bool:
    """Whether a test file names the words, or has the tables, which have rows of every factory."""
    text = file.read_text()
    if "subprocess" in text or str(file.relative_to(ROOT / "tests")).startswith(ELSEWHERE):
        return False  # another process would import the file as it is
    return bool(words.search(text)) or "from tests.cases import" in text


class Chosen:
    """The pytest plugin that keeps these tests, in the order of their files, and learns their seconds."""

    def __init__(self, choice: Choice, most: float) -> None:
        self.choice, self.most = choice, most
        self.seconds: collections.Counter = collections.Counter()
        self.failed: list[str] = []
        self.enough = False
        self.stages = [[*choice.whole, *choice.partly]]

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = filter(self.is_about, items)

    def is_about(self, item: pytest.Item) -> bool:
        if file_of(item.nodeid) in self.choice.whole or not isinstance(item, pytest.Function):
            return True
        return bool(self.choice.words.search(item.name + inspect.getsource(item.function)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        self.enough = sum(self.seconds.values()) > 3 * self.most
        if self.enough:
            item.session.shouldstop = "the rest would not be run with slips"


class Ranked(Chosen):
    """Those whose seconds are known: first those that saw a slip before, then the quickest.

    They run in two stages, because many files take long to collect: in the first the file's own tests and the
    keen ones, in the second up to `FILES` further files, those with the most tests.
    """

    def __init__(self, choice: Choice, most: float, known: dict[str, float], keen: list[str]) -> None:
        super().__init__(choice, most)
        self.known, self.keen = known, keen
        first = [*choice.whole, *map(file_of, keen[:1])]
        counts = collections.Counter(file for file in map(file_of, known) if file not in first)
        self.stages = [list(dict.fromkeys(first)), [file for file, _ in counts.most_common(FILES)]]

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        kept = sorted((i for i in items if i.nodeid in self.known), key=lambda item: self.rank(item.nodeid))
        spent = itertools.accumulate(self.known[item.nodeid] for item in kept)
        items[:] = [item for item, seconds in zip(kept, spent, strict=True) if seconds <= self.most]

    def rank(self, name: str) -> tuple[int, float]:
        return self.keen.index(name) if name in self.keen else len(self.keen), self.known[name]


def file_of(name: str) -> str:
    return name.split("::")[0]
