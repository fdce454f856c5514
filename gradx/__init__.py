"""gradx: gradient transformations for JAX, composed from small pure functions.

Every optimizer is a `chain` of transformations, and every transformation is an Optax transformation.
Each module lists its public names in `__all__`, and has one line here: `gradx.<name>` is public,
what lies deeper can be read but may move.
"""

from optax import ApplyEvery as ApplyEvery
from optax import GradientTransformationExtraArgs as GradientTransformationExtraArgs
from optax import InjectHyperparamsState as InjectHyperparamsState
from optax import LookaheadParams as LookaheadParams
from optax import MonitorState as MonitorState
from optax import OptState as OptState
from optax import Params as Params
from optax import SnapshotState as SnapshotState
from optax import TransformInitFn as TransformInitFn
from optax import TransformUpdateExtraArgsFn as TransformUpdateExtraArgsFn
from optax import TransformUpdateFn as TransformUpdateFn
from optax import Updates as Updates
from optax import apply_every as apply_every
from optax import incremental_update as incremental_update
from optax import measure_with_ema as measure_with_ema
from optax import microbatch as microbatch
from optax import monitor as monitor
from optax import periodic_update as periodic_update
from optax import safe_increment as safe_increment
from optax import safe_int32_increment as safe_int32_increment
from optax import snapshot as snapshot
from optax import with_extra_args_support as with_extra_args_support

from gradx import keras as keras
from gradx import torch as torch
from gradx.analysis.cost import *
from gradx.analysis.explain import *
from gradx.analysis.summary import *
from gradx.codecs.blockwise import *
from gradx.codecs.float8 import *
from gradx.codecs.rounded import *
from gradx.codecs.stored import *
from gradx.core.apply import *
from gradx.core.chain import *
from gradx.core.factory import *
from gradx.core.foreign import *
from gradx.core.hyperparameters import *
from gradx.core.ranges import *
from gradx.core.transformation import *
from gradx.core.tree import *
from gradx.engine.leafwise import *
from gradx.engine.slot_starts import *
from gradx.engine.state_layout import *
from gradx.low_precision.precision import *
from gradx.low_precision.store import *
from gradx.low_precision.weights import *
from gradx.optimizers.adabelief import *
from gradx.optimizers.adadelta import *
from gradx.optimizers.adafactor import *
from gradx.optimizers.adagrad import *
from gradx.optimizers.adam import *
from gradx.optimizers.adamax import *
from gradx.optimizers.adan import *
from gradx.optimizers.amsgrad import *
from gradx.optimizers.asgd import *
from gradx.optimizers.fromage import *
from gradx.optimizers.lamb import *
from gradx.optimizers.lars import *
from gradx.optimizers.lbfgs import *
from gradx.optimizers.lion import *
from gradx.optimizers.nadam import *
from gradx.optimizers.noisy_sgd import *
from gradx.optimizers.novograd import *
from gradx.optimizers.optimistic import *
from gradx.optimizers.polyak_sgd import *
from gradx.optimizers.radam import *
from gradx.optimizers.ranger import *
from gradx.optimizers.rmsprop import *
from gradx.optimizers.rprop import *
from gradx.optimizers.sgd import *
from gradx.optimizers.sign_sgd import *
from gradx.optimizers.sm3 import *
from gradx.optimizers.yogi import *
from gradx.schedules.base import *
from gradx.schedules.combine import *
from gradx.schedules.cosine import *
from gradx.schedules.cycle import *
from gradx.schedules.decay import *
from gradx.schedules.piecewise import *
from gradx.schedules.plateau import *
from gradx.schedules.run import *
from gradx.schedules.warmup import *
from gradx.selection.groups import *
from gradx.selection.masking import *
from gradx.selection.overrides import *
from gradx.selection.partition import *
from gradx.selection.stacked import *
from gradx.states.checkpoint import *
from gradx.states.eval_params import *
from gradx.states.map_params import *
from gradx.states.migrate import *
from gradx.states.sharding import *
from gradx.states.slots import *
from gradx.states.torch_import import *
from gradx.training.micro_batches import *
from gradx.training.minimize import *
from gradx.training.noise_scale import *
from gradx.training.range_test import *
from gradx.training.step import *
from gradx.training.stopping import *
from gradx.training.writers import *
from gradx.transforms.average_gradients import *
from gradx.transforms.centralize import *
from gradx.transforms.clipping import *
from gradx.transforms.constraints import *
from gradx.transforms.descent import *
from gradx.transforms.linesearch import *
from gradx.transforms.momentum import *
from gradx.transforms.noise import *
from gradx.transforms.normalization import *
from gradx.transforms.scale import *
from gradx.transforms.trust_ratio import *
from gradx.transforms.weight_decay import *
from gradx.wrappers.accumulation import *
from gradx.wrappers.averages import *
from gradx.wrappers.complex_parts import *
from gradx.wrappers.conditional import *
from gradx.wrappers.injection import *
from gradx.wrappers.lookahead import *
from gradx.wrappers.loss_scale import *
from gradx.wrappers.metrics import *
from gradx.wrappers.multi_steps import *
from gradx.wrappers.packing import *
from gradx.wrappers.skipping import *

__version__ = "0.1.0"
