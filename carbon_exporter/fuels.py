"""Grams of CO2eq for a kilowatt-hour by fuel, and those of a mix of fuels. Pure.

Lifecycle: medians of IPCC (2014), Fifth Assessment Report, working group III, annex III, table A.III.2; solar lies
between its rooftop (41) and utility (48) plants. Direct: what leaves the chimney, from the same table; biomass grows
again and counts 0. Oil, which the table has not: UK Parliamentary Office of Science and Technology. Unknown: an
assumption between gas and coal. Lignite, peat and oil shale count as coal, which is less than they emit.
"""

from collections.abc import Iterator, Mapping
from typing import Final, Literal, TypeAlias

from carbon_exporter.model import Span

FuelBasis: TypeAlias = Literal["lifecycle", "direct"]
Mix: TypeAlias = Mapping[str, float]
"""Megawatts by the fuel codes of whoever tells them; all that were told, 0 too."""
UNKNOWN: Final = "unknown"
FACTORS: Final[Mapping[str, tuple[float, float]]] = {
    "coal": (820.0, 760.0),
    "gas": (490.0, 370.0),
    "oil": (650.0, 406.0),
    "biomass": (230.0, 0.0),
    "geothermal": (38.0, 38.0),
    "hydro": (24.0, 0.0),
    "marine": (17.0, 0.0),
    "nuclear": (12.0, 0.0),
    "solar": (45.0, 0.0),
    "wind": (11.0, 0.0),
    UNKNOWN: (700.0, 575.0),
}
"""Fuel -> lifecycle, direct."""
_MISSED_SHARE: Final = 0.05
_MISSED_SECONDS: Final = 86_400.0
"""A fuel that is not told for longer is taken to be gone."""


def factor(fuel: str, basis: FuelBasis) -> float:
    """Grams per kilowatt-hour of a fuel; of "unknown" for one that is not in the table."""
    lifecycle, direct = FACTORS.get(fuel, FACTORS[UNKNOWN])
    return lifecycle if basis == "lifecycle" else direct


def mix_spans(
    mixes: Mapping[float, Mix], step_seconds: float, fuel_of: Mapping[str, str], basis: FuelBasis
) -> Iterator[Span]:
    """The spans of all mixes that can be believed, in order of time.

    Left out: a mix of nothing, and one in which a fuel is not told that carried more than 5 % in the last mix believed,
    unless that is more than a day ago. The newest mix of a grid is often told in parts.

    Args:
        mixes: start (Unix seconds) -> mix.
        step_seconds: how long each holds.
        fuel_of: code -> fuel of FACTORS; a code that is not in it is unknown.
        basis: what the grams count.
    """
    factors = {code: factor(fuel, basis) for code, fuel in fuel_of.items()}
    unknown = factor(UNKNOWN, basis)
    carrying: frozenset[str] = frozenset()
    believed_seconds = float("-inf")
    for start in sorted(mixes):
        mix = mixes[start]
        total = sum(mix.values())
        recent = start - believed_seconds <= _MISSED_SECONDS
        if total <= 0 or (recent and not carrying <= mix.keys()):
            continue
        carrying = frozenset(code for code, megawatts in mix.items() if megawatts > _MISSED_SHARE * total)
        believed_seconds = start
        grams = sum(megawatts * factors.get(code, unknown) for code, megawatts in mix.items()) / total
        yield Span(start, start + step_seconds, grams)
