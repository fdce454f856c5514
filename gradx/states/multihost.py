"""Agreement among the processes that write or read one checkpoint."""

import pathlib
import zlib

import jax
import numpy as np
from jax.experimental import multihost_utils

from gradx.core.tree import Leaf

__all__ = []  # internal: of checkpoints


def of_first(step: int | None) -> int | None:
    """The step that the first process found. On a shared disk others may see a step later."""
    if jax.process_count() == 1:
        return step
    high_low = divmod(0 if step is None else step + 1, 2**32)  # JAX has no integers of more bits
    high, low = (int(x) for x in multihost_utils.broadcast_one_to_all(np.array(high_low, np.uint32)))
    return None if high == low == 0 else high * 2**32 + low - 1


def without_local(arrays: dict[str, Leaf]) -> dict[str, Leaf]:
    """Arrays with each process's local ones in NumPy, for the first to write; all must have the same."""
    if jax.process_count() == 1:
        return arrays
    local = {name: np.asarray(x) for name, x in arrays.items() if is_local(x)}
    sums = np.array([zlib.crc32(np.ascontiguousarray(x).tobytes()) for x in local.values()], np.uint32)
    found = multihost_utils.process_allgather(sums)
    differ = [name for name, same in zip(local, np.all(found == found[0], axis=0), strict=True) if not same]
    if differ:
        raise ValueError(
            f"save_checkpoint: the processes have different values of {', '.join(differ)}, and only one is "
            "saved: make them equal, or a global array that has a part for each process"
        )
    return arrays | local


def is_local(x: Leaf) -> bool:
    """Whether an array (or its sharding) is local to one process, where there are several."""
    return jax.process_count() > 1 and getattr(getattr(x, "sharding", None), "is_fully_addressable", True)


def check_shared(folder: pathlib.Path, name: str) -> None:
    """Raise unless all processes see a folder that the first one makes: Orbax would wait for ever."""
    if jax.process_count() == 1:
        return
    mark = folder / name
    if jax.process_index() == 0:
        mark.mkdir(exist_ok=True)
    multihost_utils.sync_global_devices("gradx: a folder is marked")
    try:
        check_seen("save_checkpoint", mark)
    finally:
        if jax.process_index() == 0:
            mark.rmdir()


def check_seen(owner: str, path: pathlib.Path) -> None:
    """Raise, in all processes, if one of them does not see the path."""
    if jax.process_count() == 1:
        return
    seen = multihost_utils.process_allgather(np.array(path.exists()))
    if not seen.all():
        raise ValueError(
            f"{owner}: processes {np.flatnonzero(~seen).tolist()} do not see {path.parent} as the first one "
            "does: it must be one folder, on a disk that all processes share"
        )
