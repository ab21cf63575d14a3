"""Planted faults: each breaks one thing, and the suite has to notice each."""
