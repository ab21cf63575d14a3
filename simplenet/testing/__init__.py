"""Check an Adam or a network from outside: by its parameters and gradients, its inputs and outputs.

It needs what ``pip install "simplenet[testing]"`` brings. The package itself never imports it.
"""
