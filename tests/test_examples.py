"""The examples: what they configure accepts them, their routes lead to the right people, their paths exist."""

import re
import shutil
import subprocess
import time
from pathlib import PurePosixPath

import pytest
import requests
import yaml

from carbon_exporter import cli
from carbon_exporter.demo.servers import alertmanager


def run(*command):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


@pytest.fixture
def examples(repository):
    return repository / "examples"


@pytest.mark.real
def test_prometheus_accepts_its_configuration_and_finds_its_files(need, examples):
    need("promtool")
    result = run("promtool", "check", "config", examples / "prometheus.yml")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("rules found") == 2


def test_prometheus_scrapes_all_and_honours_only_what_is_pushed(examples):
    config = yaml.safe_load((examples / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert [name for name, job in jobs.items() if job.get("honor_labels")] == ["pushgateway"]
    (forecast,) = jobs["carbon-forecast"]["static_configs"]
    assert forecast["targets"] == [f"localhost{cli.FORECAST_ADDRESS}"]
    (file,) = jobs["carbon-exporter"]["file_sd_configs"][0]["files"]
    (nodes,) = yaml.safe_load((examples / file).read_text())
    assert nodes["targets"] == [f"localhost{cli.NODE_ADDRESS}"]
    assert all((examples / rules).is_file() for rules in config["rule_files"])


@pytest.mark.parametrize("document", ["README.md", "docs/kubernetes.md"])
def test_prometheus_is_configured_as_the_documents_say(repository, examples, document):
    """The drop rule of the README, and Kubernetes' relabelling, which stands here in a comment."""
    uncommented = re.sub(r"^  # (?=[- ] )", "  ", (examples / "prometheus.yml").read_text(), flags=re.MULTILINE)
    here = [relabel for job in yaml.safe_load(uncommented)["scrape_configs"] for relabel in relabels(job)]
    blocks = re.findall(r"```yaml\n(.*?)```", (repository / document).read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "scrape_configs:" in block]
    first = next(job for job in yaml.safe_load(block)["scrape_configs"] if relabels(job))
    assert all(relabel in here for relabel in relabels(first))


def relabels(job):
    return job.get("relabel_configs", []) + job.get("metric_relabel_configs", [])


@pytest.mark.real
@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ("alertname=CarbonBudgetSpent severity=warning training_job=bert team=vision", "team-vision"),
        ("alertname=CarbonForecastGrowing severity=info training_job=bert team=speech", "team-speech"),
        ("alertname=CarbonGpuIdle severity=warning training_job=bert team=unheard-of", "operators"),
        ("alertname=CarbonGpuIdle severity=warning training_job=bert", "operators"),
        ("alertname=CarbonCollectorFailing severity=warning instance=n1", "operators"),
        ("alertname=CarbonExporterAbsent severity=critical", "operators"),
        ("alertname=CarbonEnergySharedEqually severity=info instance=n1", "operators"),
    ],
)
def test_an_alert_goes_to_the_team_that_owns_the_job(need, examples, labels, receiver):
    need("amtool")
    file = f"--config.file={examples / 'alertmanager.yml'}"
    result = run("amtool", "config", "routes", "test", file, f"--verify.receivers={receiver}", *labels.split())
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.real
def test_alertmanager_accepts_its_configuration(need, examples):
    need("amtool")
    result = run("amtool", "check-config", examples / "alertmanager.yml")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 inhibit rules" in result.stdout
    assert "3 receivers" in result.stdout


@pytest.mark.real
@pytest.mark.parametrize(
    ("firing", "silenced"),
    [
        ({"CarbonBudgetSpent": "a", "CarbonBudgetLikelyExceeded": "a", "CarbonGpuIdle": "b"}, set()),
        ({"CarbonExporterAbsent": "", "CarbonBudgetSpent": "a", "CarbonForecastStale": "", "NodeDown": ""},
         {"CarbonBudgetSpent", "CarbonForecastStale"}),
    ],
)  # fmt: skip
def test_what_follows_from_a_worse_alert_is_silent(need, examples, tmp_path, firing, silenced):
    need("prometheus-alertmanager")
    server = alertmanager(tmp_path)
    # Nobody listens at the example's webhooks, and nobody is told within its first half minute.
    shutil.copy(examples / "alertmanager.yml", tmp_path / "alertmanager.yml")
    alerts = [{"labels": {"alertname": name, **({"training_job": job} if job else {})}} for name, job in firing.items()]
    with server:
        assert requests.post(f"{server.url}/api/v2/alerts", json=alerts, timeout=5).ok
        deadline = time.monotonic() + 10
        inhibited = None
        while inhibited != silenced and time.monotonic() < deadline:
            time.sleep(0.1)
            # An alert is judged when its group is looked at; asking for the groups does so at once.
            requests.get(f"{server.url}/api/v2/alerts/groups", timeout=5)
            found = requests.get(f"{server.url}/api/v2/alerts", timeout=5).json()
            assert len(found) == len(firing)
            inhibited = {alert["labels"]["alertname"] for alert in found if alert["status"]["inhibitedBy"]}
    assert inhibited == silenced


def test_the_alerts_that_alertmanager_is_told_of_exist(repository, examples):
    rules = yaml.safe_load((repository / "alerts" / "alerts.yaml").read_text())
    known = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    matchers = [
        matcher
        for rule in yaml.safe_load((examples / "alertmanager.yml").read_text())["inhibit_rules"]
        for matcher in rule["source_matchers"] + rule["target_matchers"]
    ]
    for matcher in matchers:
        operator, _, pattern = matcher.removeprefix("alertname ").partition(" ")
        named = {name for name in known if re.fullmatch(pattern.strip('"'), name)}
        assert operator in ("=", "=~", "!=")
        assert named
        if "(" in pattern:
            assert len(named) == pattern.count("|") + 1, pattern


def compose(examples):
    return yaml.safe_load((examples / "compose.yaml").read_text())


def test_the_compose_file_has_pinned_images_on_the_loopback(examples):
    services = compose(examples)["services"]
    assert services.keys() == {"prometheus", "pushgateway", "alertmanager", "grafana"}
    for name, service in services.items():
        assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", service["image"]), name
        listen = [*service.get("command", []), *(f"{k}={v}" for k, v in service.get("environment", {}).items())]
        assert [flag for flag in listen if "=127.0.0.1" in flag], name
        assert (service["network_mode"], "ports" in service) == ("host", False)


def test_what_the_compose_file_mounts_exists_and_is_read_only(examples):
    content = compose(examples)
    named = set()
    for service in content["services"].values():
        for volume in service.get("volumes", []):
            source, target, *mode = volume.split(":")
            assert PurePosixPath(target).is_absolute()
            if not source.startswith("."):
                named.add(source)
                continue
            assert mode == ["ro"]
            if source == "../dashboards" and not (examples / source).exists():
                continue  # looked at below, where there are any
            assert (examples / source).exists(), source
    assert named == content["volumes"].keys()


def test_the_compose_file_mounts_prometheus_files_where_it_looks_for_them(examples):
    mounts = dict(volume.split(":")[:2][::-1] for volume in compose(examples)["services"]["prometheus"]["volumes"])
    (config,) = [
        flag.split("=")[1]
        for flag in compose(examples)["services"]["prometheus"]["command"]
        if flag.startswith("--config.file")
    ]
    folder = PurePosixPath(config).parent
    assert mounts[str(folder)] == "."
    assert (examples / PurePosixPath(config).name).is_file()
    assert mounts[str(folder.parent / "alerts")] == "../alerts"


def test_grafana_is_provisioned_with_what_is_mounted(repository, examples):
    provisioning = examples / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "carbon-exporter.yml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://localhost:9090")
    scrape = yaml.safe_load((examples / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "carbon-exporter.yml").read_text())["providers"]
    mounts = dict(volume.split(":")[:2][::-1] for volume in compose(examples)["services"]["grafana"]["volumes"])
    assert mounts[provider["options"]["path"]] == "../dashboards"
    if not (repository / "dashboards").is_dir():
        pytest.skip("this tree has no dashboards/")
    assert list((repository / "dashboards").glob("*.json"))


def test_the_readme_names_every_file_and_its_links_resolve(examples):
    text = (examples / "README.md").read_text()
    linked = set(re.findall(r"\]\(([^)]+)\)", text))
    assert {path.name for path in examples.glob("*.y*ml")} <= linked
    assert all((examples / link).exists() for link in linked)
    for command in re.findall(r"(?:^|`|sudo )carbon-exporter (\w+)", text, re.MULTILINE):
        assert command in cli._parser()._subparsers._group_actions[0].choices, command
