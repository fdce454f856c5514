"""Compile for this host, or for a TPU or GPU that need not be there; count the bytes that a program moves."""

import contextlib
import math
import os
import re
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental.topologies import get_topology_desc

__all__ = []  # internal: `cost` compiles for them

TPU = "v5e:2x2"
TPU_ENVIRONMENT = {  # libtpu would ask the machine for these when it is loaded
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
  shared_memory_per_block: 49152  shared_memory_per_core: 233472  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98  cuda_compute_capability { major: 9 }
  memory_bandwidth: 3352320000000  l2_cache_size: 52428800  device_memory_size: 84942979072
}
platform_name: "CUDA"  dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
NO_TUNING = {"xla_gpu_autotune_level": 0}  # tuning would run kernels on the GPU


def device_of(platform: str | None) -> tuple[Any, dict[str, Any]]:
    """A device to compile for, and options for the compiler."""
    if platform is None:
        return jax.local_devices()[0], {}
    if platform == "cpu":
        return jax.local_devices(backend="cpu")[0], {}
    if platform == "tpu":
        return tpu_slice(TPU)[0], {}
    if platform == "cuda":
        with missing(platform, "cuda12-local", " nvidia-cuda-nvcc-cu12"):
            device = get_topology_desc(platform="cuda", topology="1x1x1", target_config=H100).devices[0]
            return device, NO_TUNING
    raise ValueError(f"cost: platform must be None, 'cpu', 'cuda' or 'tpu', got {platform!r}")


def tpu_slice(topology: str) -> list[Any]:
    """The devices of a TPU slice, say "v5e:2x4"."""
    with missing("tpu", "tpu"), environment(TPU_ENVIRONMENT):
        return list(get_topology_desc(topology, "tpu").devices)


@contextlib.contextmanager
def missing(platform: str, extra: str, more: str = "") -> Iterator[None]:
    """Say how to install a missing compiler."""
    try:
        yield
    except jax.errors.JaxRuntimeError:
        raise  # the compiler is there, and reports an error
    except RuntimeError as e:
        package = f"'jax[{extra}]=={jax.__version__}'{more}"
        raise ImportError(
            f"cost: platform {platform!r} needs its compiler: pip install {package}; on a machine without "
            f"such a device, set JAX_PLATFORMS=cpu before jax is imported ({e})"
        ) from e


@contextlib.contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for a while, but for those that are set already."""
    added = {k: v for k, v in variables.items() if k not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for k in added:
            del os.environ[k]


def bytes_moved(compiled: Any, platform: str) -> int:
    """The bytes that a compiled program reads and writes, from the compiler, or on GPUs from its HLO text."""
    if platform in ("cuda", "gpu"):
        return sum(moved for _, moved in kernels(compiled.as_text()))
    return round(compiled.cost_analysis()["bytes accessed"])


FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
FREE |= {"partition-id", "replica-id", "opt-barrier"}
INSTRUCTION = re.compile(
    r"\s*(?:ROOT )?%(?P<name>\S+) = (?P<type>.*?) (?P<op>[a-z][a-z0-9\-]*)\((?P<rest>.*)"
)
ARRAY = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\]")


def kernels(hlo: str) -> list[tuple[str, int]]:
    """The kernels that the entry computation launches, by name, and the bytes that each reads and writes.

    A loop or a conditional counts as one kernel that moves its operands and results.
    """
    size, found = {}, []
    for line in hlo[hlo.index("\nENTRY ") :].splitlines():
        match = INSTRUCTION.match(line)
        if match is None:
            continue
        name, op = match["name"], match["op"]
        size[name] = sum(array_bytes(*array) for array in ARRAY.findall(match["type"]))
        if op not in FREE and not op.endswith("-done"):  # its start is counted
            operands = re.findall(r"%([\w.\-]+)", match["rest"].partition(")")[0])
            found.append((name, size[name] + sum(size[x] for x in operands)))
    return found


def array_bytes(dtype: str, shape: str) -> int:
    """The bytes of an array as HLO writes it, such as `f32[2,3]`; a token has none."""
    digits = re.search(r"\d+", dtype)
    bits = int(digits[0]) if digits else 8 * (dtype == "pred")
    return (math.prod(int(n) for n in shape.split(",") if n) * bits + 7) // 8
