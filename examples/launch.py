"""Start a script in several processes on this machine, and start it again if one of them dies.

python examples/launch.py --processes 2 --devices 4 --restart 1 examples/multi_process.py --epochs 20

Each process has so many CPU devices, and is told where the others are after the arguments of the script:
--coordinator HOST:PORT --processes N --process-id I. If one dies, the others, which would wait, are killed;
kill one by its pid to try it.
"""

import argparse
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def started(command: list[str], devices: int, processes: int) -> list[subprocess.Popen]:
    """All of them; what they print goes on with the number of the process before it."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        # A collective holds a thread while it waits; XLA has no more than there are cores or devices.
        "NPROC": str(4 * devices),
        "PYTHONUNBUFFERED": "1",
    }
    place = ["--coordinator", f"localhost:{free_port()}", "--processes", str(processes), "--process-id"]
    out = []
    for i in range(processes):
        process = subprocess.Popen(
            [sys.executable, *command, *place, str(i)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        out.append(process)
        threading.Thread(target=forward, args=(i, process.stdout)).start()
    return out


def forward(i: int, lines) -> None:
    with lines:
        for line in lines:
            say(f"[{i}] {line.rstrip()}")


def say(line: str) -> None:
    """Print a line in one piece: the threads print too."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def ended(processes: list[subprocess.Popen]) -> int:
    """Wait for all, or for the first that fails: its status, as a shell gives it."""
    try:
        while True:
            codes = [process.poll() for process in processes]
            for i, code in enumerate(codes):
                if code:
                    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
                    say(f"launch: process {i} {how}")
                    return 128 - code if code < 0 else code
            if None not in codes:
                return 0
            time.sleep(0.05)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2, metavar="N")
    parser.add_argument("--devices", type=int, default=4, help="CPU devices of each process", metavar="N")
    again = "processes after a failure; once more for the next failure"
    parser.add_argument("--restart", type=int, action="append", default=[], help=again, metavar="N")
    parser.add_argument("script", type=pathlib.Path)
    parser.add_argument("args", nargs=argparse.REMAINDER, help="of the script")
    args = parser.parse_args()
    if min(args.processes, args.devices, *args.restart) < 1:
        parser.error("processes, devices and restarts must be at least 1")
    # Ended from outside, it ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for n in [args.processes, *args.restart]:
        say(f"launch: {n} processes of {args.devices} devices")
        processes = started([str(args.script), *args.args], args.devices, n)
        say(f"launch: pids {' '.join(str(process.pid) for process in processes)}")
        code = ended(processes)
        if code == 0:
            break
    return code


if __name__ == "__main__":
    sys.exit(main())
