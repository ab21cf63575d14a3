"""The report of checks: a table with a row for each property, and a counter-example for each failure."""

import json
from collections.abc import Mapping
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
        return json.dumps(_finite(self.as_dict()), indent=2, allow_nan=False) + "\n"

    def __str__(self) -> str:
        """Format the table: the facts first, the counts last."""
        lines = [self.subject, ""]
        width = max(map(len, self.facts), default=0)
        lines += [f"{name:<{width}}  {value}" for name, value in self.facts.items()]
        lines += [""] if self.facts else []
        first, second = (max((len(str(v)) for v in values), default=0) for values in (
            [result.check for result in self.results], [result.status for result in self.results]))  # fmt: skip
        for result in self.results:
            row = f"{result.check:<{first}}  {result.status:<{second}}  {result.detail}"
            lines.append(row.rstrip())
        counts = {status: sum(result.status is status for result in self.results) for status in Status}
        lines += ["", ", ".join(f"{count} {status.lower()}" for status, count in counts.items() if count)]
        return "\n".join(lines)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value
