"""Training job: how far one job is, what it has used, and what it will have used at its end."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards import variables
from dashboards.frame import Row, dashboard
from dashboards.links import TO_JOB, TO_NODE
from dashboards.panels import (
    BLUE,
    GREEN,
    ORANGE,
    PER_KWH,
    VERMILLION,
    AnyPanel,
    Column,
    Query,
    bar_panel,
    stat_panel,
    table_panel,
    time_panel,
)
from dashboards.queries import GRAMS_PER_KM, HOURS_AHEAD, ahead, kwh, last_of_range, now_or_last
from dashboards.variables import CLUSTER, JOB, select


def of_job(metric: str, *matchers: str) -> str:
    """The series of `metric` of the job selected."""
    return select(metric, CLUSTER, JOB, *matchers)


ENERGY = of_job("training_job:carbon_job_energy_joules:sum")
GRAMS = of_job("training_job:carbon_job_emissions_grams:sum")
BUDGET = of_job("training_job:carbon_emissions_budget_grams:max")
DONE = of_job("training_job:carbon_training_epochs_completed:max")
PLANNED = of_job("training_job:carbon_training_epochs_planned:max")
EPOCH_ENERGY = of_job("training_job:carbon_epoch_energy_joules:mean")
INFO = "training_job:carbon_job_info:team"
ON_NODES = f"max by (cluster, instance) ({of_job('carbon_job_info')})"
ZONES = (
    "max by (cluster, grid_zone) "
    f"({select('carbon_node_grid_zone_info', CLUSTER)} and on (cluster, instance) {ON_NODES})"
)
NO_ENERGY = "no energy: the job has ended, or no node agent sees it"
NO_EPOCHS = "no epochs pushed: see docs/push.md"
NO_FORECAST = "no forecast: the job has ended, or fewer than 2 epochs were pushed"
BAND = (("0.05", "5 %"), ("0.5", "median"), ("0.95", "95 %"))
LINES = {"median": BLUE, "so far": GREEN, "budget": VERMILLION, "by rule alone": ORANGE}


def build() -> Dashboard:
    """The page about one job."""
    return dashboard(
        "carbon-training-job",
        "Carbon / Training job",
        "Progress, energy and CO2eq of one training job, its forecast and its budget.",
        since="now-24h",
        variables=[
            variables.datasource(),
            variables.cluster(),
            variables.namespace(),
            variables.team(),
            variables.training_job(),
        ],
        rows=[
            Row("How far is it, and will it stay within its budget?", _now()),
            Row("What will it have used at its end?", _forecast()),
            Row("Does it work, or burn power for nothing?", _working()),
            Row("Is its energy per epoch usual?", _epochs()),
            Row("When in the days ahead is the grid cleanest?", [_hours_ahead()]),
            Row("What do the numbers rest on?", _basis()),
            Row("What else does it cost?", _further(), folded=True),
        ],
    )


def _quantiles(metric: str) -> list[Query]:
    return [Query("max(" + of_job(metric, f'quantile="{quantile}"') + ")", legend) for quantile, legend in BAND]


def _now() -> list[AnyPanel]:
    grams, budget = now_or_last(GRAMS), now_or_last(BUDGET)
    expected = of_job("training_job_quantile:carbon_forecast_emissions_grams:max", 'quantile="0.5"')
    end = of_job("training_job_quantile:carbon_forecast_end_timestamp_seconds:max", 'quantile="0.5"')
    planned = f"max({end}) * 1000"
    ended = f"max({of_job('carbon_training_finished_timestamp_seconds')}) * 1000"
    return [
        stat_panel(
            "Epochs",
            "Epochs done and planned, as the job pushed them last.",
            [Query(f"max({now_or_last(DONE)})", "done"), Query(f"max({now_or_last(PLANNED)})", "planned")],
            unit="none",
            empty="no epochs pushed",
            width=3,
        ),
        stat_panel(
            "Energy so far",
            "Since the job began, on all nodes, those that it has left included. Of an ended job: the last of the "
            "range.",
            [Query(kwh(f"sum({now_or_last(ENERGY)})"), "")],
            unit="kwatth",
            empty="no energy seen",
            width=3,
        ),
        stat_panel(
            "CO2eq so far",
            "Its joules times PUE times the grid intensity when each was spent. The basis says what the intensity "
            "counts; mixed where several are in the sum.",
            [Query(f"sum by (basis) ({grams})", "{{basis}}")],
            unit="massg",
            empty="no CO2eq known",
            width=3,
        ),
        stat_panel(
            "CO2eq at the end",
            "Forecast of the total at the planned end: in 9 of 10 jobs it ends between 5 % and 95 %.",
            _quantiles("training_job_quantile:carbon_forecast_emissions_grams:max"),
            unit="massg",
            empty="none: ended, or under 2 epochs",
            width=5,
        ),
        stat_panel(
            "Share of the budget",
            "CO2eq so far and at the end (median), as shares of the budget in force. From 100 % on it is over: "
            "stop the job, plan fewer epochs, or move it to cleaner hours.",
            [
                Query(f"max({grams}) / max({budget})", "so far"),
                Query(f"max({expected}) / max({budget})", "at the end"),
            ],
            unit="percentunit",
            empty="no budget pushed",
            width=4,
            bad_from=1,
            decimals=0,
        ),
        stat_panel(
            "End",
            "planned: when all planned epochs will be done, the median forecast. ended: when the job has said that it "
            "has ended.",
            [Query(planned, "planned"), Query(f"{ended} unless {planned}", "ended")],
            unit="dateTimeFromNow",
            empty="not known yet",
            width=3,
        ),
        stat_panel(
            "As car kilometres",
            f"Kilometres that an average new car in the EU, Iceland and Norway drives for the CO2eq so far: "
            f"{GRAMS_PER_KM} g/km, of cars registered in 2023, by WLTP (European Environment Agency, provisional). "
            "What leaves the exhaust only, while a lifecycle intensity counts more.",
            [Query(f"sum({grams}) / {GRAMS_PER_KM}", "")],
            unit="suffix:km",
            empty="no CO2eq known",
            width=3,
            decimals=0,
        ),
    ]


def _forecast() -> list[AnyPanel]:
    linear = "training_job:carbon_forecast_{}:linear"
    return [
        time_panel(
            "CO2eq: so far, forecast at the end, budget",
            "The band is the forecast's 5 to 95 %, as it was at each time: it narrows as epochs end. Over the dashed "
            "budget line: act. By rule alone is the mean of all epochs times the plan, without the service.",
            [
                *_quantiles("training_job_quantile:carbon_forecast_emissions_grams:max"),
                Query(f"max({GRAMS})", "so far"),
                Query(f"max({BUDGET})", "budget"),
                Query(f"max({of_job(linear.format('emissions_grams'))})", "by rule alone"),
            ],
            unit="massg",
            empty=NO_FORECAST,
            band=("5 %", "95 %"),
            dashed=["budget", "by rule alone"],
            colours=LINES,
        ),
        time_panel(
            "Energy: so far and forecast at the end",
            "The same in kilowatt-hours, without PUE. Where energy rises as forecast but CO2eq faster, the grid "
            "has become dirtier.",
            [
                *(
                    Query(kwh(one.expr), one.legend)
                    for one in _quantiles("training_job_quantile:carbon_forecast_energy_joules:max")
                ),
                Query(kwh(f"max({ENERGY})"), "so far"),
                Query(kwh(f"max({of_job(linear.format('energy_joules'))})"), "by rule alone"),
            ],
            unit="kwatth",
            empty=NO_FORECAST,
            band=("5 %", "95 %"),
            dashed=["by rule alone"],
            colours=LINES,
        ),
    ]


def _working() -> list[AnyPanel]:
    rate = f"rate({of_job('carbon_job_energy_joules_total')}[$__rate_interval])"
    held, idle = of_job("training_job:carbon_job_gpus:sum"), of_job("training_job:carbon_gpus_idle:count")
    epoch_end = f"max({of_job('carbon_training_epoch_end_timestamp_seconds')})"
    # An ended job has no next epoch to wait for. What it pushed stays.
    ended = f"max({of_job('carbon_training_finished_timestamp_seconds')}) >= {epoch_end}"
    since = f"time() - {epoch_end} unless ({ended})"
    usual = f"max({of_job('training_job:carbon_training_epoch_seconds:mean')})"
    return [
        stat_panel(
            "Since the last epoch",
            "Time since the last epoch ended, and what an epoch takes usually. Several times the usual with power "
            "drawn: the job is stalled. Look at its log.",
            [Query(since, "since the last"), Query(usual, "usual epoch")],
            unit="s",
            empty="ended, or no epochs",
            width=4,
            height=8,
        ),
        time_panel(
            "GPUs held and idle",
            "Physical GPUs that the job holds, and those under 5 % use over 5 minutes. Idle for long: the input or "
            "a straggler holds it up, or it has more GPUs than it needs. Of GPUs cut into MIG devices none is judged "
            "idle.",
            [Query(f"max({held})", "held"), Query(f"max({idle}) or max({held}) * 0", "idle")],
            unit="none",
            empty="no GPU held",
            width=6,
            colours={"held": BLUE, "idle": ORANGE},
        ),
        time_panel(
            "Power by component",
            "What the job's share of each component draws, on all its nodes.",
            [Query(f"sum by (component) ({rate})", "{{component}}")],
            unit="watt",
            empty=NO_ENERGY,
            width=7,
            stacked=True,
        ),
        time_panel(
            "Power by node",
            "Its 20 nodes of most power at each time. One far below the others waits, or is a straggler.",
            [Query(f"topk(20, sum by (instance) ({rate}))", "{{instance}}")],
            unit="watt",
            empty=NO_ENERGY,
            width=7,
            colours={},
        ),
    ]


def _epochs() -> list[AnyPanel]:
    grouped = 'group!=""'
    seen = last_of_range(select(INFO, CLUSTER, grouped))
    own = f"max by (cluster, group) ({last_of_range(of_job(INFO, grouped))})"
    peers = f"max by (cluster, training_job, group) ({seen} and on (cluster, group) {own})"
    epoch = last_of_range(select("training_job:carbon_epoch_energy_joules:mean", CLUSTER))
    joined = f"max by (cluster, training_job) ({epoch}) * on (cluster, training_job) group_left (group) {peers}"
    energy = last_of_range(select("training_job:carbon_job_energy_joules:sum", CLUSTER))
    total = f"max by (cluster, training_job) ({energy}) and on (cluster, training_job) {peers}"
    return [
        time_panel(
            "Energy per epoch",
            "Mean of all epochs so far, and what the forecast expects of each further one. A mean that climbs: "
            "epochs have become dearer (data, stragglers, clocks).",
            [
                Query(kwh(f"max({EPOCH_ENERGY})"), "mean so far"),
                Query(kwh(f"max({of_job('carbon_forecast_epoch_energy_joules')})"), "expected"),
            ],
            unit="kwatth",
            empty=NO_EPOCHS,
            dashed=["expected"],
            colours={"mean so far": GREEN, "expected": BLUE},
        ),
        table_panel(
            "What comparable runs use",
            "Jobs of the same group, this one included, that ran in the range above: energy per epoch and in all. "
            "The 20 of most energy per epoch. Widen the range for older runs.",
            [
                Column(kwh(f"topk(20, {joined})"), "Energy per epoch", "kwatth"),
                Column(kwh(total), "Energy in all", "kwatth"),
            ],
            labels={"training_job": "Training job", "group": "Group"},
            links={"training_job": TO_JOB},
            empty="no group: set CARBON_TRAINING_GROUP",
            width=12,
        ),
    ]


def _hours_ahead() -> AnyPanel:
    return bar_panel(
        "Expected grid intensity by hours from now",
        "Of the zones of the job's nodes, mean of each span. Shortest bar: the span to run in, or to move the job "
        "to; `carbon-exporter advise` tells the hours.",
        [
            Query(f"{ahead(start, end)} and on (cluster, grid_zone) {ZONES}", f"{{{{grid_zone}}}} {start}-{end} h")
            for start, end in HOURS_AHEAD
        ],
        unit=PER_KWH,
        height=10,
        empty="the job has ended, or no forecast of the grid for its zones",
        width=24,
    )


def _basis() -> list[AnyPanel]:
    coverage = select("carbon_forecast_coverage_ratio", CLUSTER)
    basis = f"max by (cluster, basis, group, emissions_basis) ({of_job('carbon_forecast_info')})"
    source = select("carbon_source_info", CLUSTER)
    return [
        table_panel(
            "What the forecast rests on",
            "Basis: the runs of its group, of the fleet, or what is built in where none have ended (then trust it "
            "less); measured once the job has ended. Epochs that it has seen, its age, and how often the 90 % "
            "interval of that basis held: coverage.",
            [
                Column(
                    f"max by (cluster) ({of_job('carbon_forecast_epochs_observed')})",
                    "Epochs seen",
                    "none",
                ),
                Column(
                    f"time() - max by (cluster) ({of_job('carbon_forecast_timestamp_seconds')})",
                    "Age",
                    "s",
                ),
                Column(basis, "Basis", hidden=True),
                Column(
                    f"{basis} * on (cluster, basis) group_left () max by (cluster, basis) ({coverage})",
                    "Coverage",
                    "percentunit",
                    decimals=0,
                ),
            ],
            labels={
                "basis": "Basis",
                "group": "Group",
                "emissions_basis": "CO2eq basis",
            },
            empty=NO_FORECAST,
            width=14,
        ),
        table_panel(
            "Measured or estimated",
            "Nodes of the job by where each component's joules come from. An estimate is CPU time times thermal "
            "design power.",
            [
                Column(
                    f"count by (component, source) ({source} and on (cluster, instance) {ON_NODES})",
                    "Nodes",
                    "none",
                )
            ],
            labels={"component": "Component", "source": "Source"},
            words={"source": {"estimate": ("estimated", ORANGE)}},
            empty="no node of this job answers",
            width=10,
        ),
    ]


def _further() -> list[AnyPanel]:
    sci = now_or_last(of_job("training_job:carbon_sci_grams_per_epoch:ratio"))
    energy = f"sum by (instance) (last_over_time({of_job('carbon_job_energy_joules_total')}[5m]))"
    return [
        stat_panel(
            "Embodied CO2eq",
            "Its share of what it took to make the hardware, by the time it held it.",
            [Query(f"sum({now_or_last(of_job('training_job:carbon_job_embodied_grams:sum'))})", "")],
            unit="massg",
            empty="not set: see docs/configuration.md",
            width=6,
            height=8,
        ),
        stat_panel(
            "SCI per epoch",
            "Software Carbon Intensity (ISO/IEC 21031): operational and embodied CO2eq for each epoch so far.",
            [Query(f"sum by (basis) ({sci})", "{{basis}}")],
            unit="massg",
            empty="needs embodied CO2eq and epochs",
            width=6,
            height=8,
        ),
        stat_panel(
            "CO2eq by contract",
            "Market-based: by the intensity of your supply contract (intensity.market_grams_per_kilowatt_hour). Beside "
            "the location-based figure, never added.",
            [Query(f"sum(last_over_time({of_job('carbon_job_market_emissions_grams_total')}[5m]))", "")],
            unit="massg",
            empty="ended, or no contract is set",
            width=6,
            height=8,
        ),
        table_panel(
            "Energy by node",
            "The 20 nodes on which the job has used most, running nodes only.",
            [Column(kwh(f"topk(20, {energy})"), "Energy", "kwatth")],
            labels={"instance": "Node"},
            links={"instance": TO_NODE},
            empty=NO_ENERGY,
            width=6,
        ),
    ]
