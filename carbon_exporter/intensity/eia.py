"""US Energy Information Administration: hourly generation by fuel of every balancing authority, times our factors.

Form EIA-930 over API v2, https://www.eia.gov/opendata/documentation.php
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from math import isfinite
from pathlib import Path
from typing import Any, Final

from carbon_exporter import settings
from carbon_exporter.answers import checked_json, json_list, json_object, refusal, utc_seconds, well_formed
from carbon_exporter.fuels import UNKNOWN, FuelBasis, mix_spans
from carbon_exporter.model import HOUR_SECONDS, ConfigurationError, GridReading, ProviderError, Traits, Web, WebAnswer
from carbon_exporter.secret import Secret, concealing

VARIABLE: Final = "CARBON_EIA_KEY"
MOST_ROWS: Final = 5000
"""In one answer, by the terms of the API."""
WINDOW_HOURS: Final = 15 * 24
"""Asked for at once: 5,000 rows are enough for 13 fuels."""
FARTHEST_HOURS: Final = 2 * WINDOW_HOURS
OVERLAP_HOURS: Final = 24
"""Before the time asked for: a half-told hour is known by the hours before it."""
FUELS: Final[Mapping[str, str]] = {
    "COL": "coal",
    "GEO": "geothermal",
    "NG": "gas",
    "NUC": "nuclear",
    "OIL": "oil",
    "SNB": "solar",
    "SUN": "solar",
    "WAT": "hydro",
    "WNB": "wind",
    "WND": "wind",
    "OTH": UNKNOWN,
    "UNK": UNKNOWN,
}
STORAGE: Final = frozenset({"BAT", "OES", "PS", "UES"})
"""Gives back what the others made, so it has no part in the mix."""
REGIONS: Final = frozenset(("CAL", "CAR", "CENT", "FLA", "MIDA", "MIDW", "NE", "NW", "NY", "SE", "SW", "TEN", "TEX"))
AUTHORITIES: Final = frozenset(
    """
    AECI AVA AVRN AZPS BANC BPAT CHPD CISO CPLE CPLW DEAA DOPD DUK EPE ERCO FMPP FPC FPL GCPD GRID GRIF GVL GWA HGMA
    HST IID IPCO ISNE JEA LDWP LGEE MISO NEVP NWMT NYIS PACE PACW PGE PJM PNM PSCO PSEI SC SCEG SCL SEC SEPA SOCO SPA
    SRP SWPP TAL TEC TEPC TIDC TPWR TVA WACM WALC WAUW WWA YAD
    """.split()  # noqa: SIM905 - a list of 63 would take as many lines
)
_PATH: Final = "/electricity/rto/fuel-type-data/data/"


class Settings(settings.Settings):
    """Settings of the provider `eia`. The key comes from the file named, or CARBON_EIA_KEY.

    basis: which factors make grams of fuels.
    """

    url: settings.PlainUrl = "https://api.eia.gov/v2"
    key_file: Path | None = None
    basis: FuelBasis = "lifecycle"


def open_provider(chosen: Settings, grid_zone: str, environment: Mapping[str, str]) -> "EiaProvider":
    """The provider for `grid_zone`: US, a region (US-CAL) or a balancing authority (US-CAL-CISO).

    Raises:
        ConfigurationError: it is no such zone, or there is no key that can be read.
    """
    country, *parts = grid_zone.split("-")
    known = REGIONS if len(parts) == 1 else AUTHORITIES
    if country != "US" or len(parts) > 2 or (parts and (parts[0] not in REGIONS or parts[-1] not in known)):
        raise ConfigurationError(
            f"intensity.grid_zone: eia does not know {grid_zone!r}; it knows US, US-REGION of "
            f"{', '.join(sorted(REGIONS))}, and US-REGION-AUTHORITY such as US-CAL-CISO or US-MIDA-PJM"
        )
    key = Secret(chosen.key_file, VARIABLE, environment, "intensity.eia.key_file")
    if not key:
        raise ConfigurationError(
            f"intensity.eia: has no key: set intensity.eia.key_file or the environment variable {VARIABLE}"
        )
    key.read()
    return EiaProvider(chosen, parts[-1] if parts else "US48", key)


class EiaProvider:
    """Implements model.GridProvider for one respondent of form EIA-930."""

    def __init__(self, chosen: Settings, respondent: str, key: Secret) -> None:
        self._url = chosen.url + _PATH
        self._respondent = respondent
        self._key = key
        self._basis = chosen.basis
        self.traits = Traits(
            provider="eia",
            basis=chosen.basis,
            zones="US, its regions (US-CAL) and balancing authorities (US-CAL-CISO)",
            licence="US Energy Information Administration, form EIA-930, public domain",
            refresh_seconds=3600.0,
            lag_seconds=129_600.0,
            fresh_seconds=172_800.0,
        )

    def observe(self, web: Web, since_seconds: float, now_seconds: float) -> GridReading:
        """Whole hours since then, at most 30 days back; the newest is up to a day old."""
        end = int(now_seconds // HOUR_SECONDS) + 1
        begin = max(int(since_seconds // HOUR_SECONDS) - OVERLAP_HOURS, end - FARTHEST_HOURS)
        mixes: dict[float, dict[str, float]] = {}
        for first in range(begin, end, WINDOW_HOURS):
            for hour_seconds, fuel, megawatts in self._ask(web, first, min(first + WINDOW_HOURS, end), now_seconds):
                mixes.setdefault(hour_seconds, {})[fuel] = megawatts
        found = mix_spans(mixes, HOUR_SECONDS, FUELS, self._basis)
        spans = tuple(span for span in found if since_seconds < span.end_seconds <= now_seconds)
        if not spans:
            raise ProviderError("empty", f"{self._url}: no generation of {self._respondent}: it is asked again later")
        return GridReading(spans, "eia", self._basis)

    def predict(self, web: Web, now_seconds: float) -> GridReading:  # noqa: ARG002
        """There is none: nobody forecasts the mix."""
        raise ProviderError("empty", f"{self._url}: has no forecast")

    def _ask(self, web: Web, first: int, end: int, now_seconds: float) -> list[tuple[float, str, float]]:
        """The values of the hours from `first` to before `end`, the newest first; see `_values`."""
        key = self._key.read()
        parameters = {
            "api_key": key,
            "frequency": "hourly",
            "data[]": "value",
            "facets[respondent][]": self._respondent,
            "start": _period(first),
            "end": _period(end - 1),
            "sort[0][column]": "period",
            "sort[0][direction]": "desc",
            "length": str(MOST_ROWS),
        }
        answer = web.get(self._url, parameters)
        with concealing(key):
            if answer.status == 403 and b"API_KEY" in answer.body:
                raise refusal(answer, now_seconds, "auth")
            document = checked_json(answer, now_seconds)
            with well_formed(answer):
                rows = json_list(json_object(json_object(document).get("response", {})).get("data", []))
                return list(self._values(answer, _whole_hours(rows)))

    def _values(self, answer: WebAnswer, rows: Iterable[Any]) -> Iterator[tuple[float, str, float]]:
        """Start of the hour, fuel code, megawatts; less than nothing (own use) counts as nothing.

        Raises:
            KeyError: a row lacks something.
            ValueError: a row is not what it must be.
        """
        for row in map(json_object, rows):
            if row["respondent"] != self._respondent:
                raise ProviderError(
                    "zone_mismatch",
                    f"{answer.url}: answered for {str(row['respondent'])[:20]!r}, not for {self._respondent!r}",
                )
            fuel, value = str(row["fueltype"])[:20], row.get("value")
            if value is not None and fuel not in STORAGE:
                yield utc_seconds(row["period"]) - HOUR_SECONDS, fuel, max(0.0, _megawatts(value))


def _period(hour: int) -> str:
    """An hour as the API names it: by its end."""
    return datetime.fromtimestamp((hour + 1) * HOUR_SECONDS, timezone.utc).strftime("%Y-%m-%dT%H")


def _whole_hours(rows: Sequence[Any]) -> Sequence[Any]:
    """All rows; but of an answer that is cut at 5,000, not those of the oldest hour."""
    if len(rows) < MOST_ROWS:
        return rows
    oldest = json_object(rows[-1]).get("period")
    return [row for row in rows if json_object(row).get("period") != oldest]


def _megawatts(value: Any) -> float:
    """A number, or one in quotes, which the API sends too."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            number = float(value)
            if isfinite(number):
                return number
    raise ValueError(f"{str(value)[:20]!r} is no number of megawatts")
