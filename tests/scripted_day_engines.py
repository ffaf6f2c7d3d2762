"""The engines of the scripted day: samples as blocks and imported, rules over the day, and Prometheus live."""

import json
import re
import subprocess

import requests
import yaml
from scripted_day_script import CLUSTER, DAY_SECONDS, TICK_SECONDS, pushed

from carbon_exporter.demo.servers import Server

RECORDED = re.compile(r"[a-zA-Z_]+:[a-zA-Z0-9_:]+")


def write_pushed(path, end):
    """Each minute's scrape of the Pushgateway, honor_labels on."""
    target = f'cluster="{CLUSTER}"'
    with path.open("w") as file:
        for minute in range(1, round(DAY_SECONDS / TICK_SECONDS) + 1):
            at = end - DAY_SECONDS + minute * TICK_SECONDS
            lines = [line.replace('instance=""', target) for line in pushed(end, at)]
            file.writelines(f"{line} {at:.0f}\n" for line in lines)
            file.write(f'up{{{target},instance="pushgateway",job="pushgateway"}} 1 {at:.0f}\n')
    return path


def make_blocks(folder, samples):
    whole = folder / "day.om"
    with whole.open("w") as file:
        for path in samples:
            file.write(path.read_text())
        file.write("# EOF\n")
    command = ["promtool", "tsdb", "create-blocks-from", "--quiet", "openmetrics", whole, folder / "prometheus"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    whole.unlink()


def record(folder, url, alerts, end):
    """Evaluate the recording rules over the day, those first on which others build; gives the samples' files.

    Range queries, as `promtool tsdb create-blocks-from rules` asks them, but of a whole day: that makes a block of each
    rule and two hours, hundreds in all.
    """
    groups = yaml.safe_load((alerts / "recording.yaml").read_text())["groups"]
    waiting = [rule for group in groups for rule in group["rules"]]
    files = []
    while waiting:
        unknown = {rule["record"] for rule in waiting}
        ready = [rule for rule in waiting if not (set(RECORDED.findall(rule["expr"])) - {rule["record"]}) & unknown]
        assert ready, f"rules build on each other in a circle: {unknown}"
        path = folder / f"recorded-{len(files)}"
        with prometheus_with(folder, url, {}), path.open("w") as file:
            for rule in ready:
                file.writelines(_evaluated(url, rule, end))
        make_blocks(folder, [path])
        files.append(path)
        waiting = [rule for rule in waiting if rule not in ready]
    return files


def _evaluated(url, rule, end):
    """The samples of a rule, each minute of the day."""
    times = {"start": end - DAY_SECONDS, "end": end, "step": TICK_SECONDS}
    answer = requests.post(f"{url}/api/v1/query_range", data={"query": rule["expr"], **times}, timeout=60).json()
    assert answer["status"] == "success", f"{rule['record']}: {answer}"
    for row in answer["data"]["result"]:
        labels = {**row["metric"], **rule.get("labels", {})}
        labels.pop("__name__", None)
        told = ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
        for at, value in row["values"]:
            yield f"{rule['record']}{{{told}}} {value} {at:.0f}\n"


def import_samples(url, samples):
    """It takes milliseconds where blocks are made of seconds."""
    for path in samples:
        with path.open("rb") as lines:
            milliseconds = (line[:-1] + b"000\n" for line in lines)
            answer = requests.post(f"{url}/api/v1/import/prometheus", data=milliseconds, timeout=60)
        assert answer.ok, answer.text


def prometheus_with(folder, url, settings):
    configuration = folder / "prometheus.yml"
    configuration.write_text(yaml.safe_dump(settings))
    command = ["prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'prometheus'}"]
    command += [f"--web.listen-address={url.split('//')[1]}", "--log.level=warn"]
    return Server(command, url, folder / "prometheus.log")


def live_settings(folder, alerts, targets, victoria_url):
    """Settings of a Prometheus that scrapes `targets` (scrape job, instance, URL) and evaluates rules each second."""
    scrapes = {}
    for job, instance, url in targets:
        scrape = scrapes.setdefault(job, {"job_name": job, "honor_labels": job == "pushgateway", "static_configs": []})
        scrape["static_configs"].append(
            {"targets": [url.split("//")[1]], "labels": {"cluster": CLUSTER, "instance": instance}}
        )
    names = ("recording.yaml", "alerts.yaml")
    for name in names:
        rules = yaml.safe_load((alerts / name).read_text())
        for group in rules["groups"]:
            group.pop("interval", None)
        (folder / name).write_text(yaml.safe_dump(rules, sort_keys=False))
    queue = {"batch_send_deadline": "200ms"}
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / name) for name in names],
        "scrape_configs": list(scrapes.values()),
        "remote_write": [{"url": f"{victoria_url}/api/v1/write", "queue_config": queue}],
    }
