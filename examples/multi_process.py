"""Train a network (Flax NNX) on the digits with all devices of several processes, and survive a killed one.

On this machine, in two processes of four CPU devices, and after a failure in one process:
  python examples/launch.py --processes 2 --devices 4 --restart 1 examples/multi_process.py
On a TPU pod, on every host; on GPUs with SLURM, a process for each:
  python examples/multi_process.py --cluster --checkpoints /shared/run
  srun --kill-on-bad-exit=1 python examples/multi_process.py --cluster --checkpoints /shared/run
On hosts of a list, with --process-id 0 on the first, and 1 on the second:
  python examples/multi_process.py --coordinator host0:8476 --processes 2 --process-id 0

Each device has a part of the optimizer's state (ZeRO-1). Started again, with any number of processes and
devices, a run goes on from its last checkpoint. It ends with the same parameters, to the bit, whatever their
number: a batch depends on its step alone, and is cut into --parts, whose gradients are added in their order.
"""

import argparse
import hashlib
import pathlib
import re
import socket
import sys
import time
import zlib

import common  # first: it says what is missing
import jax
import jax.numpy as jnp
import numpy as np
import optax
from digits import Network
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gradx as gx


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--cluster", action="store_true", help="a TPU pod, SLURM, Open MPI or Kubernetes says where all are")
    add("--coordinator", help="where process 0 is, and a free port there", metavar="HOST:PORT")
    add("--processes", type=int, help="how many there are", metavar="N")
    add("--process-id", type=int, help="which one this is, from 0", metavar="N")
    add("--wait", type=int, default=300, help="seconds for all processes to come", metavar="N")
    add("--batch-size", type=int, default=64, help="images in a step, of all devices", metavar="N")
    add("--parts", type=int, default=8, help="of a batch, for as many devices or fewer", metavar="N")
    add("--epochs", type=int, default=10, help="passes over the data", metavar="N")
    add("--learning-rate", type=float, default=6e-3, help="peak", metavar="X")
    add("--seed", type=int, default=0, help="of weights and order", metavar="N")
    add("--checkpoints", type=pathlib.Path, default="checkpoints", help="a shared folder", metavar="PATH")
    add("--save-every", type=int, default=20, help="steps from one checkpoint to the next", metavar="N")
    args = parser.parse_args()
    place = (args.coordinator, args.processes, args.process_id)
    if any(x is not None for x in place) and (None in place or args.cluster):
        parser.error("--coordinator, --processes and --process-id belong together, without --cluster")
    if args.coordinator and not re.fullmatch(r"[^:]+:\d+", args.coordinator):
        parser.error(f"--coordinator must be HOST:PORT, got {args.coordinator!r}")
    for name in ("batch_size", "parts", "epochs", "save_every"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if args.batch_size % args.parts or args.batch_size > common.TRAIN:
        parser.error(f"--batch-size must be a multiple of --parts, {args.parts}, of at most {common.TRAIN}")
    return args


def connect(args: argparse.Namespace) -> Mesh:
    """Find the other processes; all their devices."""
    if args.cluster:
        try:
            jax.distributed.initialize(initialization_timeout=args.wait)
        except (ValueError, RuntimeError) as e:
            sys.exit(
                f"multi_process: JAX finds no cluster here: give --coordinator in place of --cluster ({e})"
            )
    elif args.coordinator:
        if args.process_id > 0:
            wait_for(args.coordinator, args.wait)
        jax.distributed.initialize(
            args.coordinator, args.processes, args.process_id, initialization_timeout=args.wait
        )
    devices = jax.devices()
    if args.parts % len(devices):
        sys.exit(
            f"multi_process: {args.parts} parts are not divided among {len(devices)} devices: give --parts a "
            f"multiple of {len(devices)}, or start other processes"
        )
    return Mesh(np.array(devices), ("data",))


def wait_for(coordinator: str, seconds: float) -> None:
    """Until process 0 is there: where JAX does not find it, it aborts, and does not say how to mend it."""
    host, port = coordinator.split(":")
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError as e:
            if time.monotonic() > deadline:
                sys.exit(
                    f"multi_process: nobody at {coordinator} ({e}): start --process-id 0 on that host, give "
                    "all processes the same --coordinator, and see that they can reach its port"
                )
        time.sleep(0.1)


def batch_of(step: int, data: common.Split, args: argparse.Namespace, mesh: Mesh) -> list[jax.Array]:
    """Images and labels of a step, (parts, images in a part, ...); each process makes its own parts only."""
    epoch, at = divmod(step, len(data.labels) // args.batch_size)
    order = np.random.default_rng((args.seed, epoch)).permutation(len(data.labels))
    chosen = order[at * args.batch_size : (at + 1) * args.batch_size].reshape(args.parts, -1)
    rows = NamedSharding(mesh, P("data"))
    shape = lambda x: chosen.shape + x.shape[1:]
    return [jax.make_array_from_callback(shape(x), rows, lambda i, x=x: x[chosen[i[:2]]]) for x in data]


class Run:
    """What is compiled, and where its arrays are: the parameters whole on each device, the state in parts."""

    def __init__(self, args: argparse.Namespace, mesh: Mesh, steps: int) -> None:
        schedule = gx.warmup_cosine_decay_schedule(0.0, args.learning_rate, steps // 10, steps + 1)
        self.tx = tx = gx.adamw(schedule, weight_decay=0.001, mask="matrices_only")
        network = lambda: Network(nnx.Rngs(args.seed))
        graph, shapes = nnx.split(nnx.eval_shape(network))
        whole = NamedSharding(mesh, P())
        self.shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), shapes)
        self.state_sharding = gx.state_sharding(tx, shapes, whole, zero_axis="data")
        slices = gx.state_sharding(gx.trace(0.9), shapes, whole, zero_axis="data").trace

        def loss_of(params, images, labels):
            scores = nnx.merge(graph, params)(images)
            return optax.losses.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

        def of_parts(params, images, labels):
            """On one device: loss and gradient of each of its parts, one after the other."""
            params = jax.lax.pcast(params, "data", to="varying")  # else JAX adds up the gradients of all
            return jax.lax.map(lambda part: jax.value_and_grad(loss_of)(params, *part), (images, labels))

        def in_order(x):
            return sum(x[i] for i in range(args.parts)) / args.parts

        def step(params, state, images, labels):
            split = (P(), P("data"), P("data"))
            of_all = jax.shard_map(of_parts, mesh=mesh, in_specs=split, out_specs=P("data"))
            losses, grads = of_all(params, images, labels)
            # Each device gets its slice of all gradients, as in a reduce-scatter, and adds up by itself.
            parts = jax.tree.map(lambda at: NamedSharding(mesh, P(None, *at.spec)), slices)
            grads = jax.tree.map(in_order, jax.lax.with_sharding_constraint(grads, parts))
            updates, state = tx.update(grads, state, params)
            return gx.apply_updates(params, updates), state, losses.mean()

        def start():
            params = nnx.state(network())
            return params, tx.init(params)

        self.start = jax.jit(start, out_shardings=(whole, self.state_sharding))
        places = (whole, self.state_sharding, whole)
        self.step = jax.jit(step, donate_argnums=(0, 1), out_shardings=places)
        right = lambda p, x, y: jnp.mean(jnp.argmax(nnx.merge(graph, p)(x), axis=-1) == y)
        self.accuracy = jax.jit(right, out_shardings=whole)


def resumed(args: argparse.Namespace, run: Run) -> tuple:
    """The step to begin with, parameters and state: of the last checkpoint, or new."""
    settings = {k: getattr(args, k) for k in ("batch_size", "epochs", "learning_rate", "parts", "seed")}
    sums = multihost_utils.process_allgather(np.uint32(zlib.crc32(repr(settings).encode())))
    if not np.all(sums == sums.flat[0]):
        sys.exit(f"multi_process: the processes were given different options, and this one {settings}")
    if gx.latest_checkpoint(args.checkpoints) is None:
        return 0, *run.start(), settings
    try:
        step, params, state, saved = gx.restore_checkpoint(
            args.checkpoints, run.tx, run.shapes, extra=settings, state_sharding=run.state_sharding
        )
    except ValueError as e:
        sys.exit(f"multi_process: {e}")
    if saved != settings:
        sys.exit(
            f"multi_process: {args.checkpoints} is of a run with {saved}, and this one has {settings}: give "
            "the same options, or another folder in --checkpoints"
        )
    return step, params, state, settings


def main() -> None:
    args = parse_args()
    mesh = connect(args)
    train, _, test = common.load_data()
    steps = args.epochs * (len(train.labels) // args.batch_size)
    run = Run(args, mesh, steps)
    start, params, state, settings = resumed(args, run)
    say = print if jax.process_index() == 0 else lambda *args, **kwargs: None
    say(f"from step {start} to {steps} on {mesh.size} devices of {jax.process_count()} processes", flush=True)
    for i in range(start, steps):
        params, state, loss = run.step(params, state, *batch_of(i, train, args, mesh))
        if (i + 1) % args.save_every == 0 or i + 1 == steps:
            say(f"step {i + 1} loss {float(loss):.4f}", flush=True)
            gx.save_checkpoint(args.checkpoints, i + 1, params, state, extra=settings, keep=2)
    accuracy = float(run.accuracy(params, *test))
    bits = b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(params))
    say(f"test_accuracy={accuracy:.4f} steps={steps} digest={hashlib.sha256(bits).hexdigest()[:16]}")


if __name__ == "__main__":
    main()
