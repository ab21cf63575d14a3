"""The Adam that ``--adam`` names and the network that ``--net`` names, by the checks of ``simplenet.testing``.

Without those options nothing here runs; with them, nothing else does.
"""


def test_adam(adam_check):
    adam_check()


def test_network(network_check):
    network_check()
