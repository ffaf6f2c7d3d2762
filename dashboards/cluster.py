"""Cluster carbon: what all of it burns, whose it is, and what nobody used."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards import variables
from dashboards.frame import Row, dashboard
from dashboards.links import TO_JOB, TO_ZONE
from dashboards.panels import (
    LEVELS,
    PER_KWH,
    UNUSED_COLOURS,
    AnyPanel,
    Column,
    Query,
    bar_panel,
    stat_panel,
    table_panel,
    time_panel,
)
from dashboards.queries import intensity, kwh, last_of_range, named, of_some, over_range, owned
from dashboards.variables import CLUSTER, NAMESPACE, TEAM, select

POWER = select("component:carbon_power_watts:rate5m", CLUSTER)
EMISSIONS = select("grid_zone_basis:carbon_emissions_grams_per_second:rate5m", CLUSTER)
UNUSED = select("component_reason:carbon_unattributed_power_watts:rate5m", CLUSTER)
UNUSED_EMISSIONS = select("reason_basis:carbon_unattributed_emissions_grams_per_second:rate5m", CLUSTER)
JOB_POWER = select("training_job:carbon_job_power_watts:rate5m", CLUSTER)
JOB_ENERGY = select("training_job:carbon_job_energy_joules:sum", CLUSTER)
JOB_GRAMS = select("training_job:carbon_job_emissions_grams:sum", CLUSTER)
FORECAST = select("training_job_quantile:carbon_forecast_emissions_grams:max", CLUSTER, 'quantile="0.5"')
TEAM_POWER = select("namespace_team:carbon_job_power_watts:rate5m", CLUSTER, NAMESPACE, TEAM)
TEAM_EMISSIONS = select("namespace_team_basis:carbon_job_emissions_grams_per_second:rate5m", CLUSTER, NAMESPACE, TEAM)
BY_TEAM = named(TEAM_POWER, "namespace", "team")
TOP = f"topk(20, {owned(JOB_POWER)})"
EMPTY = "nothing recorded yet: are the recording rules loaded?"
NOTHING = "nothing recorded yet"
NO_GRID = "no grid intensity yet"
NO_JOBS = "no training job found"
WHOSE = {"training_job": "Training job", "namespace": "Namespace", "team": "Team", "user": "User"}


def build() -> Dashboard:
    """The page that opens on the month so far."""
    return dashboard(
        "carbon-cluster",
        "Carbon / Cluster carbon",
        "Power and CO2eq of all nodes, by job, team and grid, and what no job used.",
        since="now/M",
        variables=[
            variables.datasource(),
            variables.cluster(),
            variables.namespace(),
            variables.team(),
            variables.price(),
        ],
        rows=[
            Row("What does the cluster burn now, and what has it cost in the range above?", _now()),
            Row("Which jobs burn most?", [_top_jobs()]),
            Row("Whose is it?", _whose()),
            Row("What was left on the table?", _unused()),
            Row("Where and when was it burned?", _course()),
            Row("How clean is the grid now?", _grid()),
            Row("Which jobs of the range above cost most, ended ones included?", [_ended_jobs()], folded=True),
        ],
    )


def _now() -> list[AnyPanel]:
    return [
        stat_panel(
            "Power now",
            "Electric power of all nodes: CPU, memory and GPU, without cooling. From `component:carbon_power_watts`.",
            [Query(f"sum({POWER})", "")],
            unit="watt",
            empty=NOTHING,
            width=4,
        ),
        stat_panel(
            "CO2eq per hour",
            "What an hour at this power, PUE and grid intensity emits, by basis: what the intensity counts "
            "(lifecycle, direct). Several bases are never added. 1 Mg is a tonne.",
            [Query(f"sum by (basis) ({EMISSIONS}) * 3600", "{{basis}}")],
            unit="massg",
            empty=NO_GRID,
            width=4,
        ),
        stat_panel(
            "Energy in the range",
            "Of all nodes over the range above, this month unless changed. Sum of the recorded power; hours without "
            "data count nothing.",
            [Query(kwh(f"sum({over_range(POWER)})"), "")],
            unit="kwatth",
            empty=NOTHING,
            width=4,
        ),
        stat_panel(
            "CO2eq in the range",
            "Of all nodes over the range above, PUE included, by basis, at the intensity of each hour.",
            [Query(f"sum by (basis) ({over_range(EMISSIONS)})", "{{basis}}")],
            unit="massg",
            empty=NO_GRID,
            width=4,
        ),
        stat_panel(
            "Not used by any job",
            "Share of the range's energy that was idle or went to processes outside every job. Below: what it cost.",
            [Query(f"sum({over_range(UNUSED)}) / sum({over_range(POWER)})", "")],
            unit="percentunit",
            empty=NOTHING,
            width=4,
            decimals=0,
        ),
        stat_panel(
            "Grid intensity now",
            "Grams for each kilowatt-hour that the nodes use now, PUE included: all zones by their power. Zones of "
            "several bases are added here; Carbon / Grid has each alone.",
            [Query(f"sum({EMISSIONS}) / sum({POWER}) * 3.6e6", "")],
            unit=PER_KWH,
            empty=NO_GRID,
            width=4,
            decimals=0,
        ),
    ]


def _top_jobs() -> AnyPanel:
    return table_panel(
        "Top 20 jobs by power",
        "Running jobs of the namespaces and teams selected. Energy and CO2eq are since each job began, nodes that it "
        "has left included. At the end: the median forecast. Click a job for its page.",
        [
            Column(TOP, "Power", "watt"),
            Column(kwh(of_some(f"({JOB_ENERGY})", TOP)), "Energy so far", "kwatth"),
            Column(of_some(f"max by (cluster, training_job, basis) ({JOB_GRAMS})", TOP), "CO2eq so far", "massg"),
            Column(of_some(f"max by (cluster, training_job) ({FORECAST})", TOP), "CO2eq at the end", "massg"),
        ],
        labels=WHOSE | {"basis": "Basis"},
        links={"training_job": TO_JOB},
        empty=NO_JOBS,
    )


def _whose() -> list[AnyPanel]:
    return [
        bar_panel(
            "Power now by namespace and team",
            "The 15 that burn most. Jobs without a team label are under `no team`: jobs.kubernetes.info_labels. Those "
            "of Slurm and of processes have no namespace.",
            [Query(f"topk(15, {BY_TEAM})", "{{namespace}} / {{team}}")],
            unit="watt",
            empty=NO_JOBS,
            width=7,
        ),
        bar_panel(
            "CO2eq in the range by namespace and team",
            "The 15 that emitted most over the range above, ended jobs included, by basis.",
            [
                Query(
                    named(f"topk by (cluster, basis) (15, {over_range(TEAM_EMISSIONS)})", "namespace", "team"),
                    "{{namespace}} / {{team}} ({{basis}})",
                )
            ],
            unit="massg",
            empty="no CO2eq in this range: no job, or no grid intensity",
            width=9,
        ),
        time_panel(
            "Power by team",
            "Power of the jobs of each team selected. Choose teams above if the lines are too many.",
            [Query(f"sum by (team) ({named(TEAM_POWER, 'team')})", "{{team}}")],
            unit="watt",
            empty=NO_JOBS,
            width=8,
            stacked=True,
            colours={},
        ),
    ]


def _unused() -> list[AnyPanel]:
    by_reason = f"sum by (reason) ({over_range(UNUSED)})"
    return [
        stat_panel(
            "Energy without a job",
            "Over the range above. idle: nobody held the device. system: processes outside every job. Much idle: "
            "start queued jobs sooner, or switch nodes off.",
            [Query(kwh(by_reason), "{{reason}}")],
            unit="kwatth",
            empty=NOTHING,
            width=4,
            height=8,
        ),
        stat_panel(
            "CO2eq without a job",
            "Of that energy, PUE included, by reason and basis.",
            [Query(f"sum by (reason, basis) ({over_range(UNUSED_EMISSIONS)})", "{{reason}} ({{basis}})")],
            unit="massg",
            empty=NO_GRID,
            width=4,
            height=8,
        ),
        stat_panel(
            "Money without a job",
            "That energy times the price per kWh above (a number such as 0.20), in its currency, without PUE.",
            [Query(f"{kwh(by_reason)} * ${{price}}", "{{reason}}")],
            unit="short",
            empty="no energy, or no price",
            width=4,
            height=8,
            decimals=2,
        ),
        time_panel(
            "Power without a job",
            "Idle and system power by component over the range. A block of idle GPU power is capacity to fill.",
            [Query(f"sum by (component, reason) ({UNUSED})", "{{component}} {{reason}}")],
            unit="watt",
            empty=EMPTY,
            stacked=True,
            colours=UNUSED_COLOURS,
        ),
    ]


def _course() -> list[AnyPanel]:
    return [
        time_panel(
            "Power by component",
            "All nodes. Whether it is measured or estimated is beside it.",
            [Query(f"sum by (component) ({POWER})", "{{component}}")],
            unit="watt",
            empty=EMPTY,
            width=9,
            stacked=True,
        ),
        time_panel(
            "CO2eq per hour by grid zone",
            "Power times PUE times intensity of that time. It moves with the grid where the power does not.",
            [Query(f"sum by (grid_zone, basis) ({EMISSIONS}) * 3600", "{{grid_zone}} ({{basis}})")],
            unit="massg",
            empty="no grid intensity yet: see Carbon / Grid",
            width=9,
            stacked=True,
            colours={},
        ),
        table_panel(
            "Measured or estimated",
            "Nodes by where each component's joules come from. An estimate is CPU time times thermal design power, "
            "where RAPL cannot be read: `carbon-exporter check` on such a node says why.",
            [
                Column(
                    f"count by (component, source) ({select('carbon_source_info', CLUSTER)})",
                    "Nodes",
                )
            ],
            labels={"component": "Component", "source": "Source"},
            words={"source": {"estimate": ("estimated", "#E69F00")}},
            empty="no node agent answers",
            width=6,
        ),
    ]


def _grid() -> list[AnyPanel]:
    return [
        bar_panel(
            "Intensity by grid zone",
            "CO2eq for a kilowatt-hour from the grid, without PUE. History, forecast and provider: Carbon / Grid.",
            [Query(intensity('signal="average"'), "{{grid_zone}} ({{basis}}, {{provider}})")],
            unit=PER_KWH,
            empty="no grid intensity: set intensity.grid_zone and intensity.provider",
            width=12,
        ),
        table_panel(
            "How old is it, and is it a stand-in?",
            "Zones with the age of their figure, and what stands in for it where it is not what was asked for.",
            [
                Column(
                    f"time() - max by (cluster, grid_zone) "
                    f"({select('carbon_intensity_data_timestamp_seconds', CLUSTER)})",
                    "Age",
                    "s",
                ),
                Column(
                    f"max by (cluster, grid_zone) ({select('grid_zone:carbon_intensity_fallback_level:max', CLUSTER)})",
                    "Fallback",
                    "none",
                    words=LEVELS,
                ),
            ],
            labels={"grid_zone": "Grid zone"},
            links={"grid_zone": TO_ZONE},
            empty="no grid intensity",
            width=12,
        ),
    ]


def _ended_jobs() -> AnyPanel:
    # Of a job whose grams became mixed within the range, the sum of all is the greater one.
    grams = f"topk by (cluster, training_job) (1, {last_of_range(JOB_GRAMS)})"
    return table_panel(
        "Top 20 jobs of the range",
        "What each job had emitted when it was last seen in the range: its whole cost so far or at its end, "
        "also what it emitted before the range.",
        [Column(f"topk(20, {grams})", "CO2eq", "massg")],
        labels={"training_job": "Training job", "basis": "Basis"},
        links={"training_job": TO_JOB},
        empty="no job in this range",
    )
