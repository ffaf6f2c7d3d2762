"""Every query of every dashboard, its variables filled, against real engines that hold the scripted day.

Prometheus and VictoriaMetrics answer each alike, none is empty or ambiguous where it should not be, and what the script
knows is what a panel shows. EMPTY and TRUE are the tables to extend with a panel.
"""

import json
import re
from pathlib import Path

import pytest
from scripted_day import scripted_day
from scripted_day_script import (
    DONE,
    HEALTHY,
    HOSTS,
    IDLING,
    JOBS,
    MARKET_GRAMS,
    MOVED,
    OVER,
    SILENT,
    STALLED,
    intensity,
)

pytestmark = [pytest.mark.real, pytest.mark.slow]
REPOSITORY = Path(__file__).resolve().parent.parent
DASHBOARDS = {
    dashboard["uid"]: dashboard
    for dashboard in (json.loads(file.read_text()) for file in sorted((REPOSITORY / "dashboards").glob("*.json")))
}
ALIKE = 0.02
"""Relative difference of two engines: rate() extrapolates in one and not in the other."""
BUILT_IN = {
    "__rate_interval": "5m",
    "__interval": "1m",
    "__range": "24h",
    "__range_s": "86400",
}
"""What Grafana fills in; a selection is of all, or its default, but for the job."""
SELECTED = {("carbon-training-job", "What comparable runs use"): OVER}
"""(dashboard, panel) -> the job that a reader has selected, where it is not HEALTHY: here one with an ended kin."""

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


def _day_kwh(truth, **wanted):
    return truth.joules(**wanted) / 3.6e6


TRUE = {
    ("carbon-cluster", "Power now"): lambda t: {"": t.power()},
    ("carbon-cluster", "CO2eq per hour"): lambda t: {
        "unspecified": 3600 * (t.grams_per_second(host="west-1") + t.grams_per_second(host="west-3")),
        "lifecycle": 3600 * t.grams_per_second(host="west-2"),
    },
    ("carbon-cluster", "Energy in the range"): lambda t: {"": _day_kwh(t)},
    ("carbon-cluster", "CO2eq in the range"): lambda t: {b: t.grams(basis=b) for b in ("unspecified", "lifecycle")},
    ("carbon-cluster", "Energy without a job"): lambda t: {r: _day_kwh(t, owner=r) for r in ("idle", "system")},
    ("carbon-cluster", "Grid intensity now"): lambda t: {"": 3.6e6 * t.grams_per_second() / t.power()},
    ("carbon-cluster", "Power by component"): lambda t: {c: t.power(component=c) for c in ("cpu", "dram", "gpu")},
    ("carbon-cluster", "Power by team"): lambda t: {
        "perception": t.power(owner=HEALTHY) + t.power(owner=STALLED),
        "language": t.power(owner=OVER) + t.power(owner=IDLING),
        "physics": t.power(owner=MOVED),
        "no team": t.power(owner=SILENT),
    },
    ("carbon-grid", "Intensity over the range"): lambda t: {
        "DE (unspecified, energy_charts)": intensity("DE", t.at),
        "FR (lifecycle, electricity_maps)": intensity("FR", t.at),
    },
    ("carbon-training-job", "Epochs"): lambda t: {"done": t.epochs(JOBS[0]), "planned": JOBS[0].planned},
    ("carbon-training-job", "Energy so far"): lambda t: {"": _day_kwh(t, owner=HEALTHY)},
    ("carbon-training-job", "CO2eq so far"): lambda t: {"mixed": t.grams(owner=HEALTHY)},
    ("carbon-training-job", "Power by node"): lambda t: {
        host: t.power(host=host, owner=HEALTHY) for host in ("west-1", "west-2")
    },
    ("carbon-training-job", "CO2eq by contract"): lambda t: {
        "": sum(h.pue * _day_kwh(t, owner=HEALTHY, host=h.name) * MARKET_GRAMS for h in HOSTS)
    },
}
"""(dashboard, panel) -> what the script knows it to show now, by legend."""
ENDED = {
    "Epochs": lambda t: {"done": 9.0, "planned": 9.0},
    "Energy so far": lambda t: {"": _day_kwh(t, owner=DONE)},
    "CO2eq so far": lambda t: {"lifecycle": t.grams(owner=DONE)},
    "End": lambda t: {"ended": 1000 * next(job for job in JOBS if job.name == DONE).ended(t.end)},
    "Since the last epoch": lambda t: {},
}
"""Panel of the job's page -> what it shows of a job that has ended hours ago."""
EXPRESSIONS = {
    "training_job:carbon_job_energy_joules:sum": lambda t: {j.name: t.joules(owner=j.name) for j in _running()},
    "training_job:carbon_job_power_watts:rate5m": lambda t: {j.name: t.power(owner=j.name) for j in _running()},
    "training_job:carbon_job_emissions_grams:sum": lambda t: {j.name: t.grams(owner=j.name) for j in _running()},
    "training_job:carbon_emissions_budget_grams:max": lambda t: {
        j.name: j.budget_grams for j in JOBS if j.budget_grams is not None
    },
    "training_job:carbon_gpus_idle:count > 0": lambda t: {IDLING: 1.0},
    "max_over_time(training_job:carbon_job_energy_joules:sum[24h])": lambda t: {
        j.name: t.joules(owner=j.name) for j in JOBS
    },
    "training_job:carbon_forecast_energy_joules:linear": lambda t: (
        {
            j.name: t.joules(owner=j.name) / (t.at - j.began(t.end)) * 3600 * j.epoch_hours * j.planned
            for j in (JOBS[0], JOBS[1], JOBS[2], JOBS[6])
        }
        | {STALLED: None}
    ),
}
"""Expressions of one series a job -> what the script knows; None where it knows only that there is a number."""
VALUES = {
    "cluster": {"west"},
    "namespace": {"vision", "nlp", "speech"},
    "team": {"perception", "language", "physics"},
    "training_job": {job.name for job in JOBS},
    "grid_zone": {"DE", "FR"},
}
"""Variable -> what a reader can select, where all dashboards offer the same."""


def _running():
    return [job for job in JOBS if job.name != DONE]


@pytest.fixture(scope="module")
def day(need, nvml_library, tmp_path_factory):
    for program in ("prometheus", "victoria-metrics", "promtool"):
        need(program)
    with scripted_day(tmp_path_factory.mktemp("day"), nvml_library, REPOSITORY / "alerts") as running:
        yield running


def _panels(panels):
    """Those with queries, rows opened."""
    for panel in panels:
        yield from _panels(panel.get("panels", []))
        if panel.get("targets"):
            yield panel


PANELS = [(uid, panel) for uid, dashboard in DASHBOARDS.items() for panel in _panels(dashboard["panels"])]
VARIABLES = [
    (uid, variable)
    for uid, dashboard in DASHBOARDS.items()
    for variable in dashboard["templating"]["list"]
    if variable["type"] == "query"
]


def _filled(uid, text, training_job=HEALTHY):
    """`text` with every variable filled as Grafana would: $name, ${name} and ${name:format}."""
    chosen = {}
    for variable in DASHBOARDS[uid]["templating"]["list"]:
        default = variable.get("current", {}).get("value")
        chosen[variable["name"]] = default if variable["type"] not in ("query", "datasource") else ".*"
    chosen |= {**BUILT_IN, "training_job": re.escape(training_job)}
    return re.sub(r"\$(?:\{(\w+)(?::\w+)?\}|(\w+))", lambda found: chosen[found[1] or found[2]], text)


def _legend(target, labels):
    """What Grafana writes beside a series; None where it takes all its labels."""
    pattern = target.get("legendFormat", "")
    if pattern in ("", "__auto"):
        return None
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), pattern)


def _series(day, url, target, expression):
    """[(labels, {time: value})], now or every five minutes of the day."""
    if target.get("instant"):
        return [(labels, {day.truth.at: value}) for labels, value in day.query(url, expression)]
    return day.query_range(url, expression)


def _by_labels(series):
    named = {tuple(sorted((k, v) for k, v in labels.items() if k != "__name__")): at for labels, at in series}
    assert len(named) == len(series), "two series with the same labels"
    return named


def _assert_alike(ours, theirs):
    """Nearly all points agree: where a series begins or ends the engines may look back differently far."""
    ours, theirs = _by_labels(ours), _by_labels(theirs)
    assert ours.keys() == theirs.keys()
    for labels, points in ours.items():
        common = points.keys() & theirs[labels].keys()
        assert common, labels
        near = [theirs[labels][at] == pytest.approx(points[at], rel=ALIKE, abs=1e-9) for at in common]
        assert sum(near) >= 0.9 * len(near), (labels, [(points[at], theirs[labels][at]) for at in common][:5])


def _ids(cases, name):
    return [f"{uid}: {case[name]}" for uid, case in cases]


@pytest.mark.parametrize(("uid", "panel"), PANELS, ids=_ids(PANELS, "title"))
def test_panel(day, uid, panel):
    shown = []
    for target in panel["targets"]:
        expression = _filled(uid, target["expr"], SELECTED.get((uid, panel["title"]), HEALTHY))
        ours, theirs = (_series(day, url, target, expression) for url in day.urls)
        _assert_alike(ours, theirs)
        shown += [(_legend(target, labels), at) for labels, at in ours]
        why = EMPTY.get((uid, panel["title"]), EMPTY.get((uid, panel["title"], target["refId"])))
        assert ours or why, f"{target['refId']} shows nothing: {target['expr']}"
        assert not ours or not why, f"{target['refId']} shows something, and yet: {why}"
    legends = [legend for legend, _ in shown if legend is not None]
    assert len(legends) == len(set(legends)), sorted(legends)
    expected = TRUE.get((uid, panel["title"]))
    if expected is not None:
        now = {legend or "": at[day.truth.at] for legend, at in shown if day.truth.at in at}
        assert now == pytest.approx(expected(day.truth), rel=0.01)


@pytest.mark.parametrize("title", ENDED)
def test_panel_of_an_ended_job(day, title):
    (panel,) = (panel for uid, panel in PANELS if (uid, panel["title"]) == ("carbon-training-job", title))
    for url in day.urls:
        shown = {}
        for target in panel["targets"]:
            for labels, value in day.query(url, _filled("carbon-training-job", target["expr"], DONE)):
                shown[_legend(target, labels) or ""] = value
        assert shown == pytest.approx(ENDED[title](day.truth), rel=0.01)


@pytest.mark.parametrize(("uid", "variable"), VARIABLES, ids=_ids(VARIABLES, "name"))
def test_variable(day, uid, variable):
    query = variable["query"]["query"] if isinstance(variable["query"], dict) else variable["query"]
    selector, label = re.fullmatch(r"label_values\((?:(.+),\s*)?(\w+)\)", _filled(uid, query)).groups()
    ours, theirs = (set(day.label_values(url, label, selector)) for url in day.urls)
    assert ours == theirs
    assert ours == VALUES.get(variable["name"], ours)
    assert ours


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_is_recorded_of_jobs_is_true(day, expression):
    expected = EXPRESSIONS[expression](day.truth)
    for url in day.urls:
        found = {labels["training_job"]: value for labels, value in day.query(url, expression)}
        assert found.keys() == expected.keys()
        known = {job: value for job, value in expected.items() if value is not None}
        assert {job: found[job] for job in known} == pytest.approx(known, rel=0.01)


def test_the_tables_are_about_panels_that_exist():
    panels = {(uid, panel["title"]) for uid, panel in PANELS}
    assert {key[:2] for key in (*EMPTY, *TRUE, *SELECTED) if key[0] in DASHBOARDS} <= panels
