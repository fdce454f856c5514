"""What the processes that write or read one checkpoint must agree on."""

import pathlib
import zlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

__all__ = []  # internal: of checkpoints


def of_first(step: int | None) -> int | None:
    """What the first process found: on a shared disk the others may see it later, and would not meet."""
    if jax.process_count() == 1:
        return step
    high_low = divmod(0 if step is None else step + 1, 2**32)  # JAX has no integers of more bits
    high, low = (int(x) for x in multihost_utils.broadcast_one_to_all(np.array(high_low, np.uint32)))
    return None if high == low == 0 else high * 2**32 + low - 1


def without_local(arrays: dict[str, Any]) -> dict[str, Any]:
    """What each process has for itself as NumPy's arrays, for the first to write; all must have the same."""
    if jax.process_count() == 1:
        return arrays
    local = {name: np.asarray(x) for name, x in arrays.items() if is_local(x)}
    sums = np.array([zlib.crc32(np.ascontiguousarray(x).tobytes()) for x in local.values()], np.uint32)
    found = multihost_utils.process_allgather(sums)
    differ = [name for name, same in zip(local, np.all(found == found[0], axis=0), strict=True) if not same]
    if differ:
        raise ValueError(
            f"save_checkpoint: the processes have different values of {', '.join(differ)}, and one is saved: "
            "make them equal, or a global array that has a part for each process"
        )
    return arrays | local


def is_local(x: Any) -> bool:
    """Whether an array, or one of such a sharding, is one process's own, where there are several."""
    return jax.process_count() > 1 and getattr(getattr(x, "sharding", None), "is_fully_addressable", True)


def check_shared(folder: pathlib.Path, name: str) -> None:
    """Raise unless all processes see what the first one makes: Orbax would wait for it without end."""
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
    """Raise, in all processes, if one does not see what another does."""
    if jax.process_count() == 1:
        return
    seen = multihost_utils.process_allgather(np.array(path.exists()))
    if not seen.all():
        raise ValueError(
            f"{owner}: processes {np.flatnonzero(~seen).tolist()} do not see {path.parent} as the first one "
            "does: it must be one folder, on a disk that all processes share"
        )
