"""The last answers on disk: a restart asks no provider before it is due, and loses no history."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import TypeAdapter, ValidationError

from carbon_exporter.answers import MOST_GRAMS
from carbon_exporter.grid.outlook import Issued
from carbon_exporter.model import GridReading, Span

SCHEMA: Final = 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a provider forecast, and when (Unix time)."""

    made_seconds: float
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Cached:
    """All that is kept of one provider for one zone; see grid/feed.py."""

    reading: GridReading | None = None
    fetched_seconds: float | None = None
    forecast: Forecast | None = None
    history: Mapping[int, float] = field(default_factory=dict)
    issued: tuple[Issued, ...] = ()


class AnswerCache:
    """One file for each zone, signal and provider in `folder`; None keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._said: set[str] = set()

    def load(self, key: str, basis: str) -> Cached:
        """What `save` wrote under `key`; nothing where there is no such file or, which is said, no usable one."""
        if self._folder is None:
            return Cached()
        path = self._folder / f"{key}.json"
        try:
            document = orjson.loads(path.read_bytes())
            if document["schema"] != SCHEMA or document["basis"] != basis:
                return Cached()  # its numbers count something else
            return _believed(document["key"] == key, _CACHED.validate_python(document["body"]))
        except FileNotFoundError:
            return Cached()
        except OSError as error:
            self._say(f"{path}: {error.strerror}; starting without it")
        except (ValidationError, ValueError, KeyError, TypeError):
            self._say(f"{path}: holds no answers of a provider; starting without it")
        return Cached()

    def save(self, key: str, basis: str, cached: Cached) -> None:
        """Replace the file of `key` in one step; a folder that cannot be written is said once."""
        if self._folder is None:
            return
        body = {**_fields(cached), "history": {str(hour): grams for hour, grams in cached.history.items()}}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            partial = self._folder / f"{key}.partial"
            partial.write_bytes(orjson.dumps({"schema": SCHEMA, "key": key, "basis": basis, "body": body}))
            partial.replace(self._folder / f"{key}.json")
        except OSError as error:
            cure = "make intensity.cache_dir a folder that can be written, or null"
            self._say(f"{self._folder}: {error.strerror}: a restart will ask the providers anew; {cure}")

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            _log.warning("%s", line)


_CACHED: Final = TypeAdapter(Cached)


def _believed(own: bool, cached: Cached) -> Cached:  # noqa: FBT001
    """`cached`, if it is that of the zone and could have come from a provider.

    Raises:
        ValueError: it could not.
    """
    if not own:
        raise ValueError("it was written for another zone")
    told = [cached.reading.spans] if cached.reading is not None else []
    told += [cached.forecast.spans] if cached.forecast is not None else []
    for spans in told:
        if not spans or any(before.end_seconds > after.start_seconds for before, after in pairwise(spans)):
            raise ValueError("spans that are not in order of time")
        if any(span.end_seconds <= span.start_seconds for span in spans):
            raise ValueError("a span without length")
    numbers = [span.grams_per_kilowatt_hour for spans in told for span in spans]
    numbers += [*cached.history.values(), *(grams for issued in cached.issued for grams in issued.grams)]
    if not all(0 <= grams <= MOST_GRAMS for grams in numbers):
        raise ValueError("grams out of range")
    return cached


def _fields(cached: Cached) -> dict[str, Any]:
    return {name: getattr(cached, name) for name in Cached.__slots__}
