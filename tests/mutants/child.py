"""A process that tests a file with another text.

It is forked from one that has imported JAX and has no backend yet, so that it starts in a tenth of the time.
The other text is imported in place of the file: nothing is ever written to the tree.
"""

import importlib
import importlib.machinery
import importlib.util
import multiprocessing
import os
import pathlib
import signal
import sys
import tempfile
import time
from multiprocessing.connection import Connection

import pytest

from tests.mutants.choice import ROOT, Chosen, Ranked

FORK = multiprocessing.get_context("fork")
OPTIONS = "-p no:cacheprovider -p no:xdist --hypothesis-seed=0 -q --tb=no --assert=plain"
FINE = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
IMPORTED = ("tests.conftest", "optax", "flax.nnx", "equinox", "optimistix", "orbax.checkpoint", "hypothesis")


def warm_up() -> None:
    """Import what all tests share, none of which starts a backend."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(sys.prefix, "mutants-cache"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = tempfile.gettempdir() + "/gradx-mutants"
    for name in IMPORTED:
        importlib.import_module(name)


class Replaced(importlib.machinery.SourceFileLoader):
    """Imports a file with other text than it has."""

    def __init__(self, path: pathlib.Path, text: str) -> None:
        super().__init__(".".join(path.relative_to(ROOT).with_suffix("").parts), str(path))
        self.text = text

    def find_spec(self, fullname, path=None, target=None):
        return importlib.util.spec_from_loader(fullname, self) if fullname == self.name else None

    def get_code(self, fullname):
        return compile(self.text, self.path, "exec", dont_inherit=True)


def in_child(pipe: Connection, path: pathlib.Path, text: str, chosen: Chosen) -> None:
    """Run the tests with the text in place of the file, and send the names that failed and all seconds."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.meta_path.insert(0, Replaced(path, text))
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    options = [*OPTIONS.split(), *(["-x"] if isinstance(chosen, Ranked) else [])]
    for files in filter(None, chosen.stages):
        code = pytest.main([*options, *files], plugins=[chosen])
        if code not in FINE and not chosen.failed and not chosen.enough:
            chosen.failed.append("while they were collected")
        if chosen.failed:
            break
    pipe.send((chosen.failed, dict(chosen.seconds)))
    os._exit(0)  # without waiting for a backend's threads


class Run:
    """A forked process that tests one text; it dies with this one."""

    def __init__(self, path: pathlib.Path, text: str, chosen: Chosen, limit: float) -> None:
        self.pipe, theirs = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=in_child, args=(theirs, path, text, chosen), daemon=True)
        self.process.start()
        theirs.close()
        self.end = time.monotonic() + limit

    def wait(self) -> tuple[list[str], dict[str, float]]:
        """What comes out in the end."""
        self.pipe.poll(self.end - time.monotonic())
        return self.result()

    def result(self) -> tuple[list[str], dict[str, float]]:
        """The tests that failed, and the seconds of all, as far as they are there."""
        try:
            return self.pipe.recv() if self.pipe.poll() else (["too slow"], {})
        except EOFError:
            return ["the process died"], {}
        finally:
            self.process.kill()
