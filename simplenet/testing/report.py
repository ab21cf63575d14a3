"""The report of checks: a table with a row for each property, and a counter-example for each failure."""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """The outcome of a check."""

    HOLDS = "holds"
    FAILS = "FAILS"
    NOT_APPLICABLE = "not applicable"
    EXPECTED = "expected failure"
    KNOWN = "known torch defect"

    @property
    def passes(self) -> bool:
        """Whether a report with this outcome can pass."""
        return self is not Status.FAILS


@dataclass(frozen=True)
class Result:
    """The result of one check.

    Attributes:
        check: The check's name, a sentence that could be false.
        status: The outcome.
        detail: The first counter-example, or why the check is not applicable; one line.
        seconds: The duration.
        traceback: The traceback of an exception in the code under test.
    """

    check: str
    status: Status
    detail: str = ""
    seconds: float = 0.0
    traceback: str = ""


@dataclass
class Report:
    """The results of the checks of one subject.

    Attributes:
        subject: The name of the optimizer or network.
        results: A result for each check, in order.
        facts: Further findings, one line each: the variant, the accuracy, warnings.
        measured: The facts as data, for ``as_dict``.
    """

    subject: str
    results: list[Result] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether nothing fails, except for expected failures and known defects of torch."""
        return bool(self.results) and all(result.status.passes for result in self.results)

    @property
    def exit_status(self) -> int:
        """The exit status of a command: 0 if the report passed, else 1."""
        return 0 if self.passed else 1

    @property
    def failures(self) -> dict[str, str]:
        """The counter-examples of the checks that fail, by name."""
        return {result.check: result.detail for result in self.results if result.status is Status.FAILS}

    def __getitem__(self, check: str) -> Result:
        """Return the result of a check.

        Raises:
            KeyError: If there is no such check.
        """
        for result in self.results:
            if result.check == check:
                return result
        names = ", ".join(result.check for result in self.results)
        raise KeyError(f"check is {check!r}, but should be one of those of {self.subject}: {names}")

    def as_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON can represent."""
        results = [{**asdict(result), "status": str(result.status)} for result in self.results]
        own = {"subject": self.subject, "passed": self.passed, "facts": self.facts, "measured": self.measured}
        return {**own, "results": results}

    def to_json(self) -> str:
        """Return the report as JSON; infinity and NaN are strings."""
        return json.dumps(_finite(self.as_dict()), indent=2) + "\n"

    def __str__(self) -> str:
        """Format the table: the facts first, the counts last."""
        facts = _table(self.facts.items())
        results = _table([(result.check, result.status, result.detail) for result in self.results])
        counts = Counter(result.status for result in self.results)
        summary = ", ".join(f"{counts[status]} {status.lower()}" for status in Status if status in counts)
        return "\n\n".join(part for part in (self.subject, facts, results, summary) if part)


def _table(rows: Collection[Sequence[str]]) -> str:
    """Align the columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value
