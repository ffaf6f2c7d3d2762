"""Exporter health: whether the meter is whole, the forecasts hold, and pushes arrive."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards import variables
from dashboards.frame import Row, dashboard
from dashboards.links import TO_JOB
from dashboards.panels import (
    BLUE,
    GREEN,
    ORANGE,
    SKY,
    VERMILLION,
    AnyPanel,
    Column,
    Query,
    bar_panel,
    stat_panel,
    table_panel,
    time_panel,
)
from dashboards.variables import CLUSTER, EXPORTER, select

# Counters of every node are asked about 30 minutes, whatever the range: 60,000 series over a day are too much to read.
BASES = {"group": GREEN, "fleet": BLUE, "builtin": ORANGE}
NO_EXPORTER = "no exporter answers"
NO_SERVICE = "no forecast service"
NO_RUN = "no run has finished yet"


def own(metric: str, *matchers: str) -> str:
    """The series of `metric` of the processes selected."""
    return select(metric, CLUSTER, EXPORTER, *matchers)


def service(metric: str, *matchers: str) -> str:
    """The series of `metric` of the forecast service, whatever node is selected."""
    return select(metric, CLUSTER, *matchers)


def build() -> Dashboard:
    """The page about the meter itself."""
    return dashboard(
        "carbon-health",
        "Carbon / Exporter health",
        "Collectors, sampling gaps, forecast quality, query errors, pushes and what scraping costs.",
        since="now-24h",
        variables=[variables.datasource(), variables.cluster(), variables.exporters()],
        rows=[
            Row("Is the meter whole?", _now()),
            Row("What fails, and where?", _failures()),
            Row("Can the forecasts be trusted?", _forecasts()),
            Row("Do the jobs' pushes arrive?", _pushes()),
            Row("What does the meter cost?", _cost(), folded=True),
        ],
    )


def _now() -> list[AnyPanel]:
    present, success = own("carbon_exporter_build_info"), own("carbon_collector_success")
    gone = f"count({present} offset 1h unless on (cluster, job, instance) {present})"
    gap = f"increase({own('carbon_sampling_gap_seconds_total')}[30m])"
    errors = f"increase({service('carbon_forecast_query_errors_total')}[$__range])"
    return [
        stat_panel(
            "Exporters",
            "Node agents and forecast services that answer, by version, and those that answered an hour ago and no "
            "more. Two versions for long: an update that stopped half way. None: are they scraped?",
            [
                Query(f"count by (version) ({present})", "{{version}}"),
                Query(f"{gone} or count({present}) * 0", "gone"),
            ],
            unit="none",
            empty=NO_EXPORTER,
            width=4,
        ),
        stat_panel(
            "Failing collectors",
            "Collectors whose last run did not read everything: energy goes unmeasured, never guessed. Which, below.",
            [Query(f"count({success} == 0) or count({success}) * 0", "")],
            unit="none",
            empty=NO_EXPORTER,
            width=4,
            bad_from=1,
        ),
        stat_panel(
            "Worst sampling gap",
            "The most seconds of the last 30 minutes that one node sampled too seldom. No joule is lost, but it is "
            "shared more coarsely: is the node out of CPU?",
            [Query(f"max({gap})", "")],
            unit="s",
            empty=NO_EXPORTER,
            width=4,
        ),
        stat_panel(
            "Forecast coverage",
            "How often the 90 % interval held, by basis. Under 90 %: the intervals promise too much.",
            [Query(f"min by (basis) ({service('carbon_forecast_coverage_ratio')})", "{{basis}}")],
            unit="percentunit",
            empty=NO_RUN,
            width=4,
            good_from=0.9,
            decimals=0,
        ),
        stat_panel(
            "Since the last poll",
            "Time since the forecast service had all answers of Prometheus. Minutes: see query errors.",
            [Query(f"time() - max({service('carbon_forecast_last_poll_timestamp_seconds')})", "")],
            unit="s",
            empty=NO_SERVICE,
            width=4,
        ),
        stat_panel(
            "Query errors",
            "Queries of the forecast service in the range above that failed, came back partial, or held values that "
            "are not finite.",
            [Query(f"sum({errors})", "")],
            unit="short",
            empty=NO_SERVICE,
            width=4,
            bad_from=1,
            decimals=0,
        ),
    ]


def _failures() -> list[AnyPanel]:
    success = own("carbon_collector_success")
    failed = f"increase({own('carbon_collector_failures_total')}[30m])"
    since = f"time() - max by (cluster, instance, collector) ({own('carbon_collector_last_success_timestamp_seconds')})"
    failing = f"max by (cluster, instance, collector) ({success} == 0)"
    alerts = select("ALERTS", CLUSTER, 'alertname=~"Carbon.*"', 'alertstate="firing"')
    gap = f"increase({own('carbon_sampling_gap_seconds_total')}[30m])"
    return [
        table_panel(
            "Alerts that fire",
            "Alerts of this program that fire now; each has a runbook. A mark for each thing that it fires for.",
            [Column(f"count by (alertname, severity) ({alerts})", "Firing", "none")],
            labels={"alertname": "Alert", "severity": "Severity"},
            words={
                "severity": {
                    "critical": ("critical", VERMILLION),
                    "warning": ("warning", ORANGE),
                    "info": ("info", SKY),
                }
            },
            empty="none fires",
            width=7,
        ),
        table_panel(
            "Collectors that fail now",
            "Up to 50. `carbon-exporter check` on that host says why, and what to do.",
            [
                Column(
                    f"topk(50, {since} and on (cluster, instance, collector) {failing})", "Since the last success", "s"
                )
            ],
            labels={"instance": "Exporter", "collector": "Collector"},
            empty="none fails, or none has ever succeeded",
            width=7,
        ),
        bar_panel(
            "Failed reads by collector",
            "In the last 30 minutes, of all processes selected. Few: a busy node. Many on one collector: its source.",
            [Query(f"sum by (collector) ({failed}) > 0", "{{collector}}")],
            unit="short",
            empty="none failed",
            width=5,
        ),
        bar_panel(
            "Sampling gaps by node",
            "Seconds of the last 30 minutes, the 10 nodes of most.",
            [Query(f"topk(10, max by (instance) ({gap})) > 0", "{{instance}}")],
            unit="s",
            empty="no gap",
            width=5,
        ),
    ]


def _forecasts() -> list[AnyPanel]:
    outcomes = service("carbon_forecast_jobs")
    warnings = service("carbon_forecast_warnings")
    runs = service("carbon_forecast_history_runs")
    errors = f"rate({service('carbon_forecast_query_errors_total')}[$__rate_interval])"
    return [
        time_panel(
            "Coverage of the 90 % interval",
            "Share of finished runs whose energy fell inside it. The dashed line is what it promises. Under it for "
            "long: jobs differ more than their groups say.",
            [Query(f"min by (basis) ({service('carbon_forecast_coverage_ratio')})", "{{basis}}")],
            unit="percentunit",
            most=1,
            empty=NO_RUN,
            good_from=0.9,
            colours=BASES,
            width=8,
        ),
        time_panel(
            "Error of the forecast",
            "Median of how far the forecasts of energy in total were off, after 1 to 10 epochs.",
            [Query(f"max by (basis) ({service('carbon_forecast_relative_error')})", "{{basis}}")],
            unit="percentunit",
            empty=NO_RUN,
            colours=BASES,
            width=8,
        ),
        time_panel(
            "Failed queries per second",
            "To the PromQL engine, by reason. The forecasts before stay meanwhile, with their age.",
            [Query(f"sum by (reason) ({errors})", "{{reason}}")],
            unit="short",
            empty=NO_SERVICE,
            colours={},
            width=8,
        ),
        bar_panel(
            "Jobs by what became of them",
            "In the last poll: a forecast, or why there is none. Each reason has its cure in docs/forecast.md.",
            [Query(f"max by (outcome) ({outcomes}) > 0", "{{outcome}}")],
            unit="short",
            empty="no job, or no forecast service",
            width=8,
        ),
        bar_panel(
            "Doubtful forecasts by reason",
            "Jobs with a forecast that deserves less trust.",
            [Query(f"max by (warning) ({warnings}) > 0", "{{warning}}")],
            unit="short",
            empty="none",
            width=8,
        ),
        bar_panel(
            "Runs on record",
            "What forecasts learn from: finished (all planned epochs), stopped before, or lost; and those kept in "
            "memory only because the file cannot be written.",
            [
                Query(f"max by (ending) ({runs})", "{{ending}}"),
                Query(f"max({service('carbon_forecast_history_unsaved_runs')})", "not saved"),
            ],
            unit="short",
            empty=NO_SERVICE,
            width=8,
        ),
    ]


def _pushes() -> list[AnyPanel]:
    pushed = service("push_time_seconds", 'training_job!=""')
    age = f"time() - max by (cluster, training_job) ({pushed})"
    renamed = "count(" + service("push_time_seconds", 'exported_job!=""') + ")"
    return [
        stat_panel(
            "Newest push",
            "Time since any job pushed. Long while jobs run: the Pushgateway is down, not scraped, or out of reach.",
            [Query(f"min({age})", "")],
            unit="s",
            empty="nothing was pushed",
            width=6,
            height=8,
        ),
        stat_panel(
            "Pushes with labels not honoured",
            "Groups of the Pushgateway whose label job was renamed exported_job. Set `honor_labels: true` on its "
            "scrape job.",
            [Query(f"{renamed} or count({service('push_time_seconds')}) * 0", "")],
            unit="none",
            empty="nothing was pushed",
            width=6,
            height=8,
            bad_from=1,
        ),
        table_panel(
            "Oldest pushes",
            "The 20 jobs that have not pushed for longest. A Pushgateway never forgets: a dead job's group stays until "
            "somebody deletes it, and is left out of the rules after an hour.",
            [Column(f"topk(20, {age})", "Since the last push", "s")],
            labels={"training_job": "Training job"},
            links={"training_job": TO_JOB},
            empty="nothing was pushed",
            width=12,
        ),
    ]


def _of_ours(metric: str) -> str:
    """What Prometheus says of its scrapes of this program."""
    ours = own("carbon_exporter_build_info")
    return f"max by (cluster, job, instance) ({own(metric)} and on (cluster, job, instance) {ours})"


def _cost() -> list[AnyPanel]:
    duration = f"max by (collector) ({own('carbon_collector_duration_seconds')})"
    return [
        bar_panel(
            "Slowest run by collector",
            "Of all processes selected, now. A collector that takes longer than the sampling interval makes gaps.",
            [Query(duration, "{{collector}}")],
            unit="s",
            empty=NO_EXPORTER,
            width=8,
        ),
        table_panel(
            "Slowest scrapes",
            "Time that Prometheus took for a page, the 20 slowest. The page is finished before it is asked for: "
            "seconds are the network or a starved node.",
            [
                Column(
                    f"topk(20, {_of_ours('scrape_duration_seconds')})",
                    "Duration",
                    "s",
                )
            ],
            labels={"job": "Scrape job", "instance": "Exporter"},
            empty=NO_EXPORTER,
            width=8,
        ),
        table_panel(
            "Largest pages",
            "Samples in a scrape, the 20 largest. It grows with the jobs of a node, and with those of the forecast "
            "service.",
            [
                Column(
                    f"topk(20, {_of_ours('scrape_samples_scraped')})",
                    "Samples",
                    "short",
                )
            ],
            labels={"job": "Scrape job", "instance": "Exporter"},
            empty=NO_EXPORTER,
            width=8,
        ),
    ]
