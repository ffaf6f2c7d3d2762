"""`carbon-exporter advise`: asks the forecast service when a job is best started, and shows what that saves."""

import argparse
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

import orjson
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.text import Text

from carbon_exporter import settings
from carbon_exporter.answers import MOST_GRAMS, checked_json, utc_seconds
from carbon_exporter.forecast_api import ADVICE_PATH, INTENSITY_PATH, PASSWORD_VARIABLE
from carbon_exporter.grid.advice import NOTHING_AHEAD, Advice, check_job
from carbon_exporter.grid.web import BoundedWeb
from carbon_exporter.model import HOUR_SECONDS, LAST_SECONDS, ConfigurationError, Json, ProviderError, Web, WebAnswer
from carbon_exporter.secret import Secret, basic_credentials, concealing

HONESTY: Final = "Accounted emissions would be lower; the effect on the grid as a whole is not measured."
_AHEAD: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([mhd])")
_SECONDS_IN: Final = {"m": 60, "h": 3600, "d": 86_400}
_BARS: Final = " ▁▂▃▄▅▆▇█"
_ROW_HOURS: Final = 24
_REFUSED: Final = (400, 404)


class Service(settings.Settings):
    """Where the forecast service is; the password comes from the file, or from CARBON_INTENSITY_PASSWORD."""

    url: settings.PlainUrl
    username: str = ""
    password_file: Path | None = None


def run(arguments: argparse.Namespace, console: Console | None = None, clock: Callable[[], float] = time.time) -> int:
    """Ask and print. The exit status: 0, or 1 where the service gave no advice (one line on stderr).

    Raises:
        ConfigurationError: an argument is no use.
    """
    try:
        answer = ask(arguments, clock())
        if arguments.json:
            sys.stdout.write(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode() + "\n")
            return 0
        advice = read_advice(answer)
    except ProviderError as error:
        sys.stderr.write(f"carbon-exporter advise: {error}\n")
        return 1
    console = console or Console(soft_wrap=True)
    for line in picture(advice, answer):
        console.print(line, highlight=False)
    return 0


def ask(arguments: argparse.Namespace, now_seconds: float) -> Json:
    """The service's advice.

    Raises:
        ConfigurationError: an argument is no use, or the service says so.
        ProviderError: it cannot be asked, or does not know yet.
    """
    parameters = _parameters(arguments, now_seconds)
    given = {name: getattr(arguments, name) for name in Service.model_fields}
    service = settings.validated(Service, given, "")
    auth = _auth(service)
    web = BoundedWeb(arguments.ca_file, ca_key="--ca-file")
    zone = arguments.zone if arguments.zone is not None else _only_zone(web, service, auth, now_seconds)
    return _get(web, service.url + ADVICE_PATH, {"zone": zone, **parameters}, auth, now_seconds)


def _parameters(arguments: argparse.Namespace, now_seconds: float) -> dict[str, str]:
    """What is asked of the service besides the zone; numbers as exactly as they were given."""
    hours, kilowatts, pue = arguments.hours, arguments.kilowatts, arguments.pue
    try:
        check_job(hours, kilowatts, 1.0 if pue is None else pue)
    except ValueError as error:
        raise ConfigurationError(f"--{error}") from None
    parameters = {"hours": repr(hours), "kilowatts": repr(kilowatts)}
    if pue is not None:
        parameters["pue"] = repr(pue)
    if arguments.deadline is not None:
        parameters["deadline_seconds"] = f"{deadline_seconds(arguments.deadline, now_seconds):.0f}"
    return parameters


def _auth(service: Service) -> tuple[str, str] | None:
    """User name and password, if the service is to be given any."""
    if not service.username:
        if service.password_file:
            raise ConfigurationError("--password-file needs --username")
        return None
    password = Secret(service.password_file, PASSWORD_VARIABLE, os.environ, "--password-file")
    if not password:
        cure = f"give --password-file or set {PASSWORD_VARIABLE}"
        raise ConfigurationError(f"--username {service.username}: has no password: {cure}")
    return service.username, password.read(one_word=False)


def deadline_seconds(text: str, now_seconds: float) -> float:
    """Unix time of "36h", "90m" or "2d" from now, or of an ISO 8601 time (UTC where it names no zone).

    Raises:
        ConfigurationError: it is none of these.
    """
    match = _AHEAD.fullmatch(text.strip())
    if match:
        return now_seconds + float(match[1]) * _SECONDS_IN[match[2]]
    try:
        return utc_seconds(text.strip())
    except ValueError:
        raise ConfigurationError(f"--deadline {text[:50]!r}: give 36h, 90m, 2d or 2030-01-02T03:00:00Z") from None


def read_advice(answer: Json) -> Advice:
    """The advice in an answer.

    Raises:
        ProviderError: it is none.
    """
    known = {name.name: answer.get(name.name) for name in fields(Advice)}
    wrong = ""
    try:
        advice = TypeAdapter(Advice).validate_python(known)
    except ValidationError as error:
        wrong = ", ".join(str(problem["loc"][0]) for problem in error.errors()[:3])
    else:
        times = (advice.now_seconds, advice.start_seconds, advice.deadline_seconds, advice.first_hour_seconds)
        grams = advice.grams_per_kilowatt_hour
        if grams and all(0 <= t < LAST_SECONDS for t in times) and all(0 <= g <= MOST_GRAMS for g in grams):
            return advice
        wrong = "no hours, or times or grams out of range"
    raise ProviderError("parse", f"the answer is no advice ({wrong}): is --url the forecast service?")


def picture(advice: Advice, answer: Json) -> Iterator[Text]:
    """What is printed, line by line."""
    ahead = advice.start_seconds - advice.now_seconds
    yield Text(f"start now   {_time(advice.now_seconds)}   {_mass(advice.grams_now):>9} CO2eq")
    if ahead > 0:
        yield Text(
            f"best start  {_time(advice.start_seconds)}   {_mass(advice.grams_then):>9} CO2eq, in {_span(ahead)}"
        )
        yield Text(f"saving      {_mass(advice.saving_grams)}, {_saving(advice)}")
    yield _verdict(advice)
    yield Text()
    yield from _bars(advice)
    yield Text()
    zone, provider, basis, licence = (_plain(answer.get(name)) for name in ("zone", "provider", "basis", "licence"))
    yield Text(f"{zone or 'grid'}, {provider} ({basis}), forecast: {advice.forecaster}. {licence}", "dim")
    if ahead > 0:
        yield Text(HONESTY)


def _only_zone(web: Web, service: Service, auth: tuple[str, str] | None, now_seconds: float) -> str:
    listed = _get(web, service.url + INTENSITY_PATH, {}, auth, now_seconds).get("zones")
    entries = [zone for zone in listed if isinstance(zone, dict)] if isinstance(listed, list) else []
    zones = [_plain(zone.get("zone")) for zone in entries if zone.get("signal") == "average"]
    if len(zones) != 1:
        raise ConfigurationError(f"--zone: name one of those served: {', '.join(zones) or 'none'}")
    return zones[0]


def _get(web: Web, url: str, parameters: Json, auth: tuple[str, str] | None, now_seconds: float) -> Json:
    answer = web.get(url, parameters, auth=auth)
    with concealing(*((basic_credentials(*auth), auth[1]) if auth is not None else ())):
        return _document(answer, now_seconds)


def _document(answer: WebAnswer, now_seconds: float) -> Json:
    try:
        document = checked_json(answer, now_seconds)
    except ProviderError:
        said = _error(answer.body)
        if said and answer.status in _REFUSED:
            raise ConfigurationError(said) from None
        if said:
            raise ProviderError("server", f"{answer.url}: {said}") from None
        raise
    if not isinstance(document, dict):
        raise ProviderError("parse", f"{answer.url}: answered with no JSON object: is --url the forecast service?")
    return document


def _error(body: bytes) -> str:
    try:
        document = orjson.loads(body)
    except ValueError:
        return ""
    return _plain(document.get("error"))[:500] if isinstance(document, dict) else ""


def _verdict(advice: Advice) -> Text:
    if advice.forecaster == NOTHING_AHEAD:
        return Text("nothing is known of the hours ahead but one mean for all: no start can be called better", "yellow")
    if advice.start_seconds <= advice.now_seconds:
        return Text("start now: no later start before the deadline is expected to be better", "green")
    if advice.worthwhile:
        return Text("worth the wait: nine such choices in ten save something", "green")
    if advice.saving_ratio_low is None:
        return Text("too little is known of earlier forecasts to say how sure that is", "yellow")
    return Text("not sure: the wait may as well save nothing", "yellow")


def _saving(advice: Advice) -> str:
    low, high = advice.saving_ratio_low, advice.saving_ratio_high
    band = f" (90 %: {100 * low:.0f} to {100 * high:.0f} %)" if low is not None and high is not None else ""
    return f"{100 * advice.saving_ratio:.0f} %{band}"


def _bars(advice: Advice) -> Iterator[Text]:
    """A bar for each hour, a day in a row, from 0 to the highest; under it the hours of the best start are marked."""
    grams = advice.grams_per_kilowatt_hour
    highest = max(*grams, 1e-9)
    begin = (advice.start_seconds - advice.first_hour_seconds) / HOUR_SECONDS
    marked = range(math.floor(begin), math.ceil(begin + advice.hours))
    yield Text(f"g/kWh, one bar for an hour, 0 to {highest:.0f}; ^ the best {advice.hours:g} h", "dim")
    for row in range(0, len(grams), _ROW_HOURS):
        hours = range(row, min(row + _ROW_HOURS, len(grams)))
        line = Text(f"{_time(advice.first_hour_seconds + row * HOUR_SECONDS)}  ")
        for hour in hours:
            height = math.ceil(grams[hour] / highest * (len(_BARS) - 1))
            line.append(_BARS[height], "bold green" if hour in marked else "")
        yield line
        if any(hour in marked for hour in hours):
            indent = " " * (line.cell_len - len(hours))
            yield Text(indent + "".join("^" if hour in marked else " " for hour in hours).rstrip(), "bold green")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%a %d %b %H:%M UTC")


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


def _mass(grams: float) -> str:
    return (
        f"{grams / 1000:.3g} kg"
        if 1000 <= grams < 1e6
        else f"{grams / 1000:,.0f} kg"
        if grams >= 1e6
        else f"{grams:.3g} g"
    )


def _plain(value: object) -> str:
    """Text of the service without what would move the cursor."""
    return "".join(character for character in value if character.isprintable()) if isinstance(value, str) else ""
