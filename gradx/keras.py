"""Keras's optimizers by its names: a recipe ported gives its numbers.

>>> import gradx
>>> gradx.keras.AdamW(learning_rate=1e-3, weight_decay=0.004, clipnorm=1.0)
AdamW(clipnorm=1.0)
"""

from gradx.conventions.keras_optimizers import *
