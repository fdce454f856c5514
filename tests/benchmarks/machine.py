"""What it is measured on: versions, the device, its copy bandwidth, the memory of this process."""

import datetime
import gc
import importlib.metadata
import os
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import gradx
from tests.benchmarks.timing import Limits, interleave, spread

CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
PROCESS = pathlib.Path("/proc/self")


def describe() -> dict[str, Any]:
    """What else must be known of a figure."""
    versions = {name: version(name) for name in ("jax", "jaxlib", "optax", "torch", "numpy")}
    device = jax.devices()[0]
    return {
        "date": datetime.date.today().isoformat(),
        "platform": device.platform,
        "device": device.device_kind,
        "cpus": CPUS,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "gradx": gradx.__version__,
        **versions,
    }


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def copy_bandwidth(size: int = 2**28, limits: Limits = Limits(2.0)) -> float:
    """Bytes a second, read and written, of a pass over `size` float32 numbers in place; by default 1 GiB."""
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    kept = [jnp.zeros(size, jnp.float32)]

    def run():
        kept[0] = add(kept[0])
        return kept[0]

    return 2 * 4 * size / spread(interleave({"copy": run}, limits)["copy"]).median


def extra_memory(run: Callable[[], Any]) -> int | None:
    """The bytes that a run takes for itself, by the kernel's count of this process; None where it has none.

    Linux lets a process set its peak back to what it holds; the memory of a GPU is not counted there.
    """
    if not (PROCESS / "clear_refs").exists() or jax.default_backend() != "cpu":
        return None
    gc.collect()
    time.sleep(0.05)  # buffers of the run before are freed by another thread
    (PROCESS / "clear_refs").write_text("5")
    before = resident("VmRSS")
    jax.block_until_ready(run())
    return max(0, resident("VmHWM") - before)


def resident(field: str) -> int:
    """A line of the kernel's status of this process, in bytes."""
    for line in (PROCESS / "status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)
