"""A run that is killed, again and again, in steps and in saves, ends as one that was left alone."""

import pathlib
import random
import subprocess
import sys
import time

import pytest

import gradx as gx
from tests.states.resumable import EVERY

ROOT = pathlib.Path(gx.__file__).parent.parent


def started(folder, steps):
    command = [sys.executable, "-m", "tests.states.resumable", str(folder), str(steps)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def finished(process):
    """The digest that it ends with."""
    with process:
        *_, last = process.stdout
    assert process.returncode == 0
    return last


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_one_that_was_not(kills, tmp_path):
    chance, span = random.Random(kills), 2 * EVERY
    steps, in_saves = (kills + 1) * span, 0
    folder = tmp_path / "killed"
    folder.mkdir()
    for n in range(kills):
        target = n * span + chance.randrange(span)
        with started(folder, steps) as process:
            while int(process.stdout.readline()) < target:
                pass
            time.sleep(0.1 * chance.random())  # a step takes a millisecond, and a save a tenth of a second
            process.kill()
        in_saves += any("tmp" in p.name for p in folder.iterdir())
        assert (gx.latest_checkpoint(folder) or 0) >= target // EVERY * EVERY
    assert kills == 3 or in_saves > 0
    alone = started(tmp_path / "alone", steps)
    assert finished(started(folder, steps)) == finished(alone)
    assert sorted(p.name for p in folder.iterdir()) == sorted([str(steps), str(steps - EVERY)])
