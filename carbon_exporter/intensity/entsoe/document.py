"""A generation document of the Transparency Platform: XML in, megawatts by time and type of production out. Pure.

GL_MarketDocument of IEC 62325-451-6; what the type codes mean stands in codelist 68 of ENTSO-E.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Final, NamedTuple

from carbon_exporter.answers import utc_seconds
from carbon_exporter.fuels import UNKNOWN

MOST_POSITIONS: Final = 10_000
"""In one period: more than a month of quarter hours is not asked for."""
STEPS: Final[Mapping[str, int]] = {"PT15M": 900, "PT30M": 1800, "PT60M": 3600, "PT1H": 3600}
FUELS: Final[Mapping[str, str]] = {
    "B01": "biomass",
    "B02": "coal",  # lignite
    "B03": "coal",  # gas made from it
    "B04": "gas",
    "B05": "coal",
    "B06": "oil",
    "B07": "coal",  # oil shale
    "B08": "coal",  # peat
    "B09": "geothermal",
    "B11": "hydro",
    "B12": "hydro",
    "B13": "marine",
    "B14": "nuclear",
    "B15": UNKNOWN,
    "B16": "solar",
    "B17": UNKNOWN,  # waste
    "B18": "wind",
    "B19": "wind",
    "B20": UNKNOWN,
}
STORAGE: Final = frozenset({"B10", "B25"})
"""Gives back what the others made, so it has no part in the mix."""


class Quantity(NamedTuple):
    """Megawatts of one type of production in one area, from `start_seconds` for `step_seconds`."""

    start_seconds: float
    step_seconds: int
    code: str
    megawatts: float


def parsed(body: bytes) -> ET.Element | None:
    """The root of the XML; None where the body is none, or has a DOCTYPE, which no honest answer has.

    Without a DOCTYPE there are no entities to expand or to fetch. As text it is parsed as UTF-8, whatever it declares.
    """
    try:
        text = body.decode("utf-8-sig")
        return None if "<!DOCTYPE" in text else ET.fromstring(text)  # noqa: S314 - see above
    except (ValueError, ET.ParseError):
        return None


def kind(document: ET.Element) -> str:
    """Name of the root, without its namespace: "GL_MarketDocument"."""
    return document.tag.rpartition("}")[2]


def quantities(document: ET.Element) -> Iterator[tuple[str, Quantity]]:
    """All that was generated, with the code of its area; without storage and without what plants consume.

    Raises:
        ValueError: the document is not what it must be.
    """
    for series in document.iterfind("{*}TimeSeries"):
        area = series.findtext("{*}inBiddingZone_Domain.mRID")
        code = series.findtext("{*}MktPSRType/{*}psrType")
        # A series with an outBiddingZone is consumption.
        if area is None or code in STORAGE:
            continue
        if code is None:
            raise ValueError("a series has no psrType")
        repeats = series.findtext("{*}curveType") == "A03"
        for period in series.iterfind("{*}Period"):
            for quantity in _of_period(period, code, repeats=repeats):
                yield area.strip()[:20], quantity


def mixes(told: list[Quantity], step_seconds: int) -> dict[float, dict[str, float]]:
    """The mix at every step; a quantity of a longer step counts in each of those that it covers."""
    found: dict[float, dict[str, float]] = {}
    for quantity in told:
        for index in range(quantity.step_seconds // step_seconds):
            start = quantity.start_seconds + index * step_seconds
            found.setdefault(start, {})[quantity.code] = quantity.megawatts
    return found


def _of_period(period: ET.Element, code: str, *, repeats: bool) -> Iterator[Quantity]:
    """What one period tells.

    Args:
        period: with an interval, a resolution, and points numbered from 1.
        code: type of production.
        repeats: a point that is left out is as the one before (curve type A03), else unknown.

    Raises:
        ValueError: it is not what it must be.
    """
    step = STEPS.get(period.findtext("{*}resolution") or "")
    if step is None:
        raise ValueError(f"resolution {(period.findtext('{*}resolution') or '')[:20]!r} is unknown")
    start = utc_seconds(period.findtext("{*}timeInterval/{*}start"))
    end = utc_seconds(period.findtext("{*}timeInterval/{*}end"))
    positions = int((end - start) // step)
    if not 0 < positions <= MOST_POSITIONS:
        raise ValueError("a period is empty or too long")
    points = {int(_text(point, "position")): _megawatts(point) for point in period.iterfind("{*}Point")}
    if not points.keys() <= set(range(1, positions + 1)):
        raise ValueError("a position is outside of its period")
    megawatts = None
    for position in range(1, positions + 1):
        megawatts = points.get(position, megawatts if repeats else None)
        if megawatts is not None:
            yield Quantity(start + (position - 1) * step, step, code, megawatts)


def _megawatts(point: ET.Element) -> float:
    """Less than nothing (own use) counts as nothing."""
    quantity = float(_text(point, "quantity"))
    if not isfinite(quantity):
        raise ValueError("a quantity is not finite")
    return max(0.0, quantity)


def _text(element: ET.Element, name: str) -> str:
    text = element.findtext(f"{{*}}{name}")
    if text is None:
        raise ValueError(f"a point has no {name}")
    return text
