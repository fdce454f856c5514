"""Several processes are as one, and what is killed goes on from its last checkpoint with others."""

import contextlib
import os
import pathlib
import re
import runpy
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

import gradx as gx
from tests.distributed.run_of_two import STEPS, TX, mesh_of, sharding_of_state, trained, with_shardings

ROOT = pathlib.Path(gx.__file__).parent.parent
LAUNCH, EXAMPLE = ROOT / "examples" / "launch.py", ROOT / "examples" / "multi_process.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
LIMIT = 600  # seconds that no launch takes, on a slow machine either


@contextlib.contextmanager
def launched(*args, cwd):
    """The launcher, in a process group of its own, of which nothing is left after this, or after LIMIT."""
    process = subprocess.Popen(
        [sys.executable, LAUNCH, *map(str, args)],
        cwd=cwd,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )

    def end():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(LIMIT, end)
    timer.start()
    with process:
        try:
            yield process
        finally:
            timer.cancel()
            end()


def finished(*args, cwd):
    """What a launch prints, and its status."""
    with launched(*args, cwd=cwd) as process:
        return process.communicate()[0], process.returncode


def test_two_processes_are_as_one(tmp_path):
    """And what they saved is restored to other devices of one process."""
    script = ROOT / "tests" / "distributed" / "run_of_two.py"
    out, code = finished("--processes", 2, "--devices", 2, script, tmp_path / "run", cwd=tmp_path)
    assert code == 0, out
    assert {"[0] done 0", "[1] done 1"} <= set(out.splitlines())
    mesh = mesh_of(jax.devices()[:2])
    found = gx.restore_checkpoint(
        tmp_path / "run", TX, with_shardings(mesh), state_sharding=sharding_of_state(mesh)
    )
    assert found.step == STEPS
    alone = trained(mesh)
    keyless = lambda state: gx.slots(state, alone[0])
    for (name, path, x), (_, _, y) in zip(keyless(found.state), keyless(alone[1]), strict=True):
        assert x.sharding == y.sharding, (name, path)
    for x, y in zip(jax.tree.leaves(found.params), jax.tree.leaves(alone[0]), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-6)


LAUNCHED = """
import sys, time
processes, me = int(sys.argv[sys.argv.index("--processes") + 1]), int(sys.argv[-1])
print("of", processes, flush=True)
if processes == 3:
    sys.exit(5) if me == 1 else time.sleep(1000)
"""


def test_the_launcher_ends_all_with_one_and_starts_again_with_others(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(LAUNCHED)
    begin = ["launch: 3 processes of 1 devices", "[1] of 3", "launch: process 1 exited with 5"]
    for restart, lines, expected in [
        ([], begin, 5),
        (["--restart", 2], [*begin, "launch: 2 processes of 1 devices", "[0] of 2", "[1] of 2"], 0),
    ]:
        out, code = finished("--processes", 3, "--devices", 1, *restart, script, cwd=tmp_path)
        found = [line for line in out.splitlines() if not re.match(r"\[[02]\] of 3|launch: pids", line)]
        assert sorted(found) == sorted(lines)
        assert code == expected


def test_the_launcher_says_what_is_wrong(tmp_path):
    out, code = finished("--processes", 0, "script.py", cwd=tmp_path)
    assert code == 2
    assert "processes, devices and restarts must be at least 1" in out


class Example:
    """Runs of the example in one folder, and what they print."""

    def __init__(self, folder):
        self.folder = folder
        self.args = [EXAMPLE, "--epochs", 3, "--save-every", 5, "--checkpoints", folder / "run"]

    def digest(self, processes, devices):
        """What a run ends with that goes to its end."""
        out, code = finished("--processes", processes, "--devices", devices, *self.args, cwd=self.folder)
        assert code == 0, out
        return out.splitlines()[-1].removeprefix("[0] ")


@pytest.mark.slow
def test_the_example_ends_with_the_same_bits_on_any_processes_and_devices(tmp_path):
    ends = set()
    for processes, devices in [(1, 1), (1, 8), (2, 2), (2, 4), (4, 1)]:
        folder = tmp_path / f"{processes}-{devices}"
        folder.mkdir()
        ends.add(Example(folder).digest(processes, devices))
    assert len(ends) == 1
    accuracy = re.fullmatch(r"test_accuracy=(0\.\d{4}) steps=57 digest=[0-9a-f]{16}", ends.pop())
    assert float(accuracy[1]) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("where", ["in a step", "in a save"])
@pytest.mark.parametrize("killed", [0, 1])
def test_a_run_of_which_one_is_killed_ends_as_one_that_was_not(where, killed, tmp_path):
    """Of two processes of four devices; it goes on in one, is killed again, and ends in two of two."""
    alone, drilled = tmp_path / "alone", tmp_path / "drilled"
    alone.mkdir(), drilled.mkdir()
    example = Example(drilled)
    args = ["--processes", 2, "--devices", 4, "--restart", 1, *example.args]
    with launched(*args, cwd=drilled) as process:
        printed = iter(process.stdout.readline, "")
        for n, victim in enumerate([killed, 0]):  # of the first start, and of the second
            pids = next(line for line in printed if line.startswith("launch: pids")).split()[2:]
            for line in printed:
                if re.search(rf"step {20 * (n + 1)} ", line):
                    break
            saved = lambda: (drilled / "run" / str(20 * (n + 1))).exists()
            saving = lambda: any("tmp" in path.name for path in (drilled / "run").iterdir())
            reached = saving if where == "in a save" else saved
            while not reached() and process.poll() is None:
                time.sleep(0.001)
            os.kill(int(pids[victim]), signal.SIGKILL)
        rest = "".join(printed)
        assert process.wait() == 128 + signal.SIGKILL
    assert "launch: process 0 was killed by SIGKILL" in rest
    assert gx.latest_checkpoint(drilled / "run") in ((35, 40) if where == "in a save" else (40,))
    assert example.digest(2, 2) == Example(alone).digest(1, 4)


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["--processes", "2"], 2, "--coordinator, --processes and --process-id belong together"),
        (
            ["--coordinator", "host", "--processes", "2", "--process-id", "0"],
            2,
            "--coordinator must be HOST:PORT, got 'host'",
        ),
        (["--parts", "0"], 2, "--parts must be at least 1"),
        (["--batch-size", "60"], 2, "--batch-size must be a multiple of --parts, 8, of at most 1257"),
        (["--parts", "1"], 1, "1 parts are not divided among {} devices: give --parts a multiple of {}"),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else "",
)
def test_a_bad_option_is_one_clear_line(args, status, message, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *args])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    said = capsys.readouterr().err if status == 2 else stopped.value.code
    assert message.format(*[jax.device_count()] * 2) in said


@pytest.mark.slow
def test_the_example_says_what_does_not_fit(tmp_path):
    """No cluster, no coordinator, and a checkpoint of another run or model."""

    def ends(*args):
        command = ["--processes", 1, "--devices", 1, EXAMPLE, "--epochs", 1, *args]
        out, code = finished(*command, "--checkpoints", tmp_path / "run", cwd=tmp_path)
        return out if code else ""

    def alone(*args):
        command = [sys.executable, EXAMPLE, *args]
        return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False).stderr

    assert "JAX finds no cluster here: give --coordinator in place of --cluster" in alone("--cluster")
    place = ["--coordinator", "localhost:1", "--processes", "2", "--process-id", "1", "--wait", "2"]
    assert re.search(r"nobody at localhost:1 .*: start --process-id 0 on that host", alone(*place))
    assert not ends()
    text = "is of a run with {'batch_size': 64, 'epochs': 1, 'learning_rate': 0.006, 'parts': 8, 'seed': 0}"
    assert text in ends("--batch-size", 32)
    assert gx.latest_checkpoint(tmp_path / "run") == 19
    (tmp_path / "run").rename(tmp_path / "other")
    gx.save_checkpoint(tmp_path / "run", 0, {"w": np.ones(2, np.float32)}, ())
    assert "was saved for other parameters or another transformation. missing from it: params/" in ends()
