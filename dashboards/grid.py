"""Grid: how clean the power is in each zone, was and will be, and how good the figure is."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards import variables
from dashboards.frame import Row, dashboard
from dashboards.panels import (
    GREEN,
    LEVELS,
    ORANGE,
    PER_KWH,
    AnyPanel,
    Column,
    Query,
    bar_panel,
    stat_panel,
    state_panel,
    table_panel,
    time_panel,
)
from dashboards.queries import HOURS_AHEAD, ahead, intensity
from dashboards.variables import CLUSTER, ZONE, select

NOW = intensity('signal="average"', ZONE)
EMPTY = "no grid intensity: set intensity.grid_zone and intensity.provider"
ESTIMATED = {"0": ("measured or set", GREEN), "1": ("estimated", ORANGE)}


def of_zones(metric: str, by: str = "cluster, grid_zone") -> str:
    """The greatest of each zone selected: every node of a zone exports the same."""
    return f"max by ({by}) ({select(metric, CLUSTER, ZONE)})"


def build() -> Dashboard:
    """The page about the grid."""
    return dashboard(
        "carbon-grid",
        "Carbon / Grid",
        "Grid carbon intensity by zone: now, history, forecast, and whether the figure is to be trusted.",
        since="now-2d",
        variables=[variables.datasource(), variables.cluster(), variables.grid_zone()],
        rows=[
            Row("How clean is the power now, and is the figure good?", _now()),
            Row("How was it, and what comes?", _course()),
            Row("Do the providers answer?", _providers()),
            Row("What would one kilowatt-hour more emit?", [_marginal()], folded=True),
        ],
    )


def _now() -> list[AnyPanel]:
    level = select("grid_zone:carbon_intensity_fallback_level:max", CLUSTER, ZONE)
    return [
        stat_panel(
            "Cleanest zone now",
            "The least intensity of the zones selected. Bases differ: compare zones of one basis.",
            [Query(f"bottomk(1, {NOW})", "{{grid_zone}} ({{basis}})")],
            unit=PER_KWH,
            empty="no grid intensity yet",
            width=6,
            decimals=0,
        ),
        stat_panel(
            "Dirtiest zone now",
            "The greatest intensity of the zones selected.",
            [Query(f"topk(1, {NOW})", "{{grid_zone}} ({{basis}})")],
            unit=PER_KWH,
            empty="no grid intensity yet",
            width=6,
            decimals=0,
        ),
        stat_panel(
            "Zones on a fallback",
            "Zones whose figure is not what was asked for. See which provider fails below, and why in its log.",
            [Query(f"count({level} > 0) or count({level}) * 0", "")],
            unit="none",
            empty="no grid intensity yet",
            width=6,
            bad_from=1,
        ),
        stat_panel(
            "Oldest figure",
            "Age of the oldest figure in use. Up to an hour or two is usual; a yearly mean is as old as its year.",
            [Query(f"max(time() - {of_zones('carbon_intensity_data_timestamp_seconds')})", "")],
            unit="s",
            empty="no figure has a time",
            width=6,
        ),
        table_panel(
            "Zones",
            "What is in use for emissions now: whose figure, what it counts (basis), whether it is estimated, its "
            "age and its fallback level.",
            [
                # Merged by their labels: a series' own name among them would set it apart.
                Column(f"max by (cluster, grid_zone, provider, basis) ({NOW})", "Intensity", PER_KWH, decimals=0),
                Column(f"time() - {of_zones('carbon_intensity_data_timestamp_seconds')}", "Age", "s"),
                Column(
                    of_zones("grid_zone:carbon_intensity_fallback_level:max"),
                    "Fallback",
                    "none",
                    words=LEVELS,
                ),
                Column(of_zones("carbon_intensity_estimated"), "Estimated", "none", words=ESTIMATED),
            ],
            labels={"grid_zone": "Grid zone", "provider": "Provider", "basis": "Basis"},
            empty=EMPTY,
        ),
    ]


def _course() -> list[AnyPanel]:
    return [
        time_panel(
            "Intensity over the range",
            "As it was used for emissions. A step to a flat line is a fallback to a yearly mean.",
            [Query(NOW, "{{grid_zone}} ({{basis}}, {{provider}})")],
            unit=PER_KWH,
            empty=EMPTY,
            colours={},
        ),
        bar_panel(
            "Expected intensity by hours from now",
            "Mean of each span. Jobs that can wait: start them in the span of the shortest bar.",
            [Query(ahead(start, end, ZONE), f"{{{{grid_zone}}}} {start}-{end} h") for start, end in HOURS_AHEAD],
            unit=PER_KWH,
            empty="no forecast: the provider gives none, and there is too little history yet",
            width=12,
        ),
        state_panel(
            "Fallback level over the range",
            "What stood in for the figure asked for, and when.",
            [Query(select("grid_zone:carbon_intensity_fallback_level:max", CLUSTER, ZONE), "{{grid_zone}}")],
            words=LEVELS,
            empty=EMPTY,
            width=24,
        ),
    ]


def _providers() -> list[AnyPanel]:
    errors = f"increase({select('carbon_intensity_fetch_errors_total', CLUSTER)}[30m])"
    answered = of_zones("carbon_intensity_last_success_timestamp_seconds", "cluster, grid_zone, provider")
    return [
        bar_panel(
            "Questions without a usable answer",
            "In the last 30 minutes, of all processes, by provider and reason. auth, forbidden: the token. rate_limit: "
            "the plan. zone_mismatch: the zone's name.",
            [Query(f"sum by (provider, reason) ({errors}) > 0", "{{provider}} {{reason}}")],
            unit="short",
            empty="none: every question was answered, or no provider is asked",
            width=12,
        ),
        table_panel(
            "Since the last good answer",
            "By zone and provider. Much longer than the provider's step: it is down, or refuses.",
            [Column(f"time() - {answered}", "Age", "s")],
            labels={"grid_zone": "Grid zone", "provider": "Provider"},
            empty="no provider has answered yet, or none is asked (static)",
            width=12,
        ),
    ]


def _marginal() -> AnyPanel:
    return time_panel(
        "Marginal intensity",
        "What the plants emit that would serve one more kilowatt-hour. For choosing hours only: grams are counted by "
        "the average.",
        [Query(intensity('signal="marginal"', ZONE), "{{grid_zone}} ({{provider}})")],
        unit=PER_KWH,
        empty="no marginal signal: of the providers WattTime gives one",
        width=24,
        colours={},
    )
