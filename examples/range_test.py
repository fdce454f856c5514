"""Find a learning rate for a network on handwritten digits, before it is trained, and draw how.

python examples/range_test.py
"""

import itertools

import common  # first: it says what is missing
import numpy as np
import optax
from digits import Network
from flax import nnx

import gradx as gx


def main() -> None:
    train, _, _ = common.load_data()
    rng = np.random.default_rng(0)
    epochs = (common.batches(train, 64, rng) for _ in itertools.count())
    graph, params = nnx.split(Network(nnx.Rngs(0)))

    def loss_of(params, batch):
        images, labels = batch
        scores = nnx.merge(graph, params)(images)
        return optax.losses.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

    # The learning rate stands here as it will in training; the test puts others in its place.
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3, weight_decay=0.001, mask=gx.matrices_only))
    print(tx)
    found = gx.lr_range_test(loss_of, tx, params, itertools.chain.from_iterable(epochs))
    print(found)
    found.plot().figure.savefig("range_test.png", dpi=120)
    print("picture: range_test.png")
    print(f"suggestion={found.suggestion:.2g}")


if __name__ == "__main__":
    main()
