"""`carbon-exporter rules`: its defaults are the checked-in files, settings reach all rules, mistakes are one line."""

import os
import re
import subprocess
import sys
from zipfile import ZipFile

import pytest
import yaml
from test_docs import keys_of

from carbon_exporter import cli
from carbon_exporter.model import ConfigurationError
from carbon_exporter.rules import render
from carbon_exporter.rules.settings import Settings, Thresholds
from carbon_exporter.settings import validated

AWKWARD = 'a "quoted\\ {team} <<interval>> \x85 ü 🦊\n'


def rules_of(text):
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def settings(text):
    return validated(Settings, yaml.safe_load(text), "rules")


def promtool(*arguments):
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)


def config(folder, text):
    path = folder / "config.yaml"
    path.write_text(f"rules: {text}")
    return str(path)


@pytest.mark.parametrize("name", render.FILES)
def test_the_checked_in_files_are_the_defaults(repository, name):
    assert (repository / "alerts" / name).read_text() == render.rule_files(Settings())[name], "run `make rules`"


def test_every_key_is_documented_with_its_default(repository):
    text = (repository / "docs" / "rules.md").read_text()
    missing = [key for key in keys_of(Settings, "rules.") if f"| `{key}` |" not in text]
    assert not missing
    for name, value in Thresholds().model_dump().items():
        shown = value if isinstance(value, str) else render.number(value)
        assert f"| `rules.thresholds.{name}` | {shown} |" in text, name


CHANGED = """
cluster_label: site
namespace_label: kube_namespace
team_labels: [cost_center]
runbook_url: https://wiki.example/carbon/
interval: 45s
alert_labels: {channel: "carbon: 'ops' # 1", on_call: "yes"}
budgets: {default_grams: 50000, team_grams: {vision: 1.5e6}}
thresholds:
  budget_for: 101s
  forecast_growth_ratio: 0.123
  stalled_epochs: 7.5
  stalled_seconds: 1234
  stalled_first_epoch_seconds: 4321
  stalled_watts: 17
  idle_gpu_utilization_ratio: 0.077
  idle_gpu_for: 102s
  epoch_energy_growth_ratio: 0.456
  not_pushed_watts: 53
  not_pushed_for: 103s
  intensity_age_seconds: 7777
  fallback_for: 104s
  collector_for: 105s
  sampling_gap_ratio: 0.067
  equally_shared_ratio: 0.112
  down_for: 106s
  absent_for: 107s
  forecast_age_seconds: 888
  coverage_ratio: 0.789
  coverage_runs: 37
"""


SPEAKING = {
    "budget_for": ["CarbonBudgetAtRisk", "CarbonBudgetLikelyExceeded", "CarbonBudgetCertainlyExceeded"],
    "forecast_growth_ratio": ["CarbonForecastGrowing"],
    "stalled_epochs": ["CarbonTrainingStalled"],
    "stalled_seconds": ["CarbonTrainingStalled"],
    "stalled_first_epoch_seconds": ["CarbonTrainingStalled"],
    "stalled_watts": ["CarbonTrainingStalled"],
    "idle_gpu_utilization_ratio": ["training_job:carbon_gpus_idle:count"],
    "idle_gpu_for": ["CarbonGpuIdle"],
    "epoch_energy_growth_ratio": ["CarbonEpochEnergyAnomalous"],
    "not_pushed_watts": ["CarbonEpochsNotPushed"],
    "not_pushed_for": ["CarbonEpochsNotPushed"],
    "intensity_age_seconds": ["CarbonIntensityStale"],
    "fallback_for": ["CarbonIntensityFallback"],
    "collector_for": ["CarbonCollectorFailing"],
    "sampling_gap_ratio": ["CarbonSamplingGaps"],
    "equally_shared_ratio": ["CarbonEnergySharedEqually"],
    "down_for": ["CarbonExporterDown"],
    "absent_for": ["CarbonExporterAbsent"],
    "forecast_age_seconds": [
        "CarbonForecastStale",
        "training_job_quantile:carbon_forecast_energy_joules:max",
        "training_job_quantile:carbon_forecast_emissions_grams:max",
        "training_job_quantile:carbon_forecast_end_timestamp_seconds:max",
    ],
    "coverage_ratio": ["CarbonForecastCoverageLow"],
    "coverage_runs": ["CarbonForecastCoverageLow"],
}


def test_each_threshold_changes_the_rules_that_it_is_of_and_no_other():
    usual, changed = (
        [rule for text in render.rule_files(chosen).values() for rule in rules_of(text)]
        for chosen in (Settings(), Settings(thresholds=settings(CHANGED).thresholds))
    )
    other = {rule.get("record") or rule["alert"] for rule, new in zip(usual, changed, strict=True) if rule != new}
    assert other == {name for names in SPEAKING.values() for name in names}
    for name, value in settings(CHANGED).thresholds.model_dump().items():
        one = Settings(thresholds=validated(Thresholds, {name: value}, ""))
        rules = [rule for text in render.rule_files(one).values() for rule in rules_of(text)]
        differ = {rule.get("record") or rule["alert"] for rule, was in zip(rules, usual, strict=True) if rule != was}
        assert differ == set(SPEAKING[name]), name


@pytest.mark.real
def test_every_setting_reaches_the_rules_and_promtool_accepts_them(need, tmp_path):
    need("promtool")
    changed = settings(CHANGED)
    texts = render.rule_files(changed)
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        result = promtool("check", "rules", tmp_path / name)
        assert result.returncode == 0, result.stdout + result.stderr
        intervals = {group["name"]: group["interval"] for group in yaml.safe_load(text)["groups"]}
        assert intervals == {group: "2m" if group == "carbon-gpus" else "45s" for group in intervals}
        assert not re.search(r"\bcluster\b|<<|pod_namespace|127\.0\.0\.1", text)
    for name, value in changed.thresholds.model_dump().items():
        assert value != getattr(Thresholds(), name), f"give {name} another value here"
        shown = value if isinstance(value, str) else render.number(value)
        assert re.search(rf"(?<![\w.]){re.escape(shown)}(?![\w.])", "".join(texts.values())), name
    alerts = rules_of(texts["alerts.yaml"])
    assert len(alerts) > 15
    for rule in alerts:
        assert (rule["labels"]["channel"], rule["labels"]["on_call"]) == ("carbon: 'ops' # 1", "yes")
        assert rule["annotations"]["runbook_url"] == f"https://wiki.example/carbon/{rule['alert']}"
    by_name = {rule["alert"]: rule for rule in alerts}
    assert by_name["CarbonGpuIdle"]["for"] == "102s"
    assert "> 7777" in by_name["CarbonIntensityStale"]["expr"]


def series(name, labels, values):
    inside = ",".join(f"{key}={render.quoted(value)}" for key, value in labels.items())
    return {"series": f"{name}{{{inside}}}", "values": values}


def awkward_test(budget_of, spent):
    """A promtool test of one job of the awkward team, one of another, one of none, and one that pushed its budget."""
    jobs = {"mine": AWKWARD, "theirs": "other", "nobodys": "", "pushed": AWKWARD}
    inputs = [series("carbon_node_info", {"job": "n", "instance": "n", "node_name": "n"}, "1x30")]
    for job, team in jobs.items():
        own = {"job": "n", "instance": "n", "training_job": job}
        inputs.append(series("carbon_job_info", {**own, **({"team": team} if team else {})}, "1x30"))
        inputs.append(series("carbon_job_emissions_grams_total", {**own, "basis": "lifecycle"}, "200x30"))
    inputs.append(series("carbon_training_emissions_budget_grams", {"training_job": "pushed"}, "1000x30"))
    name = "training_job:carbon_emissions_budget_grams:max"
    samples = [
        {"labels": series(name, {"training_job": job}, "")["series"], "value": grams}
        for job, grams in budget_of.items()
    ]
    recorded = [{"expr": name, "eval_time": "20m", "exp_samples": samples}]
    spent_alert = 'alertname="CarbonBudgetSpent",alertstate="firing"'
    firing = [
        {"expr": f'count(ALERTS{{{spent_alert},training_job="{job}"}}) or vector(0)',
         "eval_time": "20m", "exp_samples": [{"labels": "{}", "value": int(job in spent)}]}
        for job in jobs
    ]  # fmt: skip
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": recorded + firing}
    return {"rule_files": list(render.FILES), "evaluation_interval": "1m", "tests": [test]}


@pytest.mark.real
@pytest.mark.parametrize(
    ("budgets", "budget_of", "spent"),
    [
        ({}, {"pushed": 1000}, set()),
        ({"default_grams": 150}, {"mine": 150, "theirs": 150, "nobodys": 150, "pushed": 1000},
         {"mine", "theirs", "nobodys"}),
        ({"team_grams": {AWKWARD: 100}}, {"mine": 100, "pushed": 1000}, {"mine"}),
        ({"team_grams": {AWKWARD: 199.5, "nobody": 5}, "default_grams": 1e6},
         {"mine": 199.5, "theirs": 1e6, "nobodys": 1e6, "pushed": 1000}, {"mine"}),
    ],
)  # fmt: skip
def test_a_budget_of_the_settings_fires_for_its_team_and_a_pushed_one_comes_first(
    need, tmp_path, budgets, budget_of, spent
):
    need("promtool")
    for name, text in render.rule_files(validated(Settings, {"budgets": budgets}, "rules")).items():
        (tmp_path / name).write_text(text)
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(awkward_test(budget_of, spent)))
    result = promtool("test", "rules", tmp_path / "test.yaml")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.real
def test_a_job_belongs_to_the_first_team_label_that_it_has(need, tmp_path):
    need("promtool")
    for name, text in render.rule_files(settings("team_labels: [team, account]")).items():
        (tmp_path / name).write_text(text)
    jobs = {"a": {"team": "x;y", "account": "z"}, "b": {"account": "z"}, "c": {"pod_namespace": "ns"}}
    name = "training_job:carbon_job_info:team"
    recorded = [
        {"training_job": "a", "team": "x;y"},
        {"training_job": "b", "team": "z"},
        {"training_job": "c", "namespace": "ns"},
    ]
    test = {
        "interval": "1m",
        "input_series": [series("carbon_job_info", {"training_job": k, **v}, "1x9") for k, v in jobs.items()],
        "promql_expr_test": [
            {"expr": name, "eval_time": "5m",
             "exp_samples": [{"labels": series(name, labels, "")["series"], "value": 1} for labels in recorded]}
        ],
    }  # fmt: skip
    whole = {"rule_files": ["recording.yaml"], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(whole))
    result = promtool("test", "rules", tmp_path / "test.yaml")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("text", ["{}", CHANGED])
def test_a_prometheus_rule_and_the_one_file_hold_what_the_files_hold(text):
    chosen = settings(text)
    groups = [group for file in render.rule_files(chosen).values() for group in yaml.safe_load(file)["groups"]]
    manifest = yaml.safe_load(render.prometheus_rule(chosen, "carbon", "ops", {"release": "prometheus"}))
    assert manifest.pop("spec") == {"groups": groups}
    assert manifest == {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "carbon", "namespace": "ops", "labels": {"release": "prometheus"}},
    }
    assert yaml.safe_load(render.one_file(chosen)) == {"groups": groups}


@pytest.mark.parametrize(
    ("templates", "problem"), [({"a": "<<known>> <<other>>"}, "other"), ({"a": "nothing"}, "known")]
)
def test_a_placeholder_without_a_value_and_a_value_without_a_placeholder_are_errors(templates, problem):
    with pytest.raises(ValueError, match=problem):
        render.filled(templates, {"known": "1"})


def test_lines_are_indented_as_their_placeholder_and_vanish_where_there_are_none():
    texts = {"a": "x: <<word>>\n  <<lines>>\n  <<none>>\nend\n"}
    assert render.filled(texts, {"word": "<<lines>>", "lines": "p: 1\nq: 2", "none": ""}) == {
        "a": "x: <<lines>>\n  p: 1\n  q: 2\nend\n"
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{threshold: {}}", r"rules\.threshold: unknown key; known keys here: .*thresholds"),
        ("{thresholds: {budget: 5m}}", r"rules\.thresholds\.budget: unknown key; known keys here: .*budget_for"),
        ("{thresholds: {budget_for: 5 minutes}}", r"rules\.thresholds\.budget_for: give a number above 0 and a unit"),
        ("{thresholds: {budget_for: 0m}}", r"rules\.thresholds\.budget_for: give a number above 0"),
        ("{thresholds: {budget_for: 300}}", r"rules\.thresholds\.budget_for: .*write it in quotes"),
        ("{thresholds: {coverage_ratio: 80}}", r"rules\.thresholds\.coverage_ratio: .*less than or equal to 1"),
        ("{thresholds: {stalled_watts: 0}}", r"rules\.thresholds\.stalled_watts: .*greater than 0"),
        ("{thresholds: {budget_for: 53w}}", r"rules\.thresholds\.budget_for: give no more than a year"),
        ("{interval: 10m}", r"rules\.interval: give no more than 2m"),
        ("{cluster_label: __name__}", r"rules\.cluster_label: the rules use this label"),
        ("{cluster_label: exported_job}", r"rules\.cluster_label: the rules use this label"),
        ("{thresholds: {stalled_seconds: .inf}}", r"rules\.thresholds\.stalled_seconds: .*finite"),
        ("{thresholds: {coverage_runs: 2.5}}", r"rules\.thresholds\.coverage_runs: .*integer"),
        ("{cluster_label: k8s-cluster}", r"rules\.cluster_label: is no label name: give letters"),
        ("{cluster_label: training_job}", r"rules\.cluster_label: the rules use this label themselves"),
        ("{namespace_label: ''}", r"rules\.namespace_label: is no label name"),
        ("{team_labels: []}", r"rules\.team_labels: .*at least 1"),
        ("{team_labels: [team, my team]}", r"rules\.team_labels\.1: is no label name"),
        ("{runbook_url: wiki}", r"rules\.runbook_url: must be http"),
        ("{interval: often}", r"rules\.interval: give a number above 0"),
        ("{alert_labels: {severity: page}}", r"rules\.alert_labels\.severity: the rules use this label themselves"),
        ("{alert_labels: {a-b: c}}", r"rules\.alert_labels\.a-b: is no label name"),
        ("{alert_labels: {on_call: yes}}", r"rules\.alert_labels\.on_call: .*write it in quotes"),
        ("{budgets: {default_grams: -1}}", r"rules\.budgets\.default_grams: .*greater than 0"),
        ("{budgets: {team_grams: {vision: lots}}}", r"rules\.budgets\.team_grams\.vision: .*number"),
        ("{budgets: {team_grams: {'': 5}}}", r"rules\.budgets\.team_grams: a team has no name"),
        ("{budgets: {team_grams: {7: 5}}}", r"rules\.budgets\.team_grams\.7: .*write it in quotes"),
        ("5", r"rules: input should be a valid dictionary"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(tmp_path, capsys, text, message):
    assert cli.main(["rules", "--config", config(tmp_path, text)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(rf"^carbon-exporter rules: .*{message}", error)


def test_check_refuses_bad_rules_too(tmp_path, capsys):
    assert cli.main(["check", "--config", config(tmp_path, "{interval: often}")]) == 2
    assert "rules.interval" in capsys.readouterr().err


@pytest.mark.real
def test_files_are_written_with_the_next_step_and_written_again(need, tmp_path, capsys):
    need("promtool")
    out = tmp_path / "new" / "rules"
    arguments = ["rules", "--out", str(out), "--config", config(tmp_path, "{thresholds: {budget_for: 7m}}")]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    (command,) = re.findall(r"promtool check rules [^,]+", printed.err)
    assert subprocess.run(command.split(), capture_output=True, check=False).returncode == 0
    assert {path.name: path.read_text() for path in out.iterdir()} == render.rule_files(
        settings("{thresholds: {budget_for: 7m}}")
    )
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o644}
    assert cli.main(["rules", "--out", str(out)]) == 0
    assert (out / "alerts.yaml").read_text() == render.rule_files(Settings())["alerts.yaml"]


def test_a_file_of_somebody_else_stays_unless_forced(tmp_path, capsys):
    (tmp_path / "alerts.yaml").write_text("groups: []\n")
    assert cli.main(["rules", "--out", str(tmp_path)]) == 2
    assert re.search(r"alerts\.yaml: was not written by this command: .*--force\n$", capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["alerts.yaml"]
    assert (tmp_path / "alerts.yaml").read_text() == "groups: []\n"
    assert cli.main(["rules", "--out", str(tmp_path), "--force"]) == 0
    assert (tmp_path / "alerts.yaml").read_text().startswith(render.HEADER)


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/none"])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys, place):
    (tmp_path / "file").write_text("")
    assert cli.main(["rules", "--out", str(tmp_path / place)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(rf"{place}.*: name a folder that can be written with --out", error)


def test_nothing_is_left_behind_where_the_disk_fails(tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    assert cli.main(["rules", "--out", str(tmp_path)]) == 2
    assert f"{tmp_path}: No space left on device" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_without_a_folder_the_rules_are_printed(capsys):
    assert cli.main(["rules"]) == 0
    assert capsys.readouterr().out == render.one_file(Settings())
    asked = ["--name", "carbon.rules", "--namespace", "ops", "--label", "release=prom", "--label", "a.b/c="]
    assert cli.main(["rules", "--format", "prometheusrule", *asked]) == 0
    metadata = yaml.safe_load(capsys.readouterr().out)["metadata"]
    assert metadata == {"name": "carbon.rules", "namespace": "ops", "labels": {"release": "prom", "a.b/c": ""}}
    assert cli.main(["rules", "--format", "prometheusrule"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["metadata"] == {"name": "carbon-exporter"}


def test_a_prometheus_rule_is_written_to_a_file_of_its_own(tmp_path, capsys):
    assert cli.main(["rules", "--format", "prometheusrule", "--out", str(tmp_path)]) == 0
    assert f"kubectl apply -f {tmp_path}/prometheusrule.yaml" in capsys.readouterr().err
    assert yaml.safe_load((tmp_path / "prometheusrule.yaml").read_text())["kind"] == "PrometheusRule"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--name", "x"], r"--name: belongs to a manifest: add --format prometheusrule"),
        (["--label", "a=b"], r"--label: belongs to a manifest"),
        (["--format", "prometheusrule", "--name", "Upper"], r"--name: is no name in Kubernetes"),
        (["--format", "prometheusrule", "--namespace", "a_b"], r"--namespace: is no name in Kubernetes"),
        (["--format", "prometheusrule", "--label", "release"], r"--label release: give KEY=VALUE"),
        (["--format", "prometheusrule", "--label", "a=b c"], r"--label a=b c: give KEY=VALUE"),
        (["--format", "prometheusrule", "--label", "=b"], r"--label =b: give KEY=VALUE"),
    ],
)
def test_a_bad_flag_is_one_line(capsys, flags, message):
    assert cli.main(["rules", *flags]) == 2
    assert re.fullmatch(rf"carbon-exporter rules: {message}.*\n", capsys.readouterr().err)


def test_a_wheel_carries_the_templates(repository, tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    result = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert {f"carbon_exporter/rules/templates/{name}" for name in render.FILES} <= set(ZipFile(wheel).namelist())


def test_write_refuses_before_it_writes_anything(tmp_path):
    from carbon_exporter.rules.command import write  # noqa: PLC0415

    (tmp_path / "b").write_text("mine")
    with pytest.raises(ConfigurationError, match="b: was not written"):
        write(tmp_path, {"a": render.HEADER, "b": render.HEADER})
    assert not (tmp_path / "a").exists()
