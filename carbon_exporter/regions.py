"""Where the regions of cloud providers draw their power from, and how much of it does not reach the computers.

cloud_region.csv: Green Software Foundation, Real Time Energy and Carbon Standard for Cloud Providers,
https://github.com/Green-Software-Foundation/real-time-cloud. A hint: public tables disagree on about one zone in ten.
"""

import csv
from dataclasses import dataclass
from importlib.resources import files

from carbon_exporter.model import ConfigurationError


@dataclass(frozen=True, slots=True)
class Region:
    """One region. `pue`: power usage effectiveness, None where nobody tells it; `year`: the one that all is of."""

    grid_zone: str
    pue: float | None
    year: int


def region(name: str) -> Region | None:
    """The region "aws/eu-central-1", "gcp/europe-west3" or "azure/westeurope"; None where the table has it not."""
    with (files(__package__) / "cloud_region.csv").open(encoding="utf-8") as table:
        for row in csv.DictReader(line for line in table if not line.startswith("#")):
            if row["region"] == name:
                return Region(row["grid_zone"], float(row["pue"]) if row["pue"] else None, int(row["year"]))
    return None


def pue_of(configured: float | str, cloud_region: str) -> float:
    """The power usage effectiveness to count with: a number, or the region's for the word cloud_region.

    Raises:
        ConfigurationError: the table does not tell that of the region.
    """
    if not isinstance(configured, str):
        return configured
    if not cloud_region:
        raise ConfigurationError("pue: cloud_region needs the key cloud_region, such as aws/eu-central-1")
    found = region(cloud_region)
    if found is None:
        raise ConfigurationError(
            f"cloud_region: {cloud_region!r} is not in the table: write aws/REGION, gcp/REGION or azure/REGION, "
            "or give pue a number"
        )
    if found.pue is None:
        raise ConfigurationError(f"pue: the table has none for {cloud_region}: give a number")
    return found.pue


def zone_hint(name: str) -> str:
    """One line for the log of a node that says that it is in the region `name`, and whose grid zone is not set."""
    found = region(name)
    if found is None:
        return f"this node says that it is in {name}, whose grid zone is not known here: set intensity.grid_zone"
    pue = f" (PUE {found.pue:g} of {found.year})" if found.pue is not None else ""
    return (
        f"this node says that it is in {name}, which a public table puts into grid zone {found.grid_zone}{pue}: "
        f"set intensity.grid_zone: {found.grid_zone} if that is so"
    )
