"""Planted faults: each breaks one thing, and the suite must detect each."""
