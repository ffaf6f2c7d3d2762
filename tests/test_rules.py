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
RULES = [rule for file in FILES for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]
NAMES = [rule.get("record") or rule["alert"] for rule in RULES]
TESTED = "".join(file.read_text() for file in sorted((ALERTS / "tests").glob("*.yaml")))


def promtool(*arguments):
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.real
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_promtool_accepts_the_rules(need, file):
    need("promtool")
    result = promtool("check", "rules", file)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.real
@pytest.mark.parametrize("name", ["recording.yaml", "alerts.yaml"])
def test_the_rules_do_what_their_tests_say(need, name):
    need("promtool")
    result = promtool("test", "rules", ALERTS / "tests" / name)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.real
def test_the_rules_tests_can_fail(need, tmp_path):
    need("promtool")
    for name in ("recording.yaml", "alerts.yaml"):
        (tmp_path / name).write_text((ALERTS / name).read_text().replace("sum by", "avg by"))
        (tmp_path / f"test_{name}").write_text((ALERTS / "tests" / name).read_text().replace("../", ""))
        assert promtool("test", "rules", tmp_path / f"test_{name}").returncode == 1


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
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    used = selected_names(rule["expr"])
    assert used
    assert used <= exported | recorded


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_rules_are_plain_promql(rule):
    assert not re.search(r"@|\[[^]]*:|offset|increase\(", rule["expr"])


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_every_rule_is_tested(rule):
    if "record" in rule:
        assert f"{rule['record']}{{training_job=" in TESTED or f"round({rule['record']}" in TESTED
    else:
        assert re.search(rf"alertname: {rule['alert']}\n\s+eval_time: \S+\n\s+exp_alerts:\n", TESTED)
        assert re.search(rf"alertname: {rule['alert']}\n\s+eval_time: \S+\n\s+exp_alerts: \[\]", TESTED)


@pytest.mark.parametrize("rule", [rule for rule in RULES if "alert" in rule], ids=lambda rule: rule["alert"])
def test_alerts_say_what_and_how_bad(rule):
    assert rule["alert"].startswith("Carbon")
    assert rule["for"]
    assert rule["labels"] == {"severity": "warning"}
    summary, description = rule["annotations"]["summary"], rule["annotations"]["description"]
    assert re.fullmatch(r"[A-Z][^{]*\.", summary)
    assert "{{ $" in description


def test_recorded_names_have_level_metric_and_operation():
    for rule in RULES:
        if "record" in rule:
            assert re.fullmatch(r"training_job(_basis)?:carbon_[a-z_]+:[a-z0-9]+", rule["record"])
