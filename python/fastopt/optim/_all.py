"""All optimizers, in the order in which pages and messages name them."""

from ._declared import Declared
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
from .lamb import LAMB
from .lars import LARS
from .lion import Lion
from .muon import Muon
from .nadam import NAdam
from .prodigy import Prodigy
from .radam import RAdam
from .rmsprop import RMSprop
from .rprop import Rprop
from .schedulefreeadamw import ScheduleFreeAdamW
from .schedulefreesgd import ScheduleFreeSGD
from .sgd import SGD
from .sparseadam import SparseAdam
from .stableadamw import StableAdamW

ALL = (
    SGD,
    Adam,
    AdamW,
    Adagrad,
    RMSprop,
    Adadelta,
    Adamax,
    NAdam,
    RAdam,
    AdaBound,
    Adafactor,
    Rprop,
    ASGD,
    Lion,
    LAMB,
    LARS,
    StableAdamW,
    AdEMAMix,
    ADOPT,
    Adan,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    Prodigy,
)

FAMILY = (*ALL, Muon, SparseAdam)  # which take matrices, or sparse gradients, alone

# Tells the base class of its subclasses, which it cannot import: a checkpoint may belong to another one.
Declared._family = FAMILY
