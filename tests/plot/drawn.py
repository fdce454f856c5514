"""What is to be seen in a picture."""

import numpy as np


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def data(line):
    return [np.asarray(x, float) for x in line.get_data()]


def are_inside(figure):
    """Nothing that is drawn, labels and legends too, is cut off by the edge."""
    figure.canvas.draw()
    box, whole = figure.get_tightbbox(), figure.bbox_inches
    return (
        box.x0 >= -0.01 and box.y0 >= -0.01 and box.x1 <= whole.width + 0.01 and box.y1 <= whole.height + 0.01
    )
