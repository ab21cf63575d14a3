"""What checks found: a table, property by property, that says what fails and on what."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """What became of a check."""

    HOLDS = "holds"
    FAILS = "FAILS"
    NOT_APPLICABLE = "not applicable"
    EXPECTED = "expected failure"
    KNOWN = "known torch defect"

    @property
    def passes(self) -> bool:
        """Whether a report may hold it and pass."""
        return self is not Status.FAILS


@dataclass(frozen=True)
class Result:
    """What became of one check.

    Attributes:
        check: Its name, a sentence that could be false.
        status: What became of it.
        detail: The smallest counter-example, or why it is not applicable; a line.
        seconds: How long it took.
        traceback: Where the code under test raised, if it did.
    """

    check: str
    status: Status
    detail: str = ""
    seconds: float = 0.0
    traceback: str = ""


@dataclass
class Report:
    """What the checks of one subject found.

    Attributes:
        subject: What was checked.
        results: A result for each check, in order.
        facts: What was found out beside: the variant, accuracies, warnings; a line each.
        measured: Numbers behind the facts, for ``as_dict``.
    """

    subject: str
    results: list[Result] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether nothing fails but what is expected to, or is torch's own defect."""
        return bool(self.results) and all(result.status.passes for result in self.results)

    @property
    def exit_status(self) -> int:
        """The exit status for a command: 0 if it passed, else 1."""
        return 0 if self.passed else 1

    @property
    def failures(self) -> dict[str, str]:
        """The counter-examples of the checks that fail, by name."""
        return {result.check: result.detail for result in self.results if result.status is Status.FAILS}

    def __getitem__(self, check: str) -> Result:
        """Return the result of a check.

        Raises:
            KeyError: If there was no such check.
        """
        for result in self.results:
            if result.check == check:
                return result
        raise KeyError(f"{check!r} is no check of {self.subject}: {', '.join(r.check for r in self.results)}")

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, as JSON can hold it."""
        results = [{**asdict(result), "status": str(result.status)} for result in self.results]
        own = {"subject": self.subject, "passed": self.passed, "facts": self.facts, "measured": self.measured}
        return {**own, "results": results}

    def to_json(self) -> str:
        """Return all of it as JSON; infinity and NaN are strings."""
        return json.dumps(_finite(self.as_dict()), indent=2, allow_nan=False) + "\n"

    def __str__(self) -> str:
        """Draw the table, the facts first and the count last."""
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
