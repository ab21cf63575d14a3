"""Tests of the suite itself, and of the library that it is made from."""
