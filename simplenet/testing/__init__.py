"""Check an Adam or a network as a black box: by its parameters and gradients, its inputs and outputs.

A report needs no other package. Tests need pytest, and ``strategies`` and ``refuted`` need Hypothesis: the extra
``testing`` installs both. Names are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simplenet.testing.checks import check_adam, parametrize_with_checks
    from simplenet.testing.network import check_network, parametrize_network_with_checks
    from simplenet.testing.optimizers import ArrayOptimizer
    from simplenet.testing.oracle import Variant
    from simplenet.testing.report import Report

__all__ = [
    "ArrayOptimizer",
    "Report",
    "Variant",
    "check_adam",
    "check_network",
    "parametrize_network_with_checks",
    "parametrize_with_checks",
]

_MODULES = {
    "ArrayOptimizer": "optimizers",
    "Report": "report",
    "Variant": "oracle",
    "check_adam": "checks",
    "check_network": "network",
    "parametrize_network_with_checks": "network",
    "parametrize_with_checks": "checks",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
