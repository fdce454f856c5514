"""The cost of a step of an optimizer, from shapes alone: nothing is allocated, and nothing is run."""

import dataclasses
import html
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import SingleDeviceSharding

from gradx.analysis.compilers import bytes_moved, device_of, kernels
from gradx.analysis.lower_bound import floor_bytes
from gradx.core.apply import step_of
from gradx.core.tree import Tree

__all__ = ["Cost", "Costs", "cost"]


@dataclasses.dataclass(frozen=True)
class Cost:
    """The result of `cost`; two are equal if they differ in seconds only.

    `platform` and `device` are the target of the compiler; `parameters` and `leaves` are counts.
    `moved_bytes` are read and written by a step, and `floor_bytes` are the least possible (see `cost`).
    `temporary_bytes` are held during a step, `state_bytes` between steps; `kernels` are launched. Properties
    give the same bytes for each parameter. Tracing, lowering and compiling took the seconds.
    """

    platform: str
    device: str
    parameters: int
    leaves: int
    moved_bytes: int
    floor_bytes: int
    temporary_bytes: int
    state_bytes: int
    kernels: int
    trace_seconds: float = dataclasses.field(compare=False)
    lower_seconds: float = dataclasses.field(compare=False)
    compile_seconds: float = dataclasses.field(compare=False)

    @property
    def moved_per_parameter(self) -> float:
        """Bytes read and written, for each parameter."""
        return self.moved_bytes / self.parameters

    @property
    def floor_per_parameter(self) -> float:
        """The least bytes possible, for each parameter."""
        return self.floor_bytes / self.parameters

    @property
    def temporary_per_parameter(self) -> float:
        """Bytes held during the step only, for each parameter."""
        return self.temporary_bytes / self.parameters

    @property
    def state_per_parameter(self) -> float:
        """Bytes of state, for each parameter."""
        return self.state_bytes / self.parameters

    def asdict(self) -> dict[str, Any]:
        """All values by name, in types that JSON can hold."""
        return {name: getattr(self, name) for name in [f.name for f in dataclasses.fields(self)] + PROPERTIES}

    def __str__(self) -> str:
        return str(Costs({"": self}))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return Costs({"": self})._repr_html_()


PROPERTIES = [f"{kind}_per_parameter" for kind in ("moved", "floor", "temporary", "state")]
ROWS = [
    ("compiled for", lambda c: c.device),
    ("parameters", lambda c: f"{c.parameters:,}"),
    ("leaves", lambda c: f"{c.leaves:,}"),
    ("moved, B/parameter", lambda c: f"{c.moved_per_parameter:.2f}"),
    ("floor, B/parameter", lambda c: f"{c.floor_per_parameter:.2f}"),
    ("temporary, B/parameter", lambda c: f"{c.temporary_per_parameter:.2f}"),
    ("state, B/parameter", lambda c: f"{c.state_per_parameter:.2f}"),
    ("kernels", lambda c: f"{c.kernels:,}"),
    ("trace, s", lambda c: f"{c.trace_seconds:.2f}"),
    ("lower, s", lambda c: f"{c.lower_seconds:.2f}"),
    ("compile, s", lambda c: f"{c.compile_seconds:.2f}"),
]


class Costs(dict[str, Cost]):
    """Costs by name, side by side: a dict that prints as a table, in notebooks too.

    >>> import gradx, jax
    >>> params = jax.ShapeDtypeStruct((1000, 1000), "float32")
    >>> costs = gradx.Costs(sgd=gradx.cost(gradx.sgd(0.1), params, platform="cpu"))
    >>> costs["adam"] = gradx.cost(gradx.adam(1e-3), params, platform="cpu")
    >>> print(costs)
                                  sgd       adam
    compiled for                  cpu        cpu
    parameters              1,000,000  1,000,000
    leaves                          1          1
    moved, B/parameter          12.00      40.00
    floor, B/parameter          12.00      28.00
    temporary, B/parameter       0.00       0.00
    state, B/parameter           0.00       8.00
    ...
    """

    def __str__(self) -> str:
        columns = [[""] + [label for label, _ in ROWS]]
        columns += [[name, *(show(cost) for _, show in ROWS)] for name, cost in self.items()]
        width = [max(map(len, column)) for column in columns]
        lines = [
            "  ".join([label.ljust(width[0]), *map(str.rjust, cells, width[1:])]).rstrip()
            for label, *cells in zip(*columns, strict=True)
        ]
        return "\n".join(lines if any(self) else lines[1:])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self)
        rows = [
            f"<tr><th>{label}</th>"
            + "".join(f"<td>{html.escape(show(c))}</td>" for c in self.values())
            + "</tr>"
            for label, show in ROWS
        ]
        return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"


def cost(
    tx: optax.GradientTransformation,
    params: Tree,
    *,
    platform: str | None = None,
    grads_dtype: Any = None,
    **extra: Any,
) -> Cost:
    """Compile a step of an optimizer: the bytes that it moves and holds, its kernels, and the compile times.

    The step is the step of `gradx.step`, all on one device. The floor is for the step as it is written: each
    input is read once, each output is written once, and arrays that wait for a reduction are read once more.

    Arguments:
      tx: any transformation of gradx or Optax.
      params: arrays, or abstract ones, such as `jax.ShapeDtypeStruct`s or the results of
        `jax.eval_shape`.
      platform: None for the first device of this host, or 'cpu', 'cuda' for an H100, 'tpu' for a v5e. The
        devices need not be there, only their compilers (`pip install 'gradx[targets]'`).
      grads_dtype: dtype of the gradients; None for each parameter's dtype.
      extra: further arguments that `update` needs, such as `value=1.0`; arrays may be abstract.

    On the CPU and TPU bytes are the compiler's own count, on a GPU each kernel's operands and results. The
    compilers count one turn of a loop. On a TPU compare bytes as ratios only, and not the kernels: both
    include prefetches. Seconds belong to this call, which may profit from caches. Raises ValueError for an
    unknown platform or no parameters, TypeError for a `tx` that is not a transformation or a leaf that is not
    an array, ImportError, with the command to install it, for a missing compiler.

    >>> import gradx, jax
    >>> params = {"w": jax.ShapeDtypeStruct((512, 1024), "float32")}
    >>> adamw = gradx.cost(gradx.adamw(1e-3), params, platform="cpu")
    >>> round(adamw.moved_per_parameter, 1), round(adamw.floor_per_parameter, 1)
    (40.0, 28.0)
    """
    take = step_of("tx of cost", tx)
    device, options = device_of(platform)
    params = abstract_on("params", params, device)
    leaves = jax.tree.leaves(params)
    if not any(p.size for p in leaves):
        raise ValueError("cost: params holds no parameters: give arrays, or ShapeDtypeStructs")
    state = abstract_on("state", jax.eval_shape(tx.init, params), device)
    grads = jax.tree.map(lambda p: p.update(dtype=grads_dtype or p.dtype), params)
    functions = {k: v for k, v in extra.items() if callable(v)}
    values = abstract_on("extra", {k: v for k, v in extra.items() if k not in functions}, device)

    def step(params, state, grads, values):
        return take(grads, state, params, **values, **functions)

    jaxpr, compiled, seconds = compiled_step(step, (params, state, grads, values), options)
    slots = jax.tree.leaves(state)
    return Cost(
        platform=platform or device.platform,
        device=device.device_kind,
        parameters=sum(p.size for p in leaves),
        leaves=len(leaves),
        moved_bytes=bytes_moved(compiled, device.platform),
        floor_bytes=floor_bytes(jaxpr, donated=len(leaves) + len(slots)),
        temporary_bytes=compiled.memory_analysis().temp_size_in_bytes,
        state_bytes=sum(s.size * s.dtype.itemsize for s in slots),
        kernels=len(kernels(compiled.as_text())),
        **seconds,
    )


def abstract_on(name: str, tree: Tree, device: Any) -> Tree:
    """The shapes and dtypes of a tree, for a device."""
    try:
        shapes = jax.eval_shape(lambda tree: tree, tree)
    except TypeError as e:
        raise TypeError(f"cost: {name} must hold arrays, or objects with a shape and a dtype: {e}") from e
    return jax.tree.map(lambda x: x.update(sharding=SingleDeviceSharding(device)), shapes)


def compiled_step(
    step: Callable, arguments: tuple, options: dict | None = None
) -> tuple[Any, Any, dict[str, float]]:
    """A step with its first two arguments donated, as a jaxpr and compiled, and the seconds that it took."""
    with warnings.catch_warnings():
        # A state that does not keep its dtypes cannot be donated whole: the bytes show that.
        warnings.filterwarnings("ignore", "Some donated buffers were not usable")
        start = time.perf_counter()
        traced = jax.jit(step, donate_argnums=(0, 1)).trace(*arguments)
        trace = time.perf_counter()
        lowered = traced.lower()
        lower = time.perf_counter()
        compiled = lowered.compile(compiler_options=options)
        end = time.perf_counter()
    seconds = {"trace_seconds": trace - start, "lower_seconds": lower - trace, "compile_seconds": end - lower}
    return traced.jaxpr, compiled, seconds
