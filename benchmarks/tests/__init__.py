"""Tests of the benchmarks themselves: the clock, the check before it, and the report."""
