"""What each panel of the dashboards shows at the end of the scripted day, in the panel's own unit.

A panel stands in one table: TRUE where the script or a server's own page knows its numbers, BOUNDS where only their
order is known, EMPTY where it has nothing to show. A key is the legend; in a table the query and the labels' values, in
the order of the labels' names.
"""

from dataclasses import dataclass, replace

import pytest
from scripted_day_forecast import HISTORY_RUNS
from scripted_day_script import (
    BASIS,
    DAY_SECONDS,
    DONE,
    HEALTHY,
    HOSTS,
    HOUR,
    IDLE_WATTS,
    IDLING,
    JOBS,
    MARKET_GRAMS,
    MOVED,
    OVER,
    PROVIDER,
    SILENT,
    STALLED,
    gpu_uuid,
    intensity,
    on_host,
)

from carbon_exporter import __version__

TOLERANCE = 0.01
"""Relative: rates are of five minutes, and pages a second old."""
TILED = 0.03
"""Relative, of sums of rates over the range for jobs of a few hours: none sees a job's first scrape, and the last rate
is up to five minutes old."""
LATEST_SECONDS = 600
"""Ended jobs are looked for every ten minutes: of running ones, too, the range shows a value up to so old."""
PUSHED_SECONDS = 62
"""A heartbeat a minute, scraped within a second or two."""
POLLED_SECONDS = 10
"""The forecast polls each second, and its page is scraped each second; the rest is for a busy machine."""
KM_GRAMS = 106.6
PRICE = 0.20
"""The dashboard's default, for a kilowatt-hour."""
LIFE_YEARS, GPU_KILOGRAMS, HOST_KILOGRAMS = 5, 150, 1000
"""Embodied: what the nodes of the day are told, and the default of the years."""
MODEL, LIMIT_WATTS = "NVIDIA H100 80GB HBM3", 700.0
"""Of the shim's GPUs."""
COMPONENTS, REASONS = ("cpu", "dram", "gpu"), ("idle", "system")
NODES = [host.name for host in HOSTS]
REPLICAS = ("forecast-1", "forecast-2")
SCRAPE_JOB = dict.fromkeys(NODES, "carbon-exporter") | dict.fromkeys(REPLICAS, "carbon-forecast")
"""Of everything that tells its version."""
ZONES = {host.grid_zone for host in HOSTS}
GPUS = [(host, index) for host in HOSTS for index in range(host.gpus)]
JOB = {job.name: job for job in JOBS}
RUNNING = [job.name for job in JOBS if job.name != DONE]
PUSHING = [job.name for job in JOBS if job.epoch_hours is not None]
HOST_BASIS = {host.name: BASIS[host.grid_zone] for host in HOSTS}
WHOSE = {
    HEALTHY: "vision / perception",
    STALLED: "vision / perception",
    OVER: "nlp / language",
    DONE: "nlp / language",
    IDLING: "speech / language",
    MOVED: "no namespace / physics",
    SILENT: "no namespace / no team",
}
AHEAD = ((0, 1), (1, 3), (3, 6), (6, 12), (12, 24), (24, 48), (48, 72), (72, 96))


@dataclass(frozen=True)
class Between:
    """A number from `low` to `high`."""

    low: float
    high: float

    def __eq__(self, number):
        return self.low <= number <= self.high

    __hash__ = None


def kwh(truth, **wanted):
    return truth.joules(**wanted) / 3.6e6


def hourly(truth, **wanted):
    return 3600 * truth.grams_per_second(**wanted)


def unused(truth):
    return sum(truth.joules(owner=reason) for reason in REASONS) / truth.joules()


def reasons_and_bases():
    return [(reason, basis) for reason in REASONS for basis in BASIS.values()]


def owner_basis(name):
    """What the grams of a job count: that of its nodes' zones."""
    bases = {HOST_BASIS[stint.host] for stint in JOB[name].stints}
    return bases.pop() if len(bases) == 1 else "mixed"


def sums_by_group(jobs, number):
    """{whose: sum of number(job)}."""
    sums = {}
    for job in jobs:
        sums[WHOSE[job]] = sums.get(WHOSE[job], 0.0) + number(job)
    return sums


def grams_by_group(truth):
    """By namespace, team and basis, in the range."""
    return {
        f"{whose} ({basis})": pytest.approx(grams, rel=TILED)
        for basis in set(BASIS.values())
        for whose, grams in sums_by_group(JOB, lambda job, b=basis: truth.grams(owner=job, basis=b)).items()
        if grams
    }


def at_the_end(truth, name):
    """The truth when a job that goes on as it did has done the planned epochs."""
    job = JOB[name]
    return replace(truth, at=job.began(truth.end) + HOUR * job.epoch_hours * job.planned)


def planned_end(truth, name=HEALTHY):
    """Milliseconds, to the minute."""
    return {"planned": pytest.approx(1000 * at_the_end(truth, name).at, abs=60e3)}


def grams_at_the_end(truth, name=HEALTHY):
    return at_the_end(truth, name).grams(owner=name)


def kwh_at_the_end(truth, name=HEALTHY):
    return kwh(at_the_end(truth, name), owner=name)


def band(median, width=0.1):
    """The forecast's: the median is near the truth, the rest on its sides, and not far away."""
    return {
        "5 %": Between(median * (1 - width), median),
        "median": pytest.approx(median, rel=0.02),
        "95 %": Between(median, median * (1 + width)),
    }


def by_rule_alone(truth, name=HEALTHY):
    """All joules to come at what the job's joules have cost in the last five minutes."""
    to_come = 3.6e6 * kwh_at_the_end(truth, name) - truth.joules(owner=name)
    lately = truth.at - 300
    return truth.grams(owner=name) + to_come * truth.grams(lately, owner=name) / truth.joules(lately, owner=name)


def mean_intensity(grid_zone, since, until):
    """Of the script, by minutes; both grids repeat their day, which the forecast expects beyond what it is told."""
    minutes = range(int(since), int(until), 60)
    return sum(intensity(grid_zone, at) for at in minutes) / len(minutes)


def expected_intensity(truth):
    means = {
        f"{zone} {begin}-{end} h": mean_intensity(zone, truth.at + begin * HOUR, truth.at + end * HOUR)
        for zone in ZONES
        for begin, end in AHEAD
    }
    # The outlook ends 96 hours after the running hour began: what is missing of the last hour counts as the mean.
    return means | {f"{zone} 72-96 h": pytest.approx(means[f"{zone} 72-96 h"], rel=0.02) for zone in ZONES}


def last_of_range(number, per_second):
    return Between(number - LATEST_SECONDS * per_second - TOLERANCE * number, number * (1 + TOLERANCE))


def range_grams(truth, name):
    per_second = truth.grams_per_second(owner=name)
    return last_of_range(truth.grams(owner=name), per_second)


def epoch_kwh(name):
    """Of a job of steady power."""
    return JOB[name].epoch_hours * sum(s.cpu_watts * 1.1 + sum(s.gpus.values()) for s in JOB[name].stints) / 1000


def gpu_watts(host, index, end, at):
    held = [stint.gpus[index] for _, stint in on_host(host, end, at) if index in stint.gpus]
    return held[0] if held else IDLE_WATTS["gpu"]


def gpu_kwh(truth, host, index):
    """By minutes."""
    begin = truth.end - DAY_SECONDS
    minutes = int((truth.at - begin) / 60)
    return sum(gpu_watts(host, index, truth.end, begin + 60 * n) for n in range(minutes)) * 60 / 3.6e6


def gpu_holders(truth, host):
    """{index: job} now."""
    return {index: job.name for job, stint in on_host(host, truth.end, truth.at) for index in stint.gpus}


def busy(host, index, truth):
    return 0.9 if gpu_watts(host, index, truth.end, truth.at) > IDLE_WATTS["gpu"] else 0.0


def gpu_table(truth):
    rows = {}
    for host, index in GPUS:
        uuid = gpu_uuid(host.name, index)
        rows |= {
            f"B {host.name} {uuid}": gpu_watts(host, index, truth.end, truth.at),
            f"C {host.name} {uuid}": LIMIT_WATTS,
            f"D {host.name} {uuid}": busy(host, index, truth),
            f"E {host.name} {uuid}": gpu_kwh(truth, host, index),
            f"F {index} {host.name} {MODEL} {uuid}": 1.0,
        }
        holder = gpu_holders(truth, host).get(index)
        if holder is not None:
            rows[f"A {host.name} {holder} {uuid}"] = 1.0
    return rows


def components(host):
    return COMPONENTS if host.gpus else COMPONENTS[:2]


def idle_devices():
    rows = {}
    for host in HOSTS:
        rows[f"A cpu package-0 {host.name}"] = IDLE_WATTS["cpu"]
        rows[f"A dram dram-0 {host.name}"] = IDLE_WATTS["dram"]
    return rows | {f"A gpu {gpu_uuid(h.name, i)} {h.name}": IDLE_WATTS["gpu"] for h, i in GPUS}


SOURCES = {"cpu": "rapl", "dram": "rapl", "gpu": "nvml counter"}
GPU_HOSTS = [host.name for host in HOSTS if host.gpus]
COLUMNS = {"B": "gpu", "C": "cpu", "D": "dram"}


def top_jobs(truth):
    """Power with the labels of the job, energy, grams, and the forecast's median: of a stalled job none is true."""
    labels = {
        HEALTHY: "vision perception vision/resnet",
        STALLED: "vision perception vision/detector",
        OVER: "nlp language nlp/bert",
        IDLING: "speech language speech/whisper",
        MOVED: "physics physics-lattice noether",
        SILENT: "tokenizer shannon",
    }
    rows = {f"A {labels[name]}": truth.power(owner=name) for name in RUNNING}
    rows |= {f"B {name}": kwh(truth, owner=name) for name in RUNNING}
    rows |= {f"C {owner_basis(name)} {name}": truth.grams(owner=name) for name in RUNNING}
    steady = (HEALTHY, OVER, MOVED, IDLING)
    rows |= {f"D {name}": pytest.approx(grams_at_the_end(truth, name), rel=0.03) for name in steady}
    return rows | {f"D {STALLED}": None}


def top_nodes(truth):
    rows = {f"A {node}": truth.power(host=node) for node in NODES}
    for column, component in COLUMNS.items():
        rows |= {
            f"{column} {h.name}": truth.power(host=h.name, component=component)
            for h in HOSTS
            if h.gpus or component != "gpu"
        }
    return rows | {f"E {node} rapl": 1.0 for node in NODES} | {f"F {node} {node}": 1.0 for node in NODES}


def replicas(truth, name, by, pick=max):
    """{label: number} of the forecast service's own pages: of both replicas the one that the panel takes."""
    pages = [truth.told(target, name, by) for target in REPLICAS]
    return {label: pick(page[label] for page in pages) for label in pages[0]}


def ratios(truth, name, pick):
    return {basis: pytest.approx(n, abs=0.02) for basis, n in replicas(truth, name, "basis", pick).items()}


def ages(truth, name="carbon_intensity_data_timestamp_seconds"):
    """{zone: seconds} since the newest time that nodes and forecast tell."""
    told = [truth.told(target, name, "grid_zone") for target in (*NODES, *REPLICAS)]
    newest = {zone: max(page.get(zone, 0.0) for page in told) for zone in ZONES}
    return {zone: pytest.approx(truth.at - seconds, abs=2) for zone, seconds in newest.items()}


def intensities(truth, form):
    return {form.format(zone=z, basis=BASIS[z], provider=PROVIDER[z]): intensity(z, truth.at) for z in ZONES}


def embodied_grams(truth, name=HEALTHY):
    """Of a job with one of three GPUs on each host, and so a third of it. That others without a GPU take a little of
    the host for some minutes is within the tolerance."""
    job = JOB[name]
    seconds = min(truth.at, job.ended(truth.end)) - job.began(truth.end)
    per_second = 1000 / (LIFE_YEARS * 365.25 * 86400)
    return len(job.stints) * (GPU_KILOGRAMS + HOST_KILOGRAMS / 3) * per_second * seconds


def sci(truth, name=HEALTHY):
    return {owner_basis(name): (truth.grams(owner=name) + embodied_grams(truth, name)) / truth.epochs(JOB[name])}


def market_grams(truth, name=HEALTHY):
    return sum(h.pue * kwh(truth, owner=name, host=h.name) * MARKET_GRAMS for h in HOSTS)


def since_epoch(truth, name=HEALTHY):
    job = JOB[name]
    ended = job.began(truth.end) + truth.epochs(job) * HOUR * job.epoch_hours
    return {"since the last": pytest.approx(truth.at - ended, abs=2), "usual epoch": HOUR * job.epoch_hours}


def rests_on(truth):
    coverage = replicas(truth, "carbon_forecast_coverage_ratio", "basis", min)["builtin"]
    return {
        "A": truth.epochs(JOB[HEALTHY]),
        "B": Between(0, POLLED_SECONDS),
        "C builtin mixed resnet50": 1.0,
        "D builtin mixed resnet50": pytest.approx(coverage, abs=0.02),
    }


def pushed_ago(truth):
    """All jobs have begun at full hours before the day's end, and push at full minutes since then."""
    seconds = (truth.at - truth.end) % 60
    return seconds if seconds > 2 else Between(0, PUSHED_SECONDS)


def oldest_pushes(truth):
    recent = {f"A {name}": pushed_ago(truth) for name in PUSHING if name != DONE}
    return {f"A {DONE}": pytest.approx(truth.at - JOB[DONE].ended(truth.end), abs=2)} | recent


TRUE = {
    ("carbon-cluster", "Power now"): lambda t: {"": t.power()},
    ("carbon-cluster", "CO2eq per hour"): lambda t: {
        "unspecified": hourly(t, host="west-1") + hourly(t, host="west-3"),
        "lifecycle": hourly(t, host="west-2"),
    },
    ("carbon-cluster", "Energy in the range"): lambda t: {"": kwh(t)},
    ("carbon-cluster", "CO2eq in the range"): lambda t: {b: t.grams(basis=b) for b in BASIS.values()},
    ("carbon-cluster", "Not used by any job"): lambda t: {"": unused(t)},
    ("carbon-cluster", "Grid intensity now"): lambda t: {"": 3.6e6 * t.grams_per_second() / t.power()},
    ("carbon-cluster", "Top 20 jobs by power"): top_jobs,
    ("carbon-cluster", "Power now by namespace and team"): lambda t: sums_by_group(
        RUNNING, lambda job: t.power(owner=job)
    ),
    ("carbon-cluster", "CO2eq in the range by namespace and team"): grams_by_group,
    ("carbon-cluster", "Power by team"): lambda t: {
        "perception": t.power(owner=HEALTHY) + t.power(owner=STALLED),
        "language": t.power(owner=OVER) + t.power(owner=IDLING),
        "physics": t.power(owner=MOVED),
        "no team": t.power(owner=SILENT),
    },
    ("carbon-cluster", "Energy without a job"): lambda t: {r: kwh(t, owner=r) for r in REASONS},
    ("carbon-cluster", "CO2eq without a job"): lambda t: {
        f"{r} ({b})": t.grams(owner=r, basis=b) for r, b in reasons_and_bases()
    },
    ("carbon-cluster", "Money without a job"): lambda t: {r: PRICE * kwh(t, owner=r) for r in REASONS},
    ("carbon-cluster", "Power without a job"): lambda t: {
        f"{c} {r}": t.power(component=c, owner=r) for c in COMPONENTS for r in REASONS
    },
    ("carbon-cluster", "Power by component"): lambda t: {c: t.power(component=c) for c in COMPONENTS},
    ("carbon-cluster", "CO2eq per hour by grid zone"): lambda t: {
        "DE (unspecified)": hourly(t, host="west-1") + hourly(t, host="west-3"),
        "FR (lifecycle)": hourly(t, host="west-2"),
    },
    ("carbon-cluster", "Measured or estimated"): lambda t: {
        f"A {c} {source}": len(GPU_HOSTS if c == "gpu" else HOSTS) for c, source in SOURCES.items()
    },
    ("carbon-cluster", "Intensity by grid zone"): lambda t: intensities(t, "{zone} ({basis}, {provider})"),
    ("carbon-cluster", "How old is it, and is it a stand-in?"): lambda t: (
        {f"A {z}": age for z, age in ages(t).items()} | {f"B {z}": 0.0 for z in ZONES}
    ),
    ("carbon-cluster", "Top 20 jobs of the range"): lambda t: {
        f"A {owner_basis(name)} {name}": range_grams(t, name) for name in JOB
    },
    ("carbon-grid", "Cleanest zone now"): lambda t: {"FR (lifecycle)": intensity("FR", t.at)},
    ("carbon-grid", "Dirtiest zone now"): lambda t: {"DE (unspecified)": intensity("DE", t.at)},
    ("carbon-grid", "Zones on a fallback"): lambda t: {"": 0.0},
    ("carbon-grid", "Oldest figure"): lambda t: {"": max(ages(t).values(), key=lambda age: age.expected)},
    ("carbon-grid", "Since the last good answer"): lambda t: {
        f"A {z} {PROVIDER[z]}": age for z, age in ages(t, "carbon_intensity_last_success_timestamp_seconds").items()
    },
    ("carbon-grid", "Zones"): lambda t: (
        intensities(t, "A {basis} {zone} {provider}")
        | {f"B {z}": age for z, age in ages(t).items()}
        | {f"{column} {z}": 0.0 for column in "CD" for z in ZONES}
    ),
    ("carbon-grid", "Intensity over the range"): lambda t: intensities(t, "{zone} ({basis}, {provider})"),
    ("carbon-grid", "Expected intensity by hours from now"): expected_intensity,
    ("carbon-grid", "Fallback level over the range"): lambda t: dict.fromkeys(ZONES, 0.0),
    ("carbon-health", "Exporters"): lambda t: {__version__: len(SCRAPE_JOB), "gone": 0.0},
    ("carbon-health", "Failing collectors"): lambda t: {"": 0.0},
    ("carbon-health", "Worst sampling gap"): lambda t: {"": 0.0},
    ("carbon-health", "Forecast coverage"): lambda t: ratios(t, "carbon_forecast_coverage_ratio", min),
    ("carbon-health", "Query errors"): lambda t: {"": 0.0},
    ("carbon-health", "Coverage of the 90 % interval"): lambda t: ratios(t, "carbon_forecast_coverage_ratio", min),
    ("carbon-health", "Error of the forecast"): lambda t: ratios(t, "carbon_forecast_relative_error", max),
    ("carbon-health", "Failed queries per second"): lambda t: dict.fromkeys(
        replicas(t, "carbon_forecast_query_errors_total", "reason"), 0.0
    ),
    ("carbon-health", "Jobs by what became of them"): lambda t: {
        "forecast": len(PUSHING) - 1,
        "finished": 1,
        "no_epochs": len(JOBS) - len(PUSHING),
    },
    ("carbon-health", "Doubtful forecasts by reason"): lambda t: {
        warning: jobs for warning, jobs in replicas(t, "carbon_forecast_warnings", "warning").items() if jobs
    },
    ("carbon-health", "Runs on record"): lambda t: {"finished": HISTORY_RUNS, "not saved": 0.0},
    ("carbon-health", "Pushes with labels not honoured"): lambda t: {"": 0.0},
    ("carbon-health", "Newest push"): lambda t: {"": pushed_ago(t)},
    ("carbon-health", "Oldest pushes"): oldest_pushes,
    ("carbon-health", "Largest pages"): lambda t: {
        f"A {name} {job}": len(t.pages[name]) for name, job in SCRAPE_JOB.items()
    },
    ("carbon-nodes", "Nodes with power"): lambda t: {"": len(HOSTS)},
    ("carbon-nodes", "Estimated nodes"): lambda t: {"": 0.0},
    ("carbon-nodes", "Power of all nodes"): lambda t: {c: t.power(component=c) for c in COMPONENTS},
    ("carbon-nodes", "Top 20 nodes by power"): top_nodes,
    ("carbon-nodes", "Power by component"): lambda t: {
        f"{h.name} {c}": t.power(host=h.name, component=c) for h in HOSTS for c in components(h)
    },
    ("carbon-nodes", "Energy in the range"): lambda t: {node: kwh(t, host=node) for node in NODES},
    ("carbon-nodes", "Measured or estimated"): lambda t: {
        f"A {c} {h.name} {SOURCES[c]}": 1.0 for h in HOSTS for c in components(h)
    },
    ("carbon-nodes", "Power by GPU"): lambda t: {f"{h.name} GPU {i}": gpu_watts(h, i, t.end, t.at) for h, i in GPUS},
    ("carbon-nodes", "Utilisation by GPU"): lambda t: {f"{h.name} GPU {i}": busy(h, i, t) for h, i in GPUS},
    ("carbon-nodes", "GPUs of the nodes chosen"): gpu_table,
    ("carbon-nodes", "Power by job, and without one"): lambda t: {
        owner: t.power(owner=owner) for owner in (*RUNNING, *REASONS)
    },
    ("carbon-nodes", "Idle power of devices"): lambda t: idle_devices(),
    ("carbon-nodes", "Shared equally"): lambda t: {"gpu": 0.0},
    ("carbon-nodes", "RAPL by package and domain"): lambda t: {
        f"{node} package 0  {domain}": t.power(host=node, component=c)
        for node in NODES
        for domain, c in (("package", "cpu"), ("dram", "dram"))
    },
    ("carbon-training-job", "Epochs"): lambda t: {"done": t.epochs(JOB[HEALTHY]), "planned": JOB[HEALTHY].planned},
    ("carbon-training-job", "Energy so far"): lambda t: {"": kwh(t, owner=HEALTHY)},
    ("carbon-training-job", "CO2eq so far"): lambda t: {"mixed": t.grams(owner=HEALTHY)},
    ("carbon-training-job", "CO2eq at the end"): lambda t: band(grams_at_the_end(t)),
    ("carbon-training-job", "Share of the budget"): lambda t: {
        "so far": t.grams(owner=HEALTHY) / JOB[HEALTHY].budget_grams,
        "at the end": pytest.approx(grams_at_the_end(t) / JOB[HEALTHY].budget_grams, rel=0.02),
    },
    ("carbon-training-job", "End"): planned_end,
    ("carbon-training-job", "As car kilometres"): lambda t: {"": t.grams(owner=HEALTHY) / KM_GRAMS},
    ("carbon-training-job", "CO2eq: so far, forecast at the end, budget"): lambda t: (
        band(grams_at_the_end(t))
        | {"so far": t.grams(owner=HEALTHY), "budget": JOB[HEALTHY].budget_grams, "by rule alone": by_rule_alone(t)}
    ),
    ("carbon-training-job", "Energy: so far and forecast at the end"): lambda t: (
        band(kwh_at_the_end(t)) | {"so far": kwh(t, owner=HEALTHY), "by rule alone": kwh_at_the_end(t)}
    ),
    ("carbon-training-job", "Since the last epoch"): since_epoch,
    ("carbon-training-job", "GPUs held and idle"): lambda t: {"held": 2.0, "idle": 0.0},
    ("carbon-training-job", "Power by component"): lambda t: {
        c: t.power(owner=HEALTHY, component=c) for c in COMPONENTS
    },
    ("carbon-training-job", "Power by node"): lambda t: {
        host: t.power(host=host, owner=HEALTHY) for host in ("west-1", "west-2")
    },
    ("carbon-training-job", "Energy per epoch"): lambda t: {
        "mean so far": epoch_kwh(HEALTHY),
        "expected": epoch_kwh(HEALTHY),
    },
    ("carbon-training-job", "What comparable runs use"): lambda t: (
        {f"A bert {name}": epoch_kwh(name) for name in (OVER, DONE)}
        | {f"B {name}": last_of_range(kwh(t, owner=name), t.power(owner=name) / 3.6e6) for name in (OVER, DONE)}
    ),
    ("carbon-training-job", "Expected grid intensity by hours from now"): expected_intensity,
    ("carbon-training-job", "What the forecast rests on"): rests_on,
    ("carbon-training-job", "Measured or estimated"): lambda t: {f"A {c} {source}": 2 for c, source in SOURCES.items()},
    ("carbon-training-job", "Embodied CO2eq"): lambda t: {"": embodied_grams(t)},
    ("carbon-training-job", "SCI per epoch"): sci,
    ("carbon-training-job", "CO2eq by contract"): lambda t: {"": market_grams(t)},
    ("carbon-training-job", "Energy by node"): lambda t: {
        f"A {node}": kwh(t, owner=HEALTHY, host=node) for node in ("west-1", "west-2")
    },
}
"""(dashboard, panel) -> what it shows now; a cell may be a Between, or None where only that there is one is known."""


BOUNDS = {
    ("carbon-health", "Since the last poll"): (
        "the service polls each second",
        lambda t: {"": Between(0, POLLED_SECONDS)},
    ),
    ("carbon-health", "Slowest run by collector"): (
        "as fast as this machine: seconds, and less than one",
        lambda t: {c: Between(1e-7, 1) for c in ("host_cpu", "intensity", "kubernetes", "ledger", "nvml", "rapl")},
    ),
    ("carbon-health", "Slowest scrapes"): (
        "as fast as this machine: seconds, and less than the interval of one",
        lambda t: {f"A {name} {job}": Between(1e-5, 1) for name, job in SCRAPE_JOB.items()},
    ),
}
"""(dashboard, panel) -> why no more is known, and what it shows now."""

EMPTY = {
    ("carbon-grid", "Questions without a usable answer"): "the providers answered all day",
    ("carbon-grid", "Marginal intensity"): "no provider of marginal intensity is asked",
    ("carbon-health", "Alerts that fire"): "none has been pending for long enough",
    ("carbon-health", "Collectors that fail now"): "none fails",
    ("carbon-health", "Failed reads by collector"): "none failed",
    ("carbon-health", "Sampling gaps by node"): "no tick came late",
    ("carbon-nodes", "Estimated"): "all nodes have RAPL",
    ("carbon-training-job", "End", "B"): "it has not ended",
}
"""(dashboard, panel), or with one of its queries -> why it has nothing to show on this day."""

UNITS = {
    "watt": {
        "carbon-cluster": (
            "Power now",
            "Top 20 jobs by power A",
            "Power now by namespace and team",
            "Power by team",
            "Power without a job",
            "Power by component",
        ),
        "carbon-nodes": (
            "Power of all nodes",
            "Top 20 nodes by power A",
            "Top 20 nodes by power B",
            "Top 20 nodes by power C",
            "Top 20 nodes by power D",
            "Power by component",
            "Power by GPU",
            "GPUs of the nodes chosen B",
            "GPUs of the nodes chosen C",
            "Power by job, and without one",
            "Idle power of devices A",
            "RAPL by package and domain",
            "Estimated",
        ),
        "carbon-training-job": ("Power by component", "Power by node"),
    },
    "massg": {
        "carbon-cluster": (
            "CO2eq per hour",
            "CO2eq in the range",
            "Top 20 jobs by power C",
            "Top 20 jobs by power D",
            "CO2eq in the range by namespace and team",
            "CO2eq without a job",
            "CO2eq per hour by grid zone",
            "Top 20 jobs of the range A",
        ),
        "carbon-training-job": (
            "CO2eq so far",
            "CO2eq at the end",
            "CO2eq: so far, forecast at the end, budget",
            "Embodied CO2eq",
            "SCI per epoch",
            "CO2eq by contract",
        ),
    },
    "kwatth": {
        "carbon-cluster": ("Energy in the range", "Top 20 jobs by power B", "Energy without a job"),
        "carbon-nodes": ("Energy in the range", "GPUs of the nodes chosen E"),
        "carbon-training-job": (
            "Energy so far",
            "Energy: so far and forecast at the end",
            "Energy per epoch",
            "What comparable runs use A",
            "What comparable runs use B",
            "Energy by node A",
        ),
    },
    "percentunit": {
        "carbon-cluster": ("Not used by any job",),
        "carbon-health": ("Forecast coverage", "Coverage of the 90 % interval", "Error of the forecast"),
        "carbon-nodes": ("Utilisation by GPU", "GPUs of the nodes chosen D", "Shared equally"),
        "carbon-training-job": ("Share of the budget", "What the forecast rests on D"),
    },
    "suffix:g/kWh": {
        "carbon-cluster": ("Grid intensity now", "Intensity by grid zone"),
        "carbon-grid": (
            "Cleanest zone now",
            "Dirtiest zone now",
            "Zones A",
            "Intensity over the range",
            "Expected intensity by hours from now",
            "Marginal intensity",
        ),
        "carbon-training-job": ("Expected grid intensity by hours from now",),
    },
    "s": {
        "carbon-cluster": ("How old is it, and is it a stand-in? A",),
        "carbon-grid": ("Oldest figure", "Zones B", "Since the last good answer A"),
        "carbon-health": (
            "Worst sampling gap",
            "Since the last poll",
            "Collectors that fail now A",
            "Sampling gaps by node",
            "Newest push",
            "Oldest pushes A",
            "Slowest run by collector",
            "Slowest scrapes A",
        ),
        "carbon-training-job": ("Since the last epoch", "What the forecast rests on B"),
    },
    "dateTimeFromNow": {"carbon-training-job": ("End",)},
    "suffix:km": {"carbon-training-job": ("As car kilometres",)},
}
"""Unit -> dashboard -> its panels, or a table's columns by query, that the numbers above are in; others are counts."""

OTHERS = {
    (DONE, "Epochs"): lambda t: {"done": 9.0, "planned": 9.0},
    (DONE, "CO2eq at the end"): lambda t: {},
    (DONE, "Share of the budget"): lambda t: {},
    (DONE, "End"): lambda t: {"ended": pytest.approx(1000 * JOB[DONE].ended(t.end), abs=1)},
    (DONE, "Since the last epoch"): lambda t: {},
    (DONE, "Embodied CO2eq"): lambda t: {"": embodied_grams(t, DONE)},
    (DONE, "SCI per epoch"): lambda t: sci(t, DONE),
    (DONE, "CO2eq by contract"): lambda t: {},
    (SILENT, "Epochs"): lambda t: {},
    (SILENT, "CO2eq at the end"): lambda t: {},
    (SILENT, "End"): lambda t: {},
    (SILENT, "Since the last epoch"): lambda t: {},
    (STALLED, "Epochs"): lambda t: {"done": 12.0, "planned": 40.0},
    (STALLED, "Since the last epoch"): lambda t: since_epoch(t, STALLED),
    (STALLED, "GPUs held and idle"): lambda t: {"held": 1.0, "idle": 0.0},
    (IDLING, "GPUs held and idle"): lambda t: {"held": 1.0, "idle": 1.0},
    (MOVED, "GPUs held and idle"): lambda t: {"held": 0.0, "idle": 0.0},
    (MOVED, "Power by node"): lambda t: {"west-1": t.power(owner=MOVED)},
    (MOVED, "End"): lambda t: planned_end(t, MOVED),
    (MOVED, "CO2eq at the end"): lambda t: band(grams_at_the_end(t, MOVED)),
    (OVER, "Share of the budget"): lambda t: {
        "so far": t.grams(owner=OVER) / JOB[OVER].budget_grams,
        "at the end": pytest.approx(grams_at_the_end(t, OVER) / JOB[OVER].budget_grams, rel=0.03),
    },
}
"""(job, panel of the training-job page) -> what it shows when that job is selected; {} is nothing."""
for _name in JOB:
    OTHERS[_name, "Energy so far"] = lambda t, name=_name: {"": kwh(t, owner=name)}
    OTHERS[_name, "CO2eq so far"] = lambda t, name=_name: {owner_basis(name): t.grams(owner=name)}
    OTHERS[_name, "As car kilometres"] = lambda t, name=_name: {"": t.grams(owner=name) / KM_GRAMS}
