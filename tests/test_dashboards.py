"""The dashboards: what is checked in is what the code builds, and holds to the rules of good dashboards.

The rules are those of Grafana's dashboard-linter and ours, in `problems`; broken copies prove that each of them can
fail.
"""

import copy
import importlib
import json
import re
import subprocess
from pathlib import Path

import promql_parser
import pytest
import yaml

from carbon_exporter import metrics

REPOSITORY = Path(__file__).resolve().parent.parent
FILES = {path.stem: path for path in sorted((REPOSITORY / "dashboards").glob("*.json"))}
DASHBOARDS = {uid: json.loads(path.read_text()) for uid, path in FILES.items()}
UIDS = ["carbon-cluster", "carbon-grid", "carbon-health", "carbon-nodes", "carbon-training-job"]
PANEL_TYPES = {"stat", "timeseries", "table", "bargauge", "state-timeline"}
UNITS = {
    "watt", "kwatth", "massg", "suffix:g/kWh", "suffix:km", "percentunit", "s", "dateTimeFromNow", "none", "short",
    "string",
}  # fmt: skip
COUNTED = {"none", "short"}
TARGET_LABELS = {"instance", "job", "cluster", "exported_job"}
SELECTED = {"cluster", "namespace", "team", "training_job", "instance", "exporter", "grid_zone"}

# Series that alerts/recording.yaml records: name -> labels besides cluster.
RECORDED = {
    "instance_component:carbon_power_watts:rate5m": {"instance", "component"},
    "component:carbon_power_watts:rate5m": {"component"},
    "component_reason:carbon_unattributed_power_watts:rate5m": {"component", "reason"},
    "grid_zone_provider_signal_basis:carbon_intensity_grams_per_kilowatt_hour:max": {
        "grid_zone",
        "provider",
        "signal",
        "basis",
    },
    "grid_zone:carbon_intensity_fallback_level:max": {"grid_zone"},
    "grid_zone_basis:carbon_emissions_grams_per_second:rate5m": {"grid_zone", "basis"},
    "reason_basis:carbon_unattributed_emissions_grams_per_second:rate5m": {"reason", "basis"},
    "training_job:carbon_job_info:team": {"training_job", "namespace", "team", "group", "user"},
    "training_job:carbon_job_power_watts:rate5m": {"training_job"},
    "namespace_team:carbon_job_power_watts:rate5m": {"namespace", "team"},
    "namespace_team_basis:carbon_job_emissions_grams_per_second:rate5m": {"namespace", "team", "basis"},
    "training_job:carbon_job_energy_joules:sum": {"training_job"},
    "training_job:carbon_job_emissions_grams:sum": {"training_job", "basis"},
    "training_job:carbon_job_embodied_grams:sum": {"training_job"},
    "training_job:carbon_job_gpus:sum": {"training_job"},
    "training_job:carbon_gpus_idle:count": {"training_job"},
    "training_job:carbon_training_epochs_completed:max": {"training_job"},
    "training_job:carbon_training_epochs_planned:max": {"training_job"},
    "training_job:carbon_training_epoch_seconds:mean": {"training_job"},
    "training_job:carbon_epoch_energy_joules:mean": {"training_job"},
    "training_job:carbon_sci_grams_per_epoch:ratio": {"training_job", "basis"},
    "training_job:carbon_emissions_budget_grams:max": {"training_job"},
    "training_job_quantile:carbon_forecast_energy_joules:max": {"training_job", "quantile"},
    "training_job_quantile:carbon_forecast_emissions_grams:max": {"training_job", "quantile"},
    "training_job_quantile:carbon_forecast_end_timestamp_seconds:max": {"training_job", "quantile"},
    "training_job:carbon_forecast_energy_joules:linear": {"training_job"},
    "training_job:carbon_forecast_emissions_grams:linear": {"training_job", "basis"},
}
OTHERS = {
    metrics.PUSH_TIME: {"training_job"},
    "ALERTS": {"alertname", "alertstate", "severity"},
    "scrape_duration_seconds": set(),
    "scrape_samples_scraped": set(),
}
EXPORTED = {metric.name: set(metric.labels) for metric in metrics.contract()}
KNOWN = OTHERS | RECORDED | EXPORTED
ROOMS = {metric.name: metric.room for metric in metrics.contract()}


def flat(dashboard):
    """Every row and panel, folded ones too."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def panels(dashboard):
    return [panel for panel in flat(dashboard) if panel["type"] != "row"]


def targets():
    """(dashboard, panel, target) of all of them."""
    return [
        pytest.param(panel, target, id=f"{uid}-{panel['id']}{target['refId']}")
        for uid, dashboard in DASHBOARDS.items()
        for panel in panels(dashboard)
        for target in panel["targets"]
    ]


def filled(expression, selected=".*"):
    """`expression` as Grafana sends it, with everything selected."""
    for name, value in {"$__rate_interval": "5m", "$__range": "86400s", "${price}": "0.20"}.items():
        expression = expression.replace(name, value)
    return re.sub(r"\$\{(\w+):regex\}", lambda _: selected, expression)


def selectors(expression):
    found = []

    def visit(node):
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        if isinstance(node, promql_parser.MatrixSelector):
            found.append(node.vector_selector)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def problems(dashboard):
    """What is wrong with a dashboard, in words."""
    return [*frame_problems(dashboard), *variable_problems(dashboard), *grid_problems(dashboard)] + [
        f"{panel.get('title')}: {problem}"
        for panel in panels(dashboard)
        for problem in [
            *panel_problems(panel),
            *target_problems(panel),
            *(table_problems(panel) if panel["type"] == "table" else ()),
        ]
    ]


def frame_problems(dashboard):
    if dashboard.get("uid") not in UIDS or len(dashboard["uid"]) > 40:
        yield "no stable uid"
    if not re.fullmatch(r"Carbon / [A-Z][a-zA-Z ]+", dashboard.get("title", "")) or not dashboard.get("description"):
        yield "no title or description"
    if "id" in dashboard or "__inputs" in dashboard or "__requires" in dashboard:
        yield "bound to one Grafana"
    if dashboard["editable"] or dashboard["refresh"] != "1m" or dashboard["timezone"] != "browser":
        yield "editable, or another refresh or timezone"
    if dashboard["tags"] != ["carbon-exporter"] or dashboard["schemaVersion"] < 36:
        yield "other tags or an old schema"
    links = [link for link in dashboard["links"] if link["type"] == "dashboards" and link["tags"] == dashboard["tags"]]
    if not any(link["keepTime"] and link["includeVars"] for link in links):
        yield "no link to the others"
    for uid in re.findall(r'"/d/([a-z-]+)', json.dumps(dashboard)):
        if uid not in UIDS:
            yield f"link to {uid}, which is not there"


def variable_problems(dashboard):
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    if variables.get("datasource", {}).get("query") != "prometheus" or "current" in variables["datasource"]:
        yield "no free choice of datasource"
    if not variables.keys() <= SELECTED | {"datasource", "price"} or "cluster" not in variables:
        yield "unknown variables"
    for variable in variables.values():
        if variable.get("includeAll") and variable.get("allValue") != ".*":
            yield f"variable {variable['name']}: all of them by name is too long an expression"
    used = set(re.findall(r"\$\{(\w+):regex\}|\$\{(price|datasource)", json.dumps(dashboard)))
    if {name for pair in used for name in pair if name} - variables.keys():
        yield "a variable is used and not there"
    for uid in re.findall(r'"uid": "([^"]*)"', json.dumps([dashboard["panels"], dashboard["templating"]])):
        if uid != "${datasource}":
            yield f"datasource {uid} is hard-coded"


def grid_problems(dashboard):
    numbers = [panel.get("id") for panel in flat(dashboard)]
    if None in numbers or len(set(numbers)) < len(numbers):
        yield "panel ids are missing or not unique"
    if dashboard["panels"][0]["type"] != "row":
        yield "panels before the first question"
    for row in flat(dashboard):
        if row["type"] == "row" and not row["title"].endswith("?"):
            yield f"{row['title']}: rows are questions"
        if row["type"] == "row" and bool(row["panels"]) != row["collapsed"]:
            yield f"{row['title']}: Grafana drops panels inside an open row"
    for together in [dashboard["panels"], *(row["panels"] for row in dashboard["panels"] if row.get("panels"))]:
        taken = set()
        for panel in together:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            if at["x"] + at["w"] > 24 or taken & cells:
                yield f"{panel['title']}: overlaps, or is outside of 24 columns"
            taken |= cells


def panel_problems(panel):
    defaults = panel["fieldConfig"]["defaults"]
    if panel["type"] not in PANEL_TYPES:
        yield f"panel type {panel['type']} is not one of Grafana 10's that we use"
    if not panel.get("title") or len(panel.get("description", "")) < 20:
        yield "no title or description"
    if not defaults.get("noValue"):
        yield "nothing is said where there is no data"
    if panel["type"] == "stat" and len(defaults["noValue"]) > 8 * (panel["gridPos"]["w"] - 1):
        yield "Grafana writes this text in one line: too long for its width"
    properties = [p for override in panel["fieldConfig"]["overrides"] for p in override["properties"]]
    units = {defaults.get("unit")} | {p["value"] for p in properties if p["id"] == "unit"}
    if not units <= UNITS:
        yield f"units {units - UNITS}"
    if panel["type"] in {"stat", "timeseries", "bargauge"} and defaults.get("min") != 0:
        yield "does not begin at 0"
    colours = set(re.findall(r"#[0-9A-Fa-f]{6}", json.dumps(panel)))
    if not colours <= {"#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"}:
        yield "colours that not everybody tells apart"
    if "green" in json.dumps(defaults) or '"red"' in json.dumps(defaults):
        yield "colours that not everybody tells apart"
    if not panel.get("targets") or panel.get("datasource", {}).get("uid") != "${datasource}":
        yield "no query or no datasource"


def table_problems(panel):
    """What Grafana's table makes of columns that are not told otherwise."""
    for override in panel["fieldConfig"]["overrides"]:
        properties = {p["id"]: p["value"] for p in override["properties"]}
        if not properties.get("noValue") or len(properties["noValue"]) > 1:
            yield f"{override['matcher']['options']}: an empty cell would say the text of an empty table"
        if "Value" not in override["matcher"]["options"] and properties.get("unit") != "string":
            yield f"{override['matcher']['options']}: a name of digits would be scaled as a number"
    bare = [t for t in panel["targets"] if re.match(r"[a-z:_0-9]*_[a-z:_0-9]*\{[^}]*\}[^-+*/]*$", t["expr"])]
    if len(panel["targets"]) > 1 and bare:
        yield "a series' own name keeps its rows apart: aggregate it"


def target_problems(panel):
    for target in panel["targets"]:
        expression = target["expr"]
        if target.get("datasource", {}).get("uid") != "${datasource}":
            yield "no datasource in a query"
        ranged = panel["type"] in {"timeseries", "state-timeline"}
        if bool(target.get("instant")) == ranged or bool(target.get("range")) != ranged:
            yield "instant where a range is shown, or the other way round"
        if ranged and not target.get("legendFormat"):
            yield "no legend"
        if panel["type"] == "table" and target.get("format") != "table":
            yield "a table of series"
        windows = re.findall(r"\b(?:rate|irate|increase)\([^[]*\[([^]]*)\]", expression)
        if ranged and set(windows) - {"$__rate_interval"}:
            yield f"rate over {windows} whatever the width of the panel"
        if re.search(r"\[\$__interval|\$(?!__rate_interval|__range|\{)", expression):
            yield "a variable that is not known"
        try:
            found = selectors(filled(expression))
        except ValueError as error:
            yield f"{expression}: {error}"
            continue
        yield from name_problems(expression, found, target, ranged=ranged)


def name_problems(expression, found, target, *, ranged):
    labels = set(TARGET_LABELS)
    for selector in found:
        if selector.name not in KNOWN:
            yield f"{selector.name} is neither exported nor recorded"
            continue
        matched = {matcher.name for matcher in selector.matchers.matchers}
        own = KNOWN[selector.name] | TARGET_LABELS
        labels |= own
        if matched - own:
            yield f"{selector.name} has no label {matched - own}"
        if "cluster" not in matched:
            yield f"{selector.name} is of every cluster"
        if ranged and ROOMS.get(selector.name) == "node" and not matched & {"instance", "training_job"}:
            yield f"{selector.name} of every node over the range: record it"
    grouped = re.findall(r"\b(?:by|on|ignoring|without|group_left|group_right) \(([^)]*)\)", expression)
    used = {name.strip() for names in grouped for name in names.split(",") if name.strip()}
    used |= set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat") or ""))
    if used - labels:
        yield f"no label {used - labels}"
    if {"without", "ignoring"} & set(re.findall(r"\w+", expression)):
        yield "labels that are not named: a new one would break it"
    if re.search(r"\bon \((?!cluster)", expression):
        yield "joins across clusters"


def test_there_are_five_and_their_files_are_named_by_their_uids():
    assert sorted(FILES) == UIDS
    assert [dashboard["uid"] for dashboard in DASHBOARDS.values()] == UIDS


def test_what_is_checked_in_is_what_the_code_builds():
    pytest.importorskip("grafana_foundation_sdk", reason="its builders need Python 3.11")
    code = importlib.import_module("dashboards.__main__")
    built = {dashboard.uid: code.as_json(dashboard) for dashboard in code.dashboards()}
    assert sorted(built) == UIDS
    for uid, text in built.items():
        assert FILES[uid].read_text() == text, f"{uid}: make dashboards"


@pytest.mark.parametrize("uid", UIDS)
def test_dashboards_hold_to_the_rules(uid):
    assert problems(DASHBOARDS[uid]) == []


def first(dashboard, kind):
    return next(panel for panel in panels(dashboard) if panel["type"] == kind)


def changed(path, value, kind="timeseries"):
    """A way to break a dashboard: what stands at `path` of its first panel of a kind becomes `value`."""

    def change(dashboard):
        place = first(dashboard, kind)
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


BREAKS = {
    "no stable uid": lambda d: d.update(uid="x" * 41),
    "bound to one Grafana": lambda d: d.update(id=7),
    "editable": lambda d: d.update(editable=True),
    "other tags": lambda d: d.update(tags=[]),
    "no link to the others": lambda d: d.update(links=[]),
    "no free choice": lambda d: d["templating"]["list"][0].update(current={"text": "mine", "value": "abc"}),
    "too long an expression": lambda d: d["templating"]["list"][1].update(allValue=""),
    "used and not there": lambda d: d["templating"]["list"].pop(),
    "hard-coded": changed(["datasource"], {"type": "prometheus", "uid": "P1809F7CD0C75ACF3"}),
    "which is not there": lambda d: d["panels"].append(
        {**first(d, "table"), "links": [{"url": "/d/carbon-else?x=1"}], "id": 999}
    ),
    "not unique": changed(["id"], 1),
    "rows are questions": lambda d: d["panels"][0].update(title="Overview"),
    "Grafana drops panels": lambda d: d["panels"][0].update(panels=[first(d, "stat")]),
    "overlaps": changed(["gridPos", "x"], 23),
    "is not one of Grafana 10's": changed(["type"], "graph"),
    "no title or description": changed(["description"], ""),
    "nothing is said": changed(["fieldConfig", "defaults", "noValue"], ""),
    "in one line": changed(["fieldConfig", "defaults", "noValue"], "no epochs were pushed", "stat"),
    "empty cell": changed(["fieldConfig", "overrides", 0, "properties"], [{"id": "unit", "value": "string"}], "table"),
    "name of digits": changed(["fieldConfig", "overrides", 0, "properties"], [], "table"),
    "keeps its rows apart": changed(["targets", 0, "expr"], 'push_time_seconds{cluster="a"}', "table"),
    "units": changed(["fieldConfig", "defaults", "unit"], "kwh"),
    "does not begin at 0": changed(["fieldConfig", "defaults", "min"], None),
    "tells apart": changed(["fieldConfig", "overrides"], [{"properties": [{"id": "color", "value": "#00FF00"}]}]),
    "no query or no datasource": changed(["datasource"], {}),
    "instant where": changed(["targets", 0, "instant"], True),
    "no legend": changed(["targets", 0, "legendFormat"], ""),
    "rate over": changed(["targets", 0, "expr"], 'rate(push_time_seconds{cluster="a"}[5m])'),
    "unclosed": changed(["targets", 0, "expr"], "sum(("),
    "neither exported": changed(["targets", 0, "expr"], 'carbon_power{cluster="a"}'),
    "has no label": changed(["targets", 0, "expr"], 'push_time_seconds{cluster="a", uuid="b"}'),
    "of every cluster": changed(["targets", 0, "expr"], "push_time_seconds"),
    "record it": changed(["targets", 0, "expr"], 'carbon_gpu_power_watts{cluster=~".*"}'),
    "no label": changed(["targets", 0, "legendFormat"], "{{nope}}"),
    "not named": changed(["targets", 0, "expr"], 'sum without (instance) (push_time_seconds{cluster="a"})'),
    "across clusters": changed(
        ["targets", 0, "expr"],
        'push_time_seconds{cluster="a"} * on (training_job) push_time_seconds{cluster="a"}',
    ),
}


@pytest.mark.parametrize("problem", BREAKS)
def test_the_rules_can_fail(problem):
    broken = copy.deepcopy(DASHBOARDS["carbon-training-job"])
    BREAKS[problem](broken)
    assert any(problem in one for one in problems(broken)), problems(broken)


@pytest.mark.parametrize(("panel", "target"), targets())
def test_units_fit_what_is_asked(panel, target):
    """Joules are divided to be kWh, times are made milliseconds: the unit's name and the expression agree."""
    column = "/^Value( #A)?$/" if target["refId"] == "A" else f"Value #{target['refId']}"
    overrides = [one for one in panel["fieldConfig"]["overrides"] if one["matcher"].get("options") == column]
    units = [p["value"] for one in overrides for p in one["properties"] if p["id"] == "unit"]
    assert units or panel["type"] != "table"
    (unit,) = units or [panel["fieldConfig"]["defaults"]["unit"]]
    expression = target["expr"]
    assert (unit == "kwatth") <= ("/ 3.6e6" in expression)
    assert ("/ 3.6e6" in expression) <= (unit == "kwatth" or "${price}" in expression)
    assert (unit == "dateTimeFromNow") == ("timestamp_seconds" in expression and "* 1000" in expression)
    assert (unit == "watt") <= bool(re.search(r"_watts|rate\(carbon_\w+_energy_joules_total", expression))
    assert ("_grams:" in expression and unit not in COUNTED) <= (unit in {"massg", "percentunit", "suffix:km"})


def test_recorded_series_are_all_recorded():
    rules = yaml.safe_load((REPOSITORY / "alerts" / "recording.yaml").read_text())["groups"]
    recorded = {rule["record"] for group in rules for rule in group["rules"]}
    used = {
        s.name
        for d in DASHBOARDS.values()
        for p in panels(d)
        for t in p["targets"]
        for s in selectors(filled(t["expr"]))
    }
    assert {name for name in used if ":" in name} <= recorded


AWKWARD = r"""team/bert "large" 'v1.5' [a-z]+ (x|y) {3} ^$ \d ü"""


def as_grafana_escapes(name):
    """${name:regex}: every character that means something in a regular expression, and the slash."""
    return re.sub(r"[\\^$*+?.()|\[\]{}/]", r"\\\g<0>", name)


@pytest.mark.real
def test_a_job_of_any_name_can_be_selected(need, tmp_path):
    """Every expression of the job's page, as Grafana fills it with an awkward name, is one that Prometheus takes."""
    need("promtool")
    expressions = [t["expr"] for p in panels(DASHBOARDS["carbon-training-job"]) for t in p["targets"]]
    rules = [
        {"record": f"r{n}", "expr": filled(expression, as_grafana_escapes(AWKWARD))}
        for n, expression in enumerate(expressions)
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    result = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.real
def test_the_name_selected_is_the_job_meant_and_no_other(need, tmp_path):
    need("promtool")
    escaped = filled("up{training_job=~`${training_job:regex}`}", as_grafana_escapes(AWKWARD))
    quoted = json.dumps(AWKWARD, ensure_ascii=False)
    other = json.dumps(AWKWARD.replace(".", "x"), ensure_ascii=False)
    test = {
        "rule_files": [],
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": f"up{{training_job={quoted}}}", "values": "1"},
                    {"series": f"up{{training_job={other}}}", "values": "2"},
                ],
                "promql_expr_test": [
                    {
                        "expr": escaped,
                        "eval_time": "0m",
                        "exp_samples": [{"labels": f"up{{training_job={quoted}}}", "value": 1}],
                    }
                ],
            }
        ],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump(test))
    result = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_dashboard_and_row_is_in_the_document():
    text = (REPOSITORY / "docs" / "dashboards.md").read_text()
    for dashboard in DASHBOARDS.values():
        assert f"`{dashboard['uid']}`" in text
        for panel in flat(dashboard):
            if panel["type"] == "row":
                assert panel["title"] in text, panel["title"]
