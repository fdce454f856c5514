"""Metrics into files: a CSV table, or TensorBoard."""

import abc
import contextlib
import csv
import pathlib
from typing import Any

import jax

__all__ = ["CSVWriter", "TensorBoardWriter"]


class Writer(contextlib.AbstractContextManager):
    """The base of both: `with`, and scalars fetched from the device all at once."""

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        """Write the scalars of one step."""
        values = jax.device_get(list(metrics.values()))
        self.put(int(step), {name: float(x) for name, x in zip(metrics, values, strict=True)})

    @abc.abstractmethod
    def put(self, step: int, numbers: dict[str, float]) -> None:
        """Write numbers, in the way of each kind of file."""

    @abc.abstractmethod
    def close(self) -> None:
        """Write the rest, and close the file."""

    def __exit__(self, *raised: object) -> None:
        self.close()


class CSVWriter(Writer):
    """Metrics as a table: a column `step` and one for each name, a row for each step that is written.

    Arguments:
      path: the file, made anew; its folder must exist.
      resume: the first step to write, to continue the table of the file: rows of this step and later ones,
        which a run wrote after its last checkpoint, are removed. None starts anew.

    `write(step, metrics)` raises ValueError if the names differ from the columns of the table. When it
    returns, the row is in the file.

    >>> import gradx, pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "metrics.csv"
    >>> with gradx.CSVWriter(path) as writer:
    ...     writer.write(0, {"loss": 2.5, "learning_rate": 0.1})
    >>> print(path.read_text().strip())
    step,loss,learning_rate
    0,2.5,0.1
    """

    def __init__(self, path: Any, *, resume: int | None = None) -> None:
        self.path = pathlib.Path(path)
        self.names: list[str] | None = None
        kept: list[list[str]] = []
        if resume is not None and self.path.exists():
            with self.path.open(newline="") as file:
                table = list(csv.reader(file))
            whole = [row for row in table[1:] if len(row) == len(table[0])]  # a kill may leave half a row
            kept = table[:1] + [row for row in whole if int(row[0]) < resume]
            self.names = kept[0][1:] if kept else None
        self.file = self.path.open("w", newline="")
        self.rows = csv.writer(self.file, lineterminator="\n")
        self.rows.writerows(kept)

    def put(self, step: int, numbers: dict[str, float]) -> None:
        if self.names is None:
            self.names = list(numbers)
            self.rows.writerow(["step", *self.names])
        if set(numbers) != set(self.names):
            missing, new = set(self.names) - set(numbers), set(numbers) - set(self.names)
            raise ValueError(
                f"CSVWriter: the columns of {self.path} are {self.names}; missing: {sorted(missing)}, "
                f"not among them: {sorted(new)}"
            )
        self.rows.writerow([step, *(numbers[name] for name in self.names)])
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class TensorBoardWriter(Writer):
    """Metrics for TensorBoard, written by tensorboardX (`pip install 'gradx[tensorboard]'`).

    Arguments:
      folder: the folder of the event files; made if missing.
      resume: the first step to write: TensorBoard then hides the values that an interrupted run wrote at this
        step and later. None for a new run.

    Raises ImportError, with the command to install it, if tensorboardX is missing.
    """

    def __init__(self, folder: Any, *, resume: int | None = None) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as e:
            raise ImportError("TensorBoardWriter needs tensorboardX: pip install 'gradx[tensorboard]'") from e
        self.events = SummaryWriter(str(folder), purge_step=resume)

    def put(self, step: int, numbers: dict[str, float]) -> None:
        for name, number in numbers.items():
            self.events.add_scalar(name, number, step)

    def close(self) -> None:
        self.events.close()
