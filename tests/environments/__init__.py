"""Comparisons of versions and machines: golden training runs, and the drift of an environment from them."""
