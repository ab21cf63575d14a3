"""SimpleNet: a network of 17 parameters that learns exclusive-or, so that all of it can be checked.

Names are imported when first used: ``simplenet --help`` need not wait for torch, and
``simplenet.reference`` never loads it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simplenet.certificate import Certificate, certify, clopper_pearson
    from simplenet.data import XORDataModule, xor, xor_dataloader
    from simplenet.ensemble import Ensemble, train_ensemble
    from simplenet.model import ARCHITECTURES, Architecture, SimpleNet, load_checkpoint, mse_loss
    from simplenet.resume import ExactResume, ResumableDataLoader
    from simplenet.seeding import deterministic, set_seed
    from simplenet.training import TrainingRun, train

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Certificate",
    "Ensemble",
    "ExactResume",
    "ResumableDataLoader",
    "SimpleNet",
    "TrainingRun",
    "XORDataModule",
    "certify",
    "clopper_pearson",
    "deterministic",
    "load_checkpoint",
    "mse_loss",
    "set_seed",
    "train",
    "train_ensemble",
    "xor",
    "xor_dataloader",
]

_MODULES = ("data", "model", "seeding", "training", "ensemble", "certificate", "resume")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in map(import_module, (f"{__name__}.{module}" for module in _MODULES)):
            if name in vars(module):
                return vars(module)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
