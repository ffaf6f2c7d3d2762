"""The JSON API of the jobs: each with its forecast, and how right forecasts have been.

docs/forecast.md, "API", and openapi.yaml beside this file describe the answers. Grams are CO2eq, energies joules, times
Unix seconds; null is not known.
"""

import math
import re
import threading
from collections.abc import Sequence
from importlib.resources import files
from typing import Final, NamedTuple, Protocol
from urllib.parse import quote

import orjson
import yaml
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from carbon_exporter import __version__
from carbon_exporter.forecast.energy import Forecast, Quantiles
from carbon_exporter.forecast.scores import Accuracy
from carbon_exporter.forecast.stopping import Expected
from carbon_exporter.forecast.view import JobView
from carbon_exporter.model import Json
from carbon_exporter.web.json_api import ApiError, checked, parameters, sent, tag_of, whole_number
from carbon_exporter.web.site import Page

JOBS_PATH: Final = "/api/v1/jobs"
ACCURACY_PATH: Final = "/api/v1/accuracy"
OPENAPI_PATH: Final = "/api/v1/openapi.json"
DEFAULT_LIMIT: Final = 200
MOST_JOBS: Final = 10_000
CURVE_STEPS: Final = 10
_FURTHEST_OFFSET: Final = 1_000_000
_MOST_LISTS_KEPT: Final = 8
_LONGEST_SEARCH: Final = 500


class Forecasts(Protocol):
    """What the API asks of the service."""

    def views(self) -> Sequence[JobView]:
        """Every job as the last poll left it; the very same object until the next poll."""

    def accuracy(self) -> Sequence[Accuracy]:
        """By basis and epochs observed."""


class _Row(NamedTuple):
    """A job, its finished JSON, and the text that it is found by."""

    view: JobView
    json: orjson.Fragment
    text: str


def _row(view: JobView) -> _Row:
    # As text: orjson's bytes hold on to the several KiB that they were written in.
    rendered = orjson.dumps(summary(view)).decode()
    return _Row(view, orjson.Fragment(rendered), f"{view.training_job}\n{view.group}".casefold())


class _List:
    """What one poll left, rendered once."""

    def __init__(self, views: Sequence[JobView]) -> None:
        self.views = views
        self.rows = [_row(view) for view in sorted(views, key=_most_grams_first)]
        self.by_name = {view.training_job: view for view in views}
        self._answers: dict[tuple[int, int, str], tuple[Page, str]] = {}

    def answer(self, limit: int, offset: int, search: str) -> tuple[Page, str]:
        """A body and its tag; what is asked for again is not made again."""
        key = (limit, offset, search)
        answer = self._answers.get(key)
        if answer is None:
            matching = [row.json for row in self.rows if search in row.text]
            body = orjson.dumps(
                {
                    "total": len(self.rows),
                    "matching": len(matching),
                    "offset": offset,
                    "limit": limit,
                    "jobs": matching[offset : offset + limit],
                }
            )
            answer = Page(body), tag_of(body)
            if len(self._answers) < _MOST_LISTS_KEPT:
                self._answers[key] = answer
        return answer


class Api:
    """Answers from memory; what a poll left is rendered for the first who asks."""

    def __init__(self, forecasts: Forecasts) -> None:
        self._forecasts = forecasts
        self._list = _List(())
        self._lock = threading.Lock()
        body = orjson.dumps(openapi())
        self._openapi = Page(body), tag_of(body)

    def jobs(self, request: Request) -> Response:
        """`GET /api/v1/jobs?limit=200&offset=0&search=text`."""
        asked = parameters(request, "limit", "offset", "search")
        limit = whole_number(asked, "limit", DEFAULT_LIMIT, 1, MOST_JOBS)
        offset = whole_number(asked, "offset", 0, 0, _FURTHEST_OFFSET)
        search = asked.get("search", "")
        if len(search) > _LONGEST_SEARCH:
            raise ApiError(400, f"search is {len(search)} characters long: give at most {_LONGEST_SEARCH}")
        return sent(request, *self._rendered().answer(limit, offset, search.casefold()))

    def job(self, request: Request) -> Response:
        """`GET /api/v1/jobs/{name}/forecast`."""
        parameters(request)
        name: str = request.path_params["name"]
        view = self._rendered().by_name.get(name)
        if view is None:
            raise ApiError(404, f"no training job {name[:50]!r} is known; {JOBS_PATH} lists those that are")
        return _sent(request, details(view))

    def accuracy(self, request: Request) -> Response:
        """`GET /api/v1/accuracy`."""
        parameters(request)
        return _sent(request, {"accuracy": [row._asdict() for row in self._forecasts.accuracy()]})

    def openapi(self, request: Request) -> Response:
        """`GET /api/v1/openapi.json`."""
        parameters(request)
        return sent(request, *self._openapi)

    def _rendered(self) -> _List:
        with self._lock:
            views = self._forecasts.views()
            if views is not self._list.views:
                self._list = _List(views)
            return self._list


def routes(forecasts: Forecasts) -> list[Route]:
    """The routes of the API, for web.site.Site."""
    api = Api(forecasts)
    job = Route(f"{JOBS_PATH}/{{name:path}}/forecast", checked(api.job))
    # Starlette's own expression stops at a line's end, which a name may hold.
    job.path_regex = re.compile(rf"^{JOBS_PATH}/(?P<name>.+)/forecast\Z", re.DOTALL)
    return [
        Route(JOBS_PATH, checked(api.jobs)),
        job,
        Route(ACCURACY_PATH, checked(api.accuracy)),
        Route(OPENAPI_PATH, checked(api.openapi)),
    ]


def openapi() -> Json:
    """The description of every API of this process (OpenAPI 3.1)."""
    text = (files(__package__) / "openapi.yaml").read_text(encoding="utf-8")
    described: Json = yaml.safe_load(text)
    described["info"]["version"] = __version__
    return described


def summary(view: JobView) -> Json:
    """A job as the list has it."""
    forecast = view.forecast
    return {
        "name": view.training_job,
        "url": f"{JOBS_PATH}/{quote(view.training_job, safe='')}/forecast",
        "group": view.group,
        "outcome": view.outcome,
        "epochs_completed": view.epochs_completed,
        "epochs_planned": view.epochs_planned,
        "started_seconds": view.started_seconds,
        "ended_seconds": view.ended_seconds,
        "joules": view.joules,
        "grams": view.grams,
        "emissions_basis": view.emissions_basis,
        "budget_grams": view.budget_grams,
        "forecast": None if forecast is None else _planned(forecast, view.forecast_grams),
        "expected": None if forecast is None else _expected(forecast, view),
        "basis": None if forecast is None else forecast.basis,
        "epochs_observed": None if forecast is None else forecast.epochs_observed,
        "calibration_runs": None if forecast is None else forecast.calibration_runs,
        "made_seconds": view.made_seconds,
        "warnings": view.warnings,
    }


def details(view: JobView) -> Json:
    """All that is known of a job."""
    forecast = view.forecast
    return {
        **summary(view),
        "epoch_joules": None if forecast is None else forecast.epoch_joules,
        "epoch_seconds": None if forecast is None else forecast.epoch_seconds,
        "correction_ratio": None if forecast is None else math.exp(forecast.correction),
        "epochs": [tuple(boundary) for boundary in view.epochs],
        "curve": curve(view),
    }


def curve(view: JobView) -> list[tuple[float, ...]]:
    """(epochs, seconds, low, median and high joules) from the last known boundary to the planned end.

    The energy model is a straight line from that boundary, so its band is one to each end of the interval.
    """
    if view.forecast is None or view.ended_seconds is not None or not view.epochs or view.epochs_planned is None:
        return []
    last = view.epochs[-1]
    ends = (view.epochs_planned, view.forecast.end_timestamp_seconds.median, *view.forecast.joules)
    begins = (*last, last[2], last[2])
    if ends[0] <= begins[0]:
        return []
    shares = [step / CURVE_STEPS for step in range(CURVE_STEPS + 1)]
    return [tuple(a + share * (b - a) for a, b in zip(begins, ends, strict=True)) for share in shares]


def _planned(forecast: Forecast, grams: Quantiles | None) -> Json | None:
    return _end(forecast.joules, grams, forecast.end_timestamp_seconds)


def _expected(forecast: Forecast, view: JobView) -> Json | None:
    return _end(view.expected_joules, view.expected_grams, forecast.expected_end_timestamp_seconds)


def _end(joules: Quantiles | None, grams: Quantiles | None, seconds: Quantiles | Expected | None) -> Json | None:
    told = _quantiles(joules)
    return told and {"joules": told, "grams": _quantiles(grams), "end_seconds": _quantiles(seconds)}


def _quantiles(values: Quantiles | Expected | None) -> Json | None:
    """None for what is no number, too: JSON has none for it."""
    if values is None or not all(map(math.isfinite, values)):
        return None
    return {"low": values.low, "median": values.median, "high": values.high}


def _most_grams_first(view: JobView) -> tuple[float, float, str]:
    grams, forecast = view.forecast_grams, view.forecast
    return (
        1.0 if grams is None else -grams.median,
        1.0 if forecast is None else -forecast.joules.median,
        view.training_job,
    )


def _sent(request: Request, told: Json) -> Response:
    body = orjson.dumps(told)
    return sent(request, Page(body), tag_of(body))
