"""Copy the records of a directory, if one is given, and write docs/drift.md and docs/drift.png."""

import sys
from pathlib import Path

from tests.environments.page import main

sys.exit(main(*map(Path, sys.argv[1:])))
