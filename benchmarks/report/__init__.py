"""Recorded benchmarks as a table and two plots: the time of a step, relative to eager on the CPU and to other runs.

``python -m benchmarks.report RUN.json [OTHER.json ...]`` reads what ``pytest --benchmark-only`` wrote for its option
``--benchmark-json=RUN.json``. The output is Markdown; a comparison that would mislead is preceded by a warning.
Neither torch nor a GPU is needed, so that a record can be read anywhere.
"""
