"""``python -m simplenet`` is ``simplenet``."""

from simplenet.cli import main

main(prog_name="simplenet")
