"""The shipped rules: valid, tested by promtool, and on names that something exports."""

import re
import subprocess
from pathlib import Path

import promql_parser
import pytest
import yaml

from carbon_exporter import metrics

ALERTS = Path(__file__).resolve().parent.parent / "alerts"
FILES = sorted(ALERTS.glob("*.yaml"))
TESTS = sorted((ALERTS / "tests").glob("*.yaml"))


def load(file):
    return yaml.load(file.read_text(), Loader=yaml.CSafeLoader)


GROUPS = [group for file in FILES for group in load(file)["groups"]]
RULES = [rule for group in GROUPS for rule in group["rules"]]
NAMES = [rule.get("record") or rule["alert"] for rule in RULES]
RECORDED = [rule for rule in RULES if "record" in rule]
ALERTING = [rule for rule in RULES if "alert" in rule]
CASES = [test for file in TESTS for test in load(file)["tests"]]
OF_PROMETHEUS = {"ALERTS", "up"}


def promtool(*arguments):
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.real
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_promtool_accepts_the_rules(need, file):
    need("promtool")
    result = promtool("check", "rules", file)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name)
def test_the_rules_do_what_their_tests_say(need, file):
    need("promtool")
    result = promtool("test", "rules", file)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.real
def test_the_tests_of_recorded_series_can_fail(need, tmp_path):
    need("promtool")
    for name in ("recording.yaml", "alerts.yaml"):
        (tmp_path / name).write_text((ALERTS / name).read_text().replace("sum by", "avg by"))
    (tmp_path / "test.yaml").write_text((ALERTS / "tests" / "recording.yaml").read_text().replace("../", ""))
    assert promtool("test", "rules", tmp_path / "test.yaml").returncode == 1


def checks_of(alert):
    """(test, checks): every test that looks at `alert`, and where it does."""
    found = [
        (test, [check for check in test.get("alert_rule_test", ()) if check["alertname"] == alert]) for test in CASES
    ]
    return [(test, checks) for test, checks in found if checks]


OPPOSITES = {">": "<=", "<": ">=", ">=": "<", "<=": ">", "==": "!=", "!=": "=="}
NEIGHBOURS = {">": ">=", "<": "<=", ">=": ">", "<=": "<"}
THE_SAME = {
    ("CarbonForecastGrowing", ">= 0.2"),  # no ratio of doubles less 1 is exactly that
    ("CarbonEnergySharedEqually", "instance_component:carbon_power_watts:rate5m >= 0"),  # 0 of 0 W is no number
}
"""Mutations that change nothing."""


def mutants(rule):
    """The expression, and how long it has to hold, each a little wrong."""
    expression, wait = rule["expr"], rule["for"]
    for match in re.finditer(r"(?<=\s)(?:[<>]=?|[!=]=)(?=\s)", expression):
        for replaced in (OPPOSITES, NEIGHBOURS):
            if match[0] in replaced:
                yield expression[: match.start()] + replaced[match[0]] + expression[match.end() :], wait
    for old, new in (("absent(", "count("), ('!=""', '=""')):
        if old in expression:
            yield expression.replace(old, new), wait
    amount, unit = re.fullmatch(r"(\d+)([mh])", wait).groups()
    yield expression, f"{2 * int(amount)}{unit}"


def recorded_for(text):
    """The groups of recorded series, with those that `text` needs and no other, to save time."""
    found, new = set(), {rule["record"] for rule in RECORDED if rule["record"] in text}
    while new:
        found |= new
        read = "".join(rule["expr"] for rule in RECORDED if rule["record"] in new)
        new = {rule["record"] for rule in RECORDED if rule["record"] in read} - found
    for group in GROUPS:
        rules = [rule for rule in group["rules"] if rule.get("record") in found]
        if rules:
            yield {**group, "rules": rules}


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("rule", ALERTING, ids=lambda rule: rule["alert"])
def test_the_tests_of_an_alert_notice_whatever_is_wrong_with_it(need, tmp_path, rule):
    """With every comparison turned round or moved by the boundary, and with another time to hold."""
    need("promtool")
    group = next(group for group in GROUPS if rule in group["rules"])
    tests = [{**test, "promql_expr_test": [], "alert_rule_test": checks} for test, checks in checks_of(rule["alert"])]
    (interval,) = {test["interval"] for test in tests}
    files = {"rule_files": ["recording.yaml", "alerts.yaml"], "evaluation_interval": interval, "tests": tests}
    recorded = list(recorded_for(str(group["rules"])))
    files["group_eval_order"] = [*(one["name"] for one in recorded), group["name"]]
    (tmp_path / "recording.yaml").write_text(yaml.safe_dump({"groups": recorded}))
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(files))
    survived = []
    for expression, wait in [(rule["expr"], rule["for"]), *mutants(rule)]:
        changed = [{**other, "expr": expression, "for": wait} if other is rule else other for other in group["rules"]]
        (tmp_path / "alerts.yaml").write_text(yaml.safe_dump({"groups": [{**group, "rules": changed}]}))
        if promtool("test", "rules", tmp_path / "test.yaml").returncode == 0:
            survived.append((expression, wait))
    equal = {text for alert, text in THE_SAME if alert == rule["alert"]}
    others = [pair for pair in survived[1:] if not any(text in pair[0] for text in equal)]
    assert survived[0] == (rule["expr"], rule["for"]), "the tests fail with the shipped rule"
    assert not others


def selected_names(expression):
    """Every metric name that `expression` selects."""
    names = set()

    def visit(node):
        if isinstance(node, promql_parser.VectorSelector):
            names.add(node.name)
        if isinstance(node, promql_parser.MatrixSelector):
            names.add(node.vector_selector.name)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return names


def test_selected_names_finds_names_at_every_depth():
    assert selected_names("a / on (x) (sum by (y) (rate(b[5m])) > clamp_min(-c, 0)) or d{e='f'}") == {
        "a",
        "b",
        "c",
        "d",
    }


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_rules_use_only_names_that_are_exported_or_recorded(rule):
    exported = {metric.name for metric in metrics.contract()} | {metrics.PUSH_TIME}
    recorded = {rule["record"] for rule in RECORDED}
    used = selected_names(rule["expr"])
    assert used
    assert used <= exported | recorded | OF_PROMETHEUS


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_rules_are_plain_promql(rule):
    assert not re.search(r"@|\[[^]]*:|offset|increase\(", rule["expr"])


def left_by(expression):
    """The labels that `expression` leaves, but for cluster, job and instance; None where the text does not tell."""
    node = promql_parser.parse(expression)
    while not isinstance(node, promql_parser.AggregateExpr):
        if isinstance(node, promql_parser.ParenExpr):
            node = node.expr
        elif isinstance(node, promql_parser.BinaryExpr):
            node = node.lhs
        elif isinstance(node, promql_parser.Call) and node.args:
            node = node.args[0]
        else:
            return None
    return set(node.modifier.labels) - {"cluster", "job"} if node.modifier else set()


IMPLIED = {
    "instance:carbon_grams_per_joule:max": {"grid_zone", "basis"},  # a node has one of each
    "training_job:carbon_job_info:team": {"namespace", "team", "group", "user"},  # a job has one of each
    "training_job:carbon_job_emissions_grams:sum": {"basis"},  # and says mixed of several
}


@pytest.mark.parametrize("rule", RECORDED, ids=lambda rule: rule["record"])
def test_recorded_names_have_level_metric_and_operation(rule):
    level, metric, operation = rule["record"].split(":")
    assert re.fullmatch(r"[a-z_]+", level)
    assert re.fullmatch(r"carbon_[a-z_]+", metric)
    assert re.fullmatch(r"[a-z0-9]+", operation)
    left = left_by(rule["expr"])
    if left is not None:
        assert left - IMPLIED.get(rule["record"], set()) == set(labels_in(level))


def labels_in(level):
    """The labels that a level is put together from: training_job_basis is training_job and basis."""
    known = sorted({label for metric in metrics.contract() for label in metric.labels}, key=len, reverse=True)
    known = ["instance", "namespace", "team", "node", *known]
    while level:
        label = next(label for label in known if re.match(rf"{label}(_|$)", level))
        yield "node_name" if label == "node" else label
        level = level[len(label) + 1 :]


@pytest.mark.parametrize("rule", RECORDED, ids=lambda rule: rule["record"])
def test_every_recorded_series_is_read_by_a_rule_a_dashboard_or_people(rule, repository):
    readers = [other["expr"] for other in RULES if other is not rule]
    readers += [other["annotations"]["description"] for other in ALERTING]
    readers += [path.read_text() for path in sorted((repository / "dashboards").rglob("*.json"))]
    readers += [path.read_text() for path in sorted((repository / "docs").rglob("*.md"))]
    if not any(rule["record"] in text for text in readers) and not (repository / "dashboards").is_dir():
        pytest.skip("its reader is a dashboard, and there are none yet")
    assert any(rule["record"] in text for text in readers)


@pytest.mark.parametrize("rule", RECORDED, ids=lambda rule: rule["record"])
def test_every_recorded_series_is_tested(rule):
    """In itself, or by the tests of an alert that reads it."""
    asked = [check["expr"] for test in CASES for check in test.get("promql_expr_test", ())]
    read = [one for group in recorded_for(str(ALERTING)) for one in group["rules"]]
    assert rule in read or any(rule["record"] in expression for expression in asked)


@pytest.mark.parametrize("rule", ALERTING, ids=lambda rule: rule["alert"])
def test_every_alert_is_seen_to_fire_and_not_to_fire(rule):
    checks = [check for _, checks in checks_of(rule["alert"]) for check in checks]
    assert any(check["exp_alerts"] for check in checks)
    assert any(not check["exp_alerts"] for check in checks)
    labels = [alert["exp_labels"] for check in checks for alert in check["exp_alerts"]]
    assert all({"namespace", "team"} <= one.keys() for one in labels if "training_job" in one)
    series = [one["series"] for test, _ in checks_of(rule["alert"]) for one in test["input_series"]]
    assert any('cluster="b"' in one for one in series) or rule["alert"] == "CarbonExporterAbsent"


@pytest.mark.parametrize("rule", ALERTING, ids=lambda rule: rule["alert"])
def test_alerts_say_what_how_bad_and_where_to_read_on(rule, repository):
    name, annotations = rule["alert"], rule["annotations"]
    assert name.startswith("Carbon")
    assert rule["for"]
    assert set(rule["labels"]) == {"severity"}
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert re.fullmatch(r"[A-Z][^{]*\.", annotations["summary"])
    assert "{{ $" in annotations["description"] or rule["expr"].startswith("absent(")
    assert annotations["runbook_url"].endswith(f"/runbooks/{name}")
    assert (repository / "docs" / "runbooks" / f"{name}.md").is_file()
