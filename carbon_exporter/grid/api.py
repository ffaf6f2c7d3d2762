"""The JSON API of the intensity: what nodes ask instead of the providers, and when a job is best started.

docs/forecast.md, "API", shows both answers. Grams are per kilowatt-hour, times are Unix seconds.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlencode

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from carbon_exporter.forecast_api import ADVICE_PATH, INTENSITY_PATH
from carbon_exporter.grid.advice import advise
from carbon_exporter.grid.grid import Grid
from carbon_exporter.grid.hours import HORIZONS_HOURS
from carbon_exporter.grid.outlook import Outlook
from carbon_exporter.grid.zone import Zone
from carbon_exporter.model import HOUR_SECONDS, LAST_SECONDS, Json, Span
from carbon_exporter.timeline import Timeline
from carbon_exporter.web.json_api import ApiError, checked, number, parameters, sent, tag_of
from carbon_exporter.web.site import Page

PAST_SECONDS: Final = 6 * 3600.0
SIGNALS: Final = ("average", "marginal")


@dataclass(frozen=True)
class _Answer:
    """A finished body, and what it was made from."""

    timeline: Timeline
    outlook: Outlook | None
    page: Page
    tag: str


class Api:
    """Answers for the zones of one grid.

    No answer is a coroutine: a new outlook takes a tenth of a second, in which a scrape must not wait.

    Args:
        grid: whose zones are served.
        pue: power usage effectiveness, which a job's grams are multiplied by where the question names no other.
        clock: Unix seconds.
    """

    def __init__(self, grid: Grid, pue: float, clock: Callable[[], float]) -> None:
        self._zones: Mapping[tuple[str, str], Zone] = grid.zones
        self._pue = pue
        self._clock = clock
        self._answers: dict[tuple[str, str], _Answer] = {}
        self._locks = {key: threading.Lock() for key in self._zones}

    def intensity(self, request: Request) -> Response:
        """`GET /api/v1/intensity?zone=DE&signal=average`; without `zone` the list of those served."""
        asked = parameters(request, "zone", "signal")
        if "zone" not in asked:
            return sent(request, Page(orjson.dumps({"zones": self._list()})))
        answer = self._answer(self._zone(asked))
        return sent(request, answer.page, answer.tag)

    def advice(self, request: Request) -> Response:
        """`GET /api/v1/advice?zone=DE&hours=8&kilowatts=3`, with `deadline_seconds` if the job must end by then.

        `pue` is that of its zone, where it is not the service's.
        """
        asked = parameters(request, "zone", "signal", "hours", "kilowatts", "deadline_seconds", "pue")
        zone = self._zone(asked)
        hours, kilowatts = number(asked, "hours"), number(asked, "kilowatts")
        deadline = number(asked, "deadline_seconds") if "deadline_seconds" in asked else None
        pue = number(asked, "pue") if "pue" in asked else self._pue
        now = self._clock()
        outlook, timeline = zone.outlook(now), zone.timeline(now)
        if timeline is None or outlook is None:
            raise _nothing_known(zone)
        try:
            advice = advise(outlook, hours, kilowatts, deadline, now, pue)
        except ValueError as error:
            raise ApiError(400, str(error)) from None
        return sent(request, Page(orjson.dumps({**advice.to_json(), **_source(zone, timeline, now)})))

    def _zone(self, asked: Mapping[str, str]) -> Zone:
        name, signal = asked.get("zone"), asked.get("signal", "average")
        if name is None:
            raise ApiError(400, f"zone is missing: name one, {INTENSITY_PATH} lists those served")
        if signal not in SIGNALS:
            raise ApiError(400, f"signal is {signal[:50]!r}: it is average or marginal")
        zone = self._zones.get((name, signal))
        if zone is None:
            served = ", ".join(sorted({other for other, of in self._zones if of == signal})) or "none"
            what = "zone" if signal == "average" else f"the {signal} intensity of zone"
            keys = "intensity.zones" if signal == "average" else "intensity.zones and intensity.marginal"
            message = (
                f"{what} {name[:50]!r} is not served here; served: {served}; add it to {keys} of the forecast service"
            )
            raise ApiError(404, message)
        return zone

    def _list(self) -> list[Json]:
        return [
            {"zone": name, "signal": signal, "url": f"{INTENSITY_PATH}?{urlencode({'zone': name, 'signal': signal})}"}
            for name, signal in sorted(self._zones)
        ]

    def _answer(self, zone: Zone) -> _Answer:
        """What is told of a zone; made anew, and once for all who ask meanwhile, only when something has changed."""
        key = (zone.name, zone.signal)
        with self._locks[key]:
            now = self._clock()
            # In this order: where the outlook is new, the timeline continues with it.
            outlook, timeline = zone.outlook(now), zone.timeline(now)
            if timeline is None:
                raise _nothing_known(zone)
            answer = self._answers.get(key)
            if answer is None or answer.timeline is not timeline or answer.outlook is not outlook:
                body = orjson.dumps(_told(zone, timeline, outlook, now))
                answer = self._answers[key] = _Answer(timeline, outlook, Page(body), tag_of(body))
            return answer


def routes(grid: Grid, pue: float, clock: Callable[[], float]) -> list[Route]:
    """The routes of the API, for web.site.Site; arguments as of Api."""
    api = Api(grid, pue, clock)
    return [Route(INTENSITY_PATH, checked(api.intensity)), Route(ADVICE_PATH, checked(api.advice))]


def _told(zone: Zone, timeline: Timeline, outlook: Outlook | None, now_seconds: float) -> Json:
    intensity = timeline.intensity
    return {
        **_source(zone, timeline, now_seconds),
        "fallback_level": intensity.fallback_level,
        "estimated": intensity.estimated,
        "grams_per_kilowatt_hour": intensity.grams_per_kilowatt_hour,
        "data_timestamp_seconds": intensity.data_timestamp_seconds,
        "told_until_seconds": min(timeline.told_until_seconds, LAST_SECONDS),
        "spans": [
            [span.start_seconds, span.end_seconds, span.grams_per_kilowatt_hour, int(span.estimated)]
            for span in _spans(timeline, outlook, now_seconds)
        ],
        "outlook": None if outlook is None else _curve(outlook, now_seconds),
    }


def _source(zone: Zone, timeline: Timeline, now_seconds: float) -> Json:
    return {
        "zone": zone.name,
        "signal": zone.signal,
        "provider": timeline.intensity.provider,
        "basis": timeline.intensity.basis,
        "licence": zone.licence(now_seconds),
    }


def _spans(timeline: Timeline, outlook: Outlook | None, now_seconds: float) -> list[Span]:
    """Those of the last hours and all that are told of the time to come, then the outlook's hours."""
    spans = [
        replace(span, end_seconds=min(span.end_seconds, LAST_SECONDS))
        for span in timeline.spans
        if span.end_seconds > now_seconds - PAST_SECONDS
    ]
    if outlook is None:
        return spans
    reached = spans[-1].end_seconds if spans else now_seconds - PAST_SECONDS
    for hour, grams in enumerate(outlook.grams, outlook.first_hour):
        start, end = max(reached, float(hour * HOUR_SECONDS)), float((hour + 1) * HOUR_SECONDS)
        if end > start:
            spans.append(Span(start, end, grams, estimated=True))
    return spans


def _curve(outlook: Outlook, now_seconds: float) -> Json:
    means: list[Json] = []
    for hours in HORIZONS_HOURS:
        end = now_seconds + hours * HOUR_SECONDS
        low, high = outlook.mean_band(now_seconds, end) or (None, None)
        grams = outlook.mean(now_seconds, end)
        means.append({"horizon_hours": hours, "grams": _short(grams), "low": _short(low), "high": _short(high)})
    return {
        "forecaster": outlook.forecaster,
        "first_hour_seconds": outlook.first_hour * HOUR_SECONDS,
        **{name: [_short(grams) for grams in getattr(outlook, name)] for name in ("grams", "low", "high")},
        "means": means,
    }


def _short(grams: float | None) -> float | None:
    return None if grams is None else round(grams, 2)


def _nothing_known(zone: Zone) -> ApiError:
    return ApiError(503, f"nothing is known of zone {zone.name!r} yet: its provider is being asked; ask again")
