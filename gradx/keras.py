"""Keras's optimizers by its names, arguments and defaults: a recipe ported gives its numbers.

What Keras does around a rule is left out, and a TypeError if given: `use_ema` and what goes with it,
`loss_scale_factor`, `gradient_accumulation_steps`, `name`. So are Ftrl, Muon and ScheduleFreeAdamW.

>>> import gradx
>>> gradx.keras.AdamW(learning_rate=1e-3, weight_decay=0.004, clipnorm=1.0)
AdamW(clipnorm=1.0)
"""

from gradx.conventions.keras_optimizers import *
