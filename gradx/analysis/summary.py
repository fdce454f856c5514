"""The bytes of a state, slot by slot, from shapes alone."""

import dataclasses
import html
from collections import defaultdict
from typing import Any

import jax
import optax

from gradx.core.foreign import check_transformation
from gradx.core.tree import Tree
from gradx.states.entries import entries, short_names
from gradx.wrappers.packing import Packed

__all__ = ["Summary", "summarize"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One slot in one dtype, in one group or named link: how many arrays it has, and how many bytes.

    `format` is the codec of a slot that is stored, else empty.
    """

    slot: str
    part: str
    dtype: str
    format: str
    arrays: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """The result of `summarize`: the rows and the number of parameters. It prints as a table."""

    rows: list[Row]
    parameters: int

    @property
    def bytes(self) -> int:
        """All bytes of the state."""
        return sum(row.bytes for row in self.rows)

    @property
    def bytes_per_parameter(self) -> float:
        """The bytes of the state for each parameter."""
        return self.bytes / self.parameters

    def asdict(self) -> dict[str, Any]:
        """All values by name, in types that JSON can hold."""
        totals = {name: getattr(self, name) for name in ("parameters", "bytes", "bytes_per_parameter")}
        return totals | {"rows": [dataclasses.asdict(row) for row in self.rows]}

    def cells(self) -> list[list[str]]:
        """The table: a header, a line for each row, and the total; parts and formats if there are any."""
        lines = [["slot", "part", "dtype", "format", "arrays", "bytes", "B/parameter"]]
        for r in self.rows:
            share = f"{r.bytes / self.parameters:.2f}"
            lines.append([r.slot, r.part, r.dtype, r.format, f"{r.arrays:,}", f"{r.bytes:,}", share])
        arrays = sum(r.arrays for r in self.rows)
        total = f"{self.bytes:,}", f"{self.bytes_per_parameter:.2f}"
        lines.append(["total", "", "", "", f"{arrays:,}", *total])
        columns = [
            column
            for column in zip(*lines, strict=True)
            if column[0] not in ("part", "format") or any(column[1:])
        ]
        return [list(line) for line in zip(*columns, strict=True)]

    def __str__(self) -> str:
        lines = self.cells()
        width = [max(map(len, column)) for column in zip(*lines, strict=True)]
        words = len(width) - 3  # the last three columns are numbers
        return "\n".join(
            "  ".join(
                [*map(str.ljust, line[:words], width), *map(str.rjust, line[words:], width[words:])]
            ).rstrip()
            for line in lines
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *lines = self.cells()
        row = lambda tag, line: f"<tr>{''.join(f'<{tag}>{html.escape(x)}</{tag}>' for x in line)}</tr>"
        return f"<table>{row('th', head)}{''.join(row('td', line) for line in lines)}</table>"


def summarize(tx: optax.GradientTransformation, params: Tree) -> Summary:
    """The bytes of an optimizer's state by slot, dtype and group, from shapes alone.

    Arguments:
      tx: any transformation of gradx or Optax.
      params: arrays, or abstract ones, such as `jax.ShapeDtypeStruct`s or the results of
        `jax.eval_shape`.

    Nothing is allocated. A `part` is the name of a group, or of a link of `named_chain`. Slots under
    `packed` are counted one by one, slots under `store` by their arrays, with their format. Raises
    ValueError for no parameters, TypeError for a `tx` that is not a transformation.

    >>> import gradx, jax
    >>> params = {"w": jax.ShapeDtypeStruct((1000, 1000), "float32")}
    >>> print(gradx.summarize(gradx.adam(1e-3, mu_dtype="bfloat16"), params))
    slot   dtype     arrays      bytes  B/parameter
    count  int32          1          4         0.00
    mu     bfloat16       1  2,000,000         2.00
    nu     float32        1  4,000,000         4.00
    total                 3  6,000,004         6.00
    """
    check_transformation("tx of summarize", tx)  # raises if it is no transformation
    parameters = sum(x.size for x in jax.tree.leaves(params))
    if not parameters:
        raise ValueError("summarize: params holds no parameters: give arrays, or ShapeDtypeStructs")
    state = jax.eval_shape(tx.init, params)
    if isinstance(tx, Packed):
        state = jax.eval_shape(tx.layout_of(params).unpack, state)
    found, sums = entries(state, params), defaultdict(lambda: [0, 0])
    for name, e in zip(short_names(found), found, strict=True):
        total = sums[name, e.part, str(e.array.dtype), "" if e.codec is None else repr(e.codec)]
        total[0] += 1
        total[1] += e.array.size * e.array.dtype.itemsize
    return Summary([Row(*key, *total) for key, total in sums.items()], parameters)
