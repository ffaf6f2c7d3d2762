"""Runs what can fail, and keeps its record: success, duration, failures; each failure is loud once."""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

_log = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(slots=True)
class Record:
    """How the last run of one collector went, and all its failed runs."""

    success: bool = False
    duration_seconds: float = 0.0
    last_success_seconds: float | None = None
    failures: int = 0


class Collectors:
    """The records of all collectors of one process, by name."""

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self.records: dict[str, Record] = {}
        self._loud: dict[str, frozenset[str]] = {}

    def run(
        self, name: str, action: Callable[[], Result], failures_of: Callable[[Result], Iterable[str]]
    ) -> Result | None:
        """The result of `action`, or None if it raised; each failure is logged once while it lasts."""
        started = time.perf_counter()
        try:
            result: Result | None = action()
        except Exception as error:  # noqa: BLE001 - one collector's bug must not stop the others
            result = None
            failures = frozenset({f"{type(error).__name__}: {error}"})
        else:
            failures = frozenset(failures_of(result)) if result is not None else frozenset()
        record = self.records.setdefault(name, Record())
        record.duration_seconds = time.perf_counter() - started
        record.success = not failures
        if failures:
            record.failures += 1
        else:
            record.last_success_seconds = self._wall_clock()
        self._speak(name, failures)
        return result

    def _speak(self, name: str, failures: frozenset[str]) -> None:
        """Log what fails newly. A failure is known by what stands before its first ": ": the rest may hold numbers."""
        before = self._loud.get(name, frozenset())
        subjects = {failure.partition(": ")[0]: failure for failure in sorted(failures)}
        for subject, failure in subjects.items():
            if subject not in before:
                _log.error("%s: %s", name, failure)
        if before and not failures:
            _log.info("%s: works again", name)
        self._loud[name] = frozenset(subjects)

    def forget(self, name: str) -> None:
        """Drop the record of a collector whose hardware is not there."""
        self.records.pop(name, None)
