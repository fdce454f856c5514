"""What is written can be read again, also after a run that was cut off."""

import csv
import struct
import sys

import jax.numpy as jnp
import pytest

import gradx as gx


def table(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_a_table_holds_what_was_written(tmp_path):
    x = jnp.array([3.0, 4.0])
    tx = gx.measured(gx.chain(gx.clip_by_global_norm(1.0), gx.sgd(0.5)))
    state = tx.init(x)
    with gx.CSVWriter(tmp_path / "metrics.csv") as writer:
        for step in range(2):
            _, state = tx.update(x, state, x)
            writer.write(step, gx.metrics(state))
            assert len(table(writer.path)) == step + 2  # at once: a run may be killed
    header, *rows = table(tmp_path / "metrics.csv")
    assert header == ["step", *gx.metrics(state)]
    assert [float(row[header.index("gradient_norm")]) for row in rows] == [5.0, 5.0]
    assert [row[0] for row in rows] == ["0", "1"]


def test_a_run_that_was_cut_off_goes_on_with_its_table(tmp_path):
    path = tmp_path / "metrics.csv"
    with gx.CSVWriter(path) as writer:
        for step in range(5):
            writer.write(step, {"loss": step, "rate": 0.5})
        writer.file.write("5,")  # killed while it wrote
    with gx.CSVWriter(path, resume=3) as writer:
        writer.write(3, {"loss": 30.0, "rate": 0.5})
    assert [row[1] for row in table(path)] == ["loss", "0.0", "1.0", "2.0", "30.0"]
    with gx.CSVWriter(path) as writer:
        writer.write(0, {"other": 1.0})
    assert table(path) == [["step", "other"], ["0", "1.0"]]


@pytest.mark.parametrize("there", [False, True])
def test_resuming_what_was_never_begun_begins_it(there, tmp_path):
    if there:
        (tmp_path / "new.csv").touch()
    with gx.CSVWriter(tmp_path / "new.csv", resume=7) as writer:
        writer.write(7, {"loss": 1.0})
    assert table(tmp_path / "new.csv") == [["step", "loss"], ["7", "1.0"]]


def test_other_names_than_those_of_the_table_are_refused(tmp_path):
    with gx.CSVWriter(tmp_path / "metrics.csv") as writer:
        writer.write(0, {"loss": 1.0, "rate": 0.1})
        with pytest.raises(ValueError, match=r"missing: \['rate'\], not among them: \['norm'\]"):
            writer.write(1, {"loss": 1.0, "norm": 0.1})
    assert len(table(tmp_path / "metrics.csv")) == 2


def events(folder):
    """The (name, step, value) of the scalars in the event files."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in folder.iterdir():
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)  # then a checksum of 4 bytes, and one at the end
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
            at += 16 + length
    return found


def test_tensorboard_gets_what_was_written(tmp_path):
    with gx.TensorBoardWriter(tmp_path) as writer:
        writer.write(3, {"loss": jnp.float32(2.5), "groups/a/learning_rate": 0.5})
    assert events(tmp_path) == [("loss", 3, 2.5), ("groups/a/learning_rate", 3, 0.5)]


def test_without_tensorboardx_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install 'gradx\[tensorboard\]'"):
        gx.TensorBoardWriter(tmp_path)
