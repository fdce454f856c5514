"""gradx: gradient transformations for JAX, composed from small pure functions.

Every optimizer is a `chain` of transformations, and every transformation is an Optax transformation.
Each module lists its public names in `__all__`, and has one line here: `gradx.<name>` is public,
what lies deeper can be read but may move.
"""

from optax import OptState as OptState
from optax import Params as Params
from optax import Updates as Updates

from gradx import keras as keras
from gradx import torch as torch
from gradx.codecs.blockwise import *
from gradx.codecs.float8 import *
from gradx.codecs.rounded import *
from gradx.codecs.stored import *
from gradx.core import *
from gradx.cost import *
from gradx.distributed.sharding import *
from gradx.factory import *
from gradx.hyper import *
from gradx.leafwise import *
from gradx.low_precision.policies import *
from gradx.low_precision.store import *
from gradx.minimize import *
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
from gradx.optimizers.polyak import *
from gradx.optimizers.radam import *
from gradx.optimizers.ranger import *
from gradx.optimizers.rmsprop import *
from gradx.optimizers.rprop import *
from gradx.optimizers.sgd import *
from gradx.optimizers.signsgd import *
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
from gradx.states.checkpoint import *
from gradx.states.eval_params import *
from gradx.states.explain import *
from gradx.states.migrate import *
from gradx.states.slots import *
from gradx.states.summary import *
from gradx.states.torch_states import *
from gradx.step import *
from gradx.training.micro_batches import *
from gradx.training.noise_scale import *
from gradx.training.range_test import *
from gradx.training.stopping import *
from gradx.training.writers import *
from gradx.transforms.accumulation import *
from gradx.transforms.averages import *
from gradx.transforms.centralize import *
from gradx.transforms.clipping import *
from gradx.transforms.conditional import *
from gradx.transforms.constraints import *
from gradx.transforms.decay import *
from gradx.transforms.descent import *
from gradx.transforms.devices import *
from gradx.transforms.groups import *
from gradx.transforms.injection import *
from gradx.transforms.linesearch import *
from gradx.transforms.lookahead import *
from gradx.transforms.loss_scale import *
from gradx.transforms.masking import *
from gradx.transforms.metrics import *
from gradx.transforms.momentum import *
from gradx.transforms.multi_steps import *
from gradx.transforms.noise import *
from gradx.transforms.norms import *
from gradx.transforms.overrides import *
from gradx.transforms.packing import *
from gradx.transforms.partition import *
from gradx.transforms.rounding import *
from gradx.transforms.scale import *
from gradx.transforms.skipping import *
from gradx.transforms.stacked import *
from gradx.transforms.trust_ratio import *
from gradx.tree import *

__version__ = "0.1.0"
