"""Run the reproduction of a defect: ``python -m tests.children.reproduction ID``.

The names of the classes of the error that it raises, if it does, are printed as a list in JSON.
"""

import json
import sys

from tests import ledger


def main(id_: str) -> None:
    """Run it as a program of its own."""
    raised: list[str] = []
    try:
        exec(ledger.defects()[id_]["reproduction"], {"__name__": "__main__"})
    except Exception as error:  # noqa: BLE001
        raised = [base.__name__ for base in type(error).__mro__]
    sys.stdout.write(json.dumps(raised))


if __name__ == "__main__":
    main(*sys.argv[1:])
