"""What both digits examples share: the data, the arguments, the table and the picture."""

import argparse
import math
import pathlib
import sys
from typing import NamedTuple

try:
    import matplotlib
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from tqdm import tqdm
except ImportError as e:
    sys.exit(f"{e.name} is missing: pip install 'gradx[examples]', or run `make demo`")

matplotlib.use("Agg")  # a file is all we draw to
import matplotlib.pyplot as plt

# A peak learning rate for each optimizer, chosen on the validation set at batch size 64.
LEARNING_RATES = {"sgd": 0.2, "adam": 6e-3, "adamw": 6e-3, "lion": 1e-3, "lars": 20.0, "lamb": 1e-2}


TRAIN, VALIDATION, TEST = 1257, 180, 360  # images


class Split(NamedTuple):
    """Images (n, 8, 8, 1) from 0 to 1, and their labels."""

    images: np.ndarray
    labels: np.ndarray


def load_data() -> tuple[Split, Split, Split]:
    """1,797 handwritten digits: for training, for validation and for the test; the same at every call."""
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[..., None]
    labels = digits.target.astype(np.int32)
    parts = train_test_split(images, labels, test_size=TEST, stratify=labels, random_state=0)
    rest = train_test_split(parts[0], parts[2], test_size=VALIDATION, stratify=parts[2], random_state=0)
    return Split(rest[0], rest[2]), Split(rest[1], rest[3]), Split(parts[1], parts[3])


def batches(data: Split, size: int, rng: np.random.Generator):
    """Shuffled full batches of one epoch, each image moved by up to a pixel."""
    order = rng.permutation(len(data.labels))
    padded = np.pad(data.images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i in range(0, len(order) - size + 1, size):
        chosen = order[i : i + size]
        down, right = rng.integers(0, 3, (2, size, 1, 1))
        rows, columns = down + np.arange(8)[:, None], right + np.arange(8)
        yield padded[chosen[:, None, None], rows, columns], data.labels[chosen]


def parse_args(description: str, plot: str) -> argparse.Namespace:
    """The command line; a bad value ends the program with status 2 and one line."""

    class Parser(argparse.ArgumentParser):
        def error(self, message):
            self.exit(2, f"{self.prog}: {message}\n")

    def at_least(kind, least, most=math.inf, strict=False):
        def parse(text):
            try:
                value = kind(text)
            except ValueError:
                value = math.nan
            if not (least < value if strict else least <= value) or not value <= most or math.isinf(value):
                bounds = f"more than {least}" if strict else f"at least {least}"
                bounds += "" if math.isinf(most) else f" and at most {most}"
                what = "a whole number" if kind is int else "a number"
                raise argparse.ArgumentTypeError(f"must be {what} of {bounds}, got {text!r}")
            return value

        return parse

    def writable(text):
        path = pathlib.Path(text)
        if path.is_dir() or not path.parent.is_dir():
            raise argparse.ArgumentTypeError(f"must be a file in a folder that exists, got {text!r}")
        if path.suffix.lower() not in (".png", ".pdf", ".svg"):
            raise argparse.ArgumentTypeError(f"must end in .png, .pdf or .svg, got {text!r}")
        return path

    parser = Parser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--optimizer", choices=LEARNING_RATES, default="adamw", help="which direction to take"
    )
    parser.add_argument(
        "--batch-size", type=at_least(int, 1, TRAIN), default=64, help="images in a step", metavar="N"
    )
    parser.add_argument(
        "--epochs", type=at_least(int, 1), default=30, help="passes over the data", metavar="N"
    )
    parser.add_argument(
        "--learning-rate",
        type=at_least(float, 0, strict=True),
        help="peak; by default one that suits",
        metavar="X",
    )
    parser.add_argument(
        "--weight-decay", type=at_least(float, 0), default=0.001, help="of matrices", metavar="X"
    )
    parser.add_argument(
        "--seed", type=at_least(int, 0, 2**32 - 1), default=0, help="of weights and order", metavar="N"
    )
    parser.add_argument(
        "--plot", type=writable, default=plot, help="where to draw the curves", metavar="PATH"
    )
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    args = parser.parse_args()
    args.learning_rate = args.learning_rate or LEARNING_RATES[args.optimizer]
    return args


class Log:
    """The progress bar, the table of epochs, and the curves."""

    def __init__(self, args: argparse.Namespace, epoch_steps: int) -> None:
        self.args = args
        self.epoch_steps = epoch_steps
        self.losses, self.rates, self.accuracies = [], [], []
        self.bar = tqdm(total=epoch_steps * args.epochs, disable=args.no_progress, unit="step", leave=False)
        print(f"{'epoch':>5} {'loss':>8} {'validation':>10} {'rate':>9}")

    def step(self, loss, rate) -> None:
        self.losses.append(loss)  # still on its way: reading it here would wait for the device
        self.rates.append(rate)
        self.bar.update()

    def epoch(self, accuracy: float) -> None:
        self.accuracies.append(accuracy)
        loss = np.mean([float(x) for x in self.losses[-self.epoch_steps :]])
        with self.bar.external_write_mode(file=sys.stdout):
            print(f"{len(self.accuracies):5d} {loss:8.4f} {accuracy:10.4f} {float(self.rates[-1]):9.2e}")

    def finish(self, test_accuracy: float) -> None:
        """Draw, and print the result on the last line."""
        self.bar.close()
        figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
        axes[0].semilogy([float(x) for x in self.losses], lw=0.8)
        axes[0].set_title("training loss")
        ends = self.epoch_steps * np.arange(1, len(self.accuracies) + 1)
        axes[1].plot(ends, self.accuracies, marker=".", label="validation")
        axes[1].axhline(test_accuracy, color="C1", ls="--", label=f"test, at the end: {test_accuracy:.4f}")
        axes[1].set_title("accuracy")
        axes[1].legend(loc="lower right")
        axes[2].plot([float(x) for x in self.rates])
        axes[2].set_title("learning rate")
        for ax in axes:
            ax.set_xlabel("step")
            ax.grid(alpha=0.3)
        figure.suptitle(f"digits with {self.args.optimizer}, batch size {self.args.batch_size}")
        figure.savefig(self.args.plot, dpi=120)
        print(f"curves: {self.args.plot}")
        print(f"test_accuracy={test_accuracy:.4f} optimizer={self.args.optimizer} steps={len(self.losses)}")
