"""WattTime: marginal intensity, and what it will be in the next three days.

API v3, https://docs.watttime.org. A login gives a token for half an hour; it is kept for 25 minutes.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, field_validator

from carbon_exporter import settings
from carbon_exporter.answers import (
    checked_json,
    grams,
    in_order,
    json_list,
    json_object,
    refusal,
    utc_minute,
    utc_seconds,
    well_formed,
)
from carbon_exporter.model import ConfigurationError, GridReading, ProviderError, Span, Traits, Web, WebAnswer
from carbon_exporter.secret import Secret, basic_credentials, concealing

VARIABLE: Final = "CARBON_WATTTIME_PASSWORD"
REGIONS: Final[Mapping[str, str]] = {"US-CAL-CISO": "CAISO_NORTH"}
UNITS: Final = "lbs_co2_per_mwh"
GRAMS_PER_KILOWATT_HOUR: Final = 0.45359237
"""In one pound per megawatt-hour."""
TOKEN_SECONDS: Final = 1500.0
LONGEST_SECONDS: Final = 30 * 86_400.0
"""Asked for at once."""
HORIZON_HOURS: Final = 72
STEP_SECONDS: Final = 300
LONGEST_STEP_SECONDS: Final = 3600


class Settings(settings.Settings):
    """Settings of the provider `watttime`. The password comes from the file named, or CARBON_WATTTIME_PASSWORD.

    signal_type: co2_moer is the marginal intensity, co2_aoer the average.
    regions: zone -> region as WattTime names it, besides US-CAL-CISO.
    """

    url: settings.PlainUrl = "https://api.watttime.org"
    username: str = ""
    password_file: Path | None = None
    signal_type: Literal["co2_moer", "co2_aoer"] = "co2_moer"
    regions: Mapping[str, str] = Field(default_factory=dict)

    @field_validator("username")
    @classmethod
    def _has_no_colon(cls, username: str) -> str:
        if ":" in username:
            raise ValueError("must be without a colon")
        return username


def open_provider(chosen: Settings, grid_zone: str, environment: Mapping[str, str]) -> "WattTimeProvider":
    """The provider for `grid_zone`, one of those in `regions`.

    Raises:
        ConfigurationError: the zone is in no region, or there is no user or no password that can be read.
    """
    regions = {**REGIONS, **chosen.regions}
    if grid_zone not in regions:
        raise ConfigurationError(
            f"intensity.grid_zone: watttime does not know {grid_zone!r}; it knows {', '.join(sorted(regions))}, "
            "and what you add under intensity.watttime.regions"
        )
    password = Secret(chosen.password_file, VARIABLE, environment, "intensity.watttime.password_file")
    if not chosen.username or not password:
        raise ConfigurationError(
            "intensity.watttime: has no login: set intensity.watttime.username, and intensity.watttime.password_file "
            f"or the environment variable {VARIABLE}"
        )
    password.read(one_word=False)
    return WattTimeProvider(chosen, regions[grid_zone], password)


class WattTimeProvider:
    """Implements model.GridProvider for one region; logs in when it must."""

    def __init__(self, chosen: Settings, region: str, password: Secret) -> None:
        self._url = chosen.url
        self._username = chosen.username
        self._password = password
        self._region = region
        self._signal_type = chosen.signal_type
        self._token = ""
        self._login_seconds = 0.0
        self.traits = Traits(
            provider="watttime",
            basis="direct",
            zones="US-CAL-CISO, and those that intensity.watttime.regions names",
            licence="WattTime, under the terms of your plan",
            signal="marginal" if chosen.signal_type == "co2_moer" else "average",
            resolution_seconds=300.0,
            refresh_seconds=300.0,
            lag_seconds=900.0,
            fresh_seconds=900.0,
            keeps_estimates=True,
            horizon_seconds=HORIZON_HOURS * 3600.0,
        )

    def observe(self, web: Web, since_seconds: float, now_seconds: float) -> GridReading:
        """Five minutes each since then, at most 30 days back."""
        begin = max(since_seconds, now_seconds - LONGEST_SECONDS)
        parameters = {"start": utc_minute(begin), "end": utc_minute(now_seconds)}
        return self._reading(web, "historical", parameters, now_seconds)

    def predict(self, web: Web, now_seconds: float) -> GridReading:
        """The next 72 hours."""
        return self._reading(web, "forecast", {"horizon_hours": str(HORIZON_HOURS)}, now_seconds)

    def _reading(self, web: Web, path: str, parameters: Mapping[str, str], now_seconds: float) -> GridReading:
        answer = self._ask(web, f"{self._url}/v3/{path}", parameters, now_seconds)
        token = self._token
        if answer.status == 401:
            self._token = ""
        with concealing(token):
            document = checked_json(answer, now_seconds)
            with well_formed(answer):
                spans = in_order(self._spans(answer, json_object(document)))
        if not spans:
            raise ProviderError("empty", f"{answer.url}: has no values of {self._region}: it is asked again later")
        return GridReading(spans, "watttime", self.traits.basis, self.traits.signal)

    def _spans(self, answer: WebAnswer, document: Mapping[str, Any]) -> Iterator[Span]:
        """A span for each row whose value is not null; all are the outcome of a model.

        Raises:
            ProviderError: the answer is about something else than was asked.
            KeyError, ValueError: it has another shape, or other units.
        """
        rows = json_list(document.get("data", []))
        if not rows:
            return
        meta = json_object(document["meta"])
        region, signal_type = str(meta["region"])[:40], str(meta["signal_type"])[:40]
        if (region, signal_type) != (self._region, self._signal_type):
            raise ProviderError(
                "zone_mismatch",
                f"{answer.url}: answered for {region!r}, {signal_type!r}, not for {self._region!r}, "
                f"{self._signal_type!r}: see intensity.watttime.regions",
            )
        if meta["units"] != UNITS:
            raise ValueError(f"units are {str(meta['units'])[:40]!r}, not {UNITS!r}")
        step = meta.get("data_point_period_seconds", STEP_SECONDS)
        if type(step) is not int or not 0 < step <= LONGEST_STEP_SECONDS:
            raise ValueError("data_point_period_seconds is not 1 to 3600")
        for row in map(json_object, rows):
            start, value = utc_seconds(row["point_time"]), grams(row["value"], GRAMS_PER_KILOWATT_HOUR)
            if value is not None:
                yield Span(start, start + step, value, estimated=True)

    def _ask(self, web: Web, url: str, parameters: Mapping[str, str], now_seconds: float) -> WebAnswer:
        """The answer to a question; with a new login where the old one has expired."""
        about = {"region": self._region, "signal_type": self._signal_type, **parameters}
        expired = not self._token or not 0 <= now_seconds - self._login_seconds < TOKEN_SECONDS
        if expired:
            self._log_in(web, now_seconds)
        answer = web.get(url, about, self._authorization())
        if answer.status == 401 and not expired:
            self._log_in(web, now_seconds)
            answer = web.get(url, about, self._authorization())
        return answer

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"}

    def _log_in(self, web: Web, now_seconds: float) -> None:
        self._token = ""
        password = self._password.read(one_word=False)
        answer = web.get(f"{self._url}/login", auth=(self._username, password))
        with concealing(basic_credentials(self._username, password), password):
            self._token = self._token_in(answer, now_seconds)
        self._login_seconds = now_seconds

    def _token_in(self, answer: WebAnswer, now_seconds: float) -> str:
        if answer.status != 200:
            # What is said of a login is about the password.
            silent = replace(answer, body=b"")
            raise refusal(silent, now_seconds, "auth" if answer.status == 403 else None)
        document = checked_json(answer, now_seconds)
        token = document.get("token") if isinstance(document, dict) else None
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise ProviderError("parse", f"{answer.url}: answers no token: has the API changed?")
        return token
