"""The catalogue of planted faults, by subject."""

from tests.faults.planted import command, ensemble, harness, implementations, network, optimizers, randomness, training

FAULTS = [
    fault
    for module in (optimizers, network, randomness, training, ensemble, command, harness, implementations)
    for fault in module.FAULTS
]
