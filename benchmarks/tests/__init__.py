"""Tests of the benchmarks: the clock, the check before timing, and the report."""
