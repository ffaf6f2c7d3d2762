"""Writes the dashboards' JSON beside their code."""

from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards import cluster, grid, health, nodes, training_job

FOLDER: Final = Path(__file__).resolve().parent


def dashboards() -> list[Dashboard]:
    """All five, in the order in which a reader meets them."""
    return [cluster.build(), training_job.build(), nodes.build(), grid.build(), health.build()]


def as_json(dashboard: Dashboard) -> str:
    """What Grafana imports, the same bytes every time."""
    return JSONEncoder(sort_keys=True, indent=2).encode(dashboard) + "\n"


def main() -> None:
    """One file for each dashboard, named by its uid."""
    for dashboard in dashboards():
        (FOLDER / f"{dashboard.uid}.json").write_text(as_json(dashboard), encoding="utf-8")


if __name__ == "__main__":
    main()
