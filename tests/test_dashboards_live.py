"""Every query of every dashboard, its variables filled, against real engines that hold the scripted day.

Prometheus and VictoriaMetrics answer each alike, none is empty or ambiguous where it should not be, and what the script
knows is what a panel shows. The tables to extend with a panel are in dashboard_truth.py.
"""

import json
import re
from pathlib import Path

import pytest
from dashboard_truth import BOUNDS, EMPTY, OTHERS, SCRAPE_JOB, TOLERANCE, TRUE, UNITS
from scripted_day import scripted_day
from scripted_day_script import DONE, HEALTHY, IDLING, JOBS, OVER, STALLED

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
FIRST = "/^Value( #A)?$/"
"""What Grafana calls a table's first column of numbers, which has no letter where it is the only one."""
IDLING_HOURS = 2.8
"""Since then the job with an idle GPU holds it, less the minutes in which a mean of five minutes falls."""
VALUES = {
    "cluster": {"west"},
    "namespace": {"vision", "nlp", "speech"},
    "team": {"perception", "language", "physics"},
    "training_job": {job.name for job in JOBS},
    "grid_zone": {"DE", "FR"},
    "exporter": set(SCRAPE_JOB),
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
OF_JOB = [panel for uid, panel in PANELS if uid == "carbon-training-job"]
RECORDED = sorted(
    {
        name
        for _, panel in PANELS
        for target in panel["targets"]
        for name in re.findall(r"\b\w+:\w+:\w+\b", target["expr"])
        if not name.startswith("training_job_quantile:")
    }
)
"""Recorded series that panels read, but the forecast's, which begin when its service does."""
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
    """Nearly all points agree: where a series begins or ends, or is scraped more often than before, they may differ."""
    ours, theirs = _by_labels(ours), _by_labels(theirs)
    assert ours.keys() == theirs.keys()
    for labels, points in ours.items():
        common = points.keys() & theirs[labels].keys()
        assert common, labels
        near = [theirs[labels][at] == pytest.approx(points[at], rel=ALIKE, abs=1e-9) for at in common]
        allowed = max(0.1 * len(near), len(near) > 1)
        assert near.count(False) <= allowed, (labels, [(points[at], theirs[labels][at]) for at in common][:5])


def _ids(cases, name):
    return [f"{uid}: {case[name]}" for uid, case in cases]


def _shown(day, uid, panel, training_job):
    """[(query, key, points)] of all queries, on which both engines agree; the key is as in the tables of truth."""
    shown = []
    for target in panel["targets"]:
        expression = _filled(uid, target["expr"], training_job)
        ours, theirs = (_series(day, url, target, expression) for url in day.urls)
        _assert_alike(ours, theirs)
        shown += [(target["refId"], _key(panel, target, labels), at) for labels, at in ours]
    keys = [key for _, key, _ in shown]
    assert len(keys) == len(set(keys)), sorted(keys)
    return shown


def _key(panel, target, labels):
    """What tells a series from the others: its legend, or in a table its query and the labels that are columns."""
    legend = _legend(target, labels)
    if panel["type"] != "table":
        return legend or ""
    columns = [value for name, value in sorted(labels.items()) if name not in ("__name__", "cluster")]
    return " ".join([target["refId"], *columns])


def _assert_true(day, shown, expected):
    now = {key: at[day.truth.at] for _, key, at in shown if day.truth.at in at}
    assert now.keys() == expected.keys()
    wrong = {
        key: (now[key], known) for key, known in expected.items() if known is not None and now[key] != _near(known)
    }
    assert not wrong


def _near(known):
    """A plain number holds to the tolerance of all; other things say themselves what equals them."""
    return pytest.approx(known, rel=TOLERANCE, abs=1e-9) if isinstance(known, int | float) else known


@pytest.mark.parametrize(("uid", "panel"), PANELS, ids=_ids(PANELS, "title"))
def test_panel(day, uid, panel):
    named = uid, panel["title"]
    shown = _shown(day, uid, panel, SELECTED.get(named, HEALTHY))
    if named in EMPTY:
        assert not shown, EMPTY[named]
        return
    assert {query for query, _, _ in shown} == {query for query in _queries(panel) if (*named, query) not in EMPTY}
    expected = BOUNDS[named][1] if named in BOUNDS else TRUE[named]
    _assert_true(day, shown, expected(day.truth))


@pytest.mark.parametrize("panel", OF_JOB, ids=[panel["title"] for panel in OF_JOB])
@pytest.mark.parametrize("job", [job.name for job in JOBS if job.name != HEALTHY])
def test_panel_of_another_job(day, job, panel):
    shown = _shown(day, "carbon-training-job", panel, job)
    if (job, panel["title"]) in OTHERS:
        _assert_true(day, shown, OTHERS[job, panel["title"]](day.truth))


@pytest.mark.parametrize("name", RECORDED)
def test_what_panels_read_is_recorded_all_day(day, name):
    """Without holes, since the first job began, or a node."""
    hours = IDLING_HOURS if "gpus_idle" in name else 9 if name.startswith(("training_job", "namespace_team")) else 23.5
    for url in day.urls:
        [(_, points)] = day.query_range(url, f"count({name})")
        assert len(points) >= 12 * hours


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


def _declared_units():
    """{unit: {(dashboard, panel or column of a table)}}, counts left out."""
    units = {}
    for uid, panel in PANELS:
        fields = panel["fieldConfig"]
        of_column = {
            one["matcher"]["options"]: change["value"]
            for one in fields.get("overrides", [])
            for change in one["properties"]
            if change["id"] == "unit"
        }
        named = {"": fields["defaults"]["unit"]}
        if panel["type"] == "table":
            named = {f" {q}": of_column[FIRST if q == "A" else f"Value #{q}"] for q in _queries(panel)}
        for column, unit in named.items():
            if unit not in ("none", "short"):
                units.setdefault(unit, set()).add((uid, panel["title"] + column))
    return units


def _queries(panel):
    return {target["refId"] for target in panel["targets"]}


def test_units_are_those_of_the_truth():
    known = {unit: {(uid, name) for uid, names in panels.items() for name in names} for unit, panels in UNITS.items()}
    assert _declared_units() == known


def test_every_panel_stands_in_one_table():
    panels = sorted((uid, panel["title"]) for uid, panel in PANELS)
    assert len(panels) == len(set(panels))
    queries = {(uid, panel["title"], query) for uid, panel in PANELS for query in _queries(panel)}
    assert sorted([*TRUE, *BOUNDS, *(named for named in EMPTY if named not in queries)]) == panels
    assert SELECTED.keys() <= set(panels)
    assert {title for _, title in OTHERS} <= {panel["title"] for panel in OF_JOB}
