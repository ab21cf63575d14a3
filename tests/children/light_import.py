"""Import SimpleNet, and print which slow packages that has imported: ``python -m tests.children.light_import``."""

import sys

import simplenet
import simplenet.cli
import simplenet.reference

if __name__ == "__main__":
    assert "SimpleNet" in dir(simplenet)
    found = sorted({name.split(".")[0] for name in sys.modules} & {"torch", "lightning", "matplotlib"})
    sys.stdout.write(f"{found}\n")
