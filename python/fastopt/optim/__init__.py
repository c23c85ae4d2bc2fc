"""Drop-in optimizers: ``fastopt.optim.X`` is ``torch.optim.X``, fused. ``Optimizer``, ``lr_scheduler`` and
``swa_utils`` are torch's own, which go with them."""

from torch.optim import Optimizer, lr_scheduler, swa_utils

from ._all import ALL as ALL
from ._update import CommonOptions
from .adabound import AdaBound
from .adadelta import Adadelta
from .adafactor import Adafactor
from .adagrad import Adagrad
from .adam import Adam
from .adamax import Adamax
from .adamw import AdamW
from .adan import Adan
from .ademamix import AdEMAMix
from .adopt import ADOPT
from .asgd import ASGD
from .bitsandbytes import from_bitsandbytes
from .convert import from_torch, switch
from .groups import muon_groups, param_groups
from .lamb import LAMB
from .lars import LARS
from .lbfgs import LBFGS
from .lion import Lion
from .lookahead import Lookahead
from .muon import Muon
from .nadam import NAdam
from .nonlinearcg import NonlinearCG
from .prodigy import Prodigy
from .radam import RAdam
from .rmsprop import RMSprop
from .rprop import Rprop
from .schedulefreeadamw import ScheduleFreeAdamW
from .schedulefreesgd import ScheduleFreeSGD
from .sgd import SGD
from .sparseadam import SparseAdam
from .stableadamw import StableAdamW

__all__ = [
    "ADOPT",
    "ASGD",
    "LAMB",
    "LARS",
    "LBFGS",
    "SGD",
    "AdEMAMix",
    "AdaBound",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "CommonOptions",
    "Lion",
    "Lookahead",
    "Muon",
    "NAdam",
    "NonlinearCG",
    "Optimizer",
    "Prodigy",
    "RAdam",
    "RMSprop",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "SparseAdam",
    "StableAdamW",
    "from_bitsandbytes",
    "from_torch",
    "lr_scheduler",
    "muon_groups",
    "param_groups",
    "swa_utils",
    "switch",
]
