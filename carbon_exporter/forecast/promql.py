"""A client of the Prometheus HTTP API, which Thanos, Mimir and VictoriaMetrics speak too.

https://prometheus.io/docs/prometheus/latest/querying/api/
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import orjson
import requests

from carbon_exporter.model import ConfigurationError

Reason = Literal["unreachable", "timeout", "rejected", "partial", "malformed", "not_finite"]
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)
_CHUNK_BYTES: Final = 65_536


class PromQLError(Exception):
    """A query without a usable answer; the message is one line with the URL, the cause and the cure."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class AnswerTooLongError(PromQLError):
    """More than largest_answer_bytes."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One series of an instant query."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Series:
    """One series of a range query; points are (Unix seconds, value)."""

    labels: Mapping[str, str]
    points: list[tuple[float, float]]


class Client:
    """Asks one PromQL engine.

    Args:
        url: of the engine, without /api/v1 and without secrets.
        session: carries headers, identity and certificates.
        timeout_seconds: for a whole answer.
        largest_answer_bytes: a longer answer is given up.
        clock: monotonic seconds.

    Attributes:
        errors: how many queries failed, by reason; "not_finite" counts answers that held NaN or infinity.
        asked: how many queries were sent.
    """

    def __init__(
        self,
        url: str,
        session: requests.Session,
        *,
        timeout_seconds: float = 10,
        largest_answer_bytes: int = 64 * 2**20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self.errors: dict[Reason, int] = dict.fromkeys(REASONS, 0)
        self.asked = 0
        self._session = session
        self._timeout_seconds = timeout_seconds
        self.largest_answer_bytes = largest_answer_bytes
        self._clock = clock

    def query(self, expression: str, at_seconds: float, *, finite: bool = True) -> list[Sample]:
        """The instant vector `expression` at a Unix time; values that are not finite are left out if `finite`.

        Raises:
            PromQLError: there is no answer, or not a whole and sound one.
        """
        rows = self._ask("query", {"query": expression, "time": f"{at_seconds:.3f}"}, "vector")
        taken = _taken(self._checked(rows, "value"))
        samples = [Sample(self._labels(row), self._number(row["value"])) for row in taken]
        kept = [one for one in samples if math.isfinite(one.value)]
        self.errors["not_finite"] += len(kept) < len(samples)
        return kept if finite else samples

    def query_range(
        self, expression: str, start_seconds: float, end_seconds: float, step_seconds: float
    ) -> list[Series]:
        """The series of `expression` at every step; values that are not finite are left out.

        Raises:
            PromQLError: as for `query`.
        """
        times = {"start": f"{start_seconds:.3f}", "end": f"{end_seconds:.3f}", "step": f"{step_seconds:.3f}"}
        rows = self._ask("query_range", {"query": expression, **times}, "matrix")
        series = [Series(self._labels(row), self._points(row["values"])) for row in self._checked(rows, "values")]
        kept = [Series(one.labels, [point for point in one.points if math.isfinite(point[1])]) for one in series]
        self.errors["not_finite"] += sum(len(one.points) for one in kept) < sum(len(one.points) for one in series)
        return [one for one in kept if one.points]

    def _ask(self, endpoint: str, parameters: dict[str, str], kind: str) -> Any:
        url = f"{self.url}/api/v1/{endpoint}"
        self.asked += 1
        try:
            status, body = self._get(url, parameters)
        except ConfigurationError as error:
            raise self._error("rejected", str(error)) from None
        except requests.Timeout:
            cure = "raise timeout_seconds or lighten the engine"
            raise self._error("timeout", f"{url}: no answer in {self._timeout_seconds:g} s: {cure}") from None
        except OSError as error:
            cure = "is the engine running, and is prometheus_url right?"
            raise self._error("unreachable", f"{url}: {type(error).__name__}: {cure}") from None
        try:
            answer = orjson.loads(body)
        except ValueError:
            answer = None
        del body
        if status != 200 or (isinstance(answer, dict) and answer.get("status") == "error"):
            said = answer.get("error", "") if isinstance(answer, dict) else ""
            cure = "check prometheus_url, identity and the engine's limits"
            raise self._error("rejected", f"{url}: status {status}, {str(said)[:200]!r}: {cure}")
        if not isinstance(answer, dict) or answer.get("status") != "success":
            raise self._malformed()
        # Notes that start with "PromQL info" are advice on the expression; anything else says that data is missing.
        warnings = [text for text in _texts(answer.get("warnings")) if not text.startswith("PromQL info")]
        if warnings or answer.get("isPartial"):
            said = warnings[0][:200] if warnings else "isPartial"
            raise self._error("partial", f"{url}: the answer is partial ({said!r}): see to the engine's stores")
        data = answer.get("data")
        if not isinstance(data, dict) or data.get("resultType") != kind:
            raise self._malformed()
        return data.get("result")

    def _get(self, url: str, parameters: dict[str, str]) -> tuple[int, bytearray]:
        deadline = self._clock() + self._timeout_seconds
        body = bytearray()
        with self._session.get(
            url, params=parameters, timeout=self._timeout_seconds, stream=True, allow_redirects=False
        ) as response:
            for chunk in response.iter_content(_CHUNK_BYTES):
                body += chunk
                if len(body) > self.largest_answer_bytes:
                    limit = f"more than largest_answer_bytes = {self.largest_answer_bytes}"
                    self.errors["malformed"] += 1
                    cure = "raise it, or find out which job has that many series"
                    raise AnswerTooLongError("malformed", f"{url}: {limit}: {cure}")
                if self._clock() > deadline:
                    raise requests.Timeout
            return response.status_code, body

    def _checked(self, rows: Any, values: str) -> list[dict[str, Any]]:
        if not isinstance(rows, list):
            raise self._malformed()
        for row in rows:
            if not isinstance(row, dict) or not isinstance(row.get("metric"), dict) or not row.get(values):
                raise self._malformed()
        return rows

    def _labels(self, row: dict[str, Any]) -> dict[str, str]:
        labels: dict[str, str] = row["metric"]
        for value in labels.values():
            if not isinstance(value, str):
                raise self._malformed()
        return labels

    def _number(self, pair: Any) -> float:
        try:
            _, value = pair
            return float(value)
        except (TypeError, ValueError):
            raise self._malformed() from None

    def _points(self, pairs: Any) -> list[tuple[float, float]]:
        try:
            return [(float(seconds), float(value)) for seconds, value in pairs]
        except (TypeError, ValueError):
            raise self._malformed() from None

    def _malformed(self) -> PromQLError:
        return self._error("malformed", f"{self.url}: does not answer as the Prometheus HTTP API: check prometheus_url")

    def _error(self, reason: Reason, message: str) -> PromQLError:
        self.errors[reason] += 1
        return PromQLError(reason, message)


def _taken(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows in order; each is let go when the next one is asked for, as there may be tens of megabytes of them."""
    rows.reverse()
    while rows:
        yield rows.pop()


def _texts(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]
