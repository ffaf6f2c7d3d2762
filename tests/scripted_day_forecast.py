"""The forecast service of the scripted day, with a record of earlier runs, and the grid providers that it asks."""

import subprocess
import sys
import time

import yaml
from fake_grid import Reply, iso
from scripted_day_script import DAY_SECONDS, HOUR, OVER, Truth, intensity

from carbon_exporter.demo.servers import Server, free_port

HISTORY_RUNS = 12


def forecast_service(folder, name, grid_url, prometheus_url):
    """A replica of the forecast service, with a record of earlier runs of one group."""
    url = f"http://127.0.0.1:{free_port()}"
    record = folder / "runs.csv"
    joules = Truth(0.0, 0.0).power(owner=OVER) * HOUR / 2
    rows = [
        f"run-{run},bert,{epoch},1800,{joules * (0.97 + 0.005 * run + 0.002 * (epoch % 3))}"
        for run in range(HISTORY_RUNS)
        for epoch in range(1, 41)
    ]
    record.write_text("\n".join(["run,config,epoch,duration_s,energy_j", *rows, ""]))
    _configure(folder, name, grid_url, prometheus_url)
    arguments = [sys.executable, "-m", "carbon_exporter"]
    configured = ["--config", str(folder / f"{name}.yaml")]
    subprocess.run([*arguments, "history", "import", *configured, str(record)], check=True, capture_output=True)
    command = [*arguments, "forecast", *configured, "--web.listen-address", url.split("//")[1]]
    token = {"CARBON_ELECTRICITY_MAPS_TOKEN": "of-no-use-elsewhere"}
    return Server(command, url, folder / f"{name}.log", environment=token)


def _configure(folder, name, grid_url, prometheus_url):
    forecast = {"prometheus_url": prometheus_url, "poll_seconds": 1, "history_file": str(folder / f"{name}.sqlite")}
    zones = {"DE": ["energy_charts"], "FR": ["electricity_maps"]}
    urls = {name: {"url": grid_url} for name in ("energy_charts", "electricity_maps")}
    settings = {"forecast": forecast, "intensity": {"zones": zones, "cache_dir": None, **urls}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))


def grid_answers():
    """Energy-Charts for Germany and Electricity Maps for France, as of now; path -> answer."""

    def energy_charts(asked):
        now = time.time() // 900 * 900
        first, last = (now, now + DAY_SECONDS) if asked.path.endswith("forecast") else (now - 2 * DAY_SECONDS, now)
        times = [int(first + 900 * n) for n in range(round((last - first) / 900) + 1)]
        values = [intensity("DE", at) for at in times]
        column = "co2eq_forecast" if asked.path.endswith("forecast") else "co2eq"
        return Reply({"unix_seconds": times, column: values})

    def electricity_maps(asked):
        hour, temporality = time.time() // HOUR * HOUR, asked.path.rpartition("/")[2]
        hours = {"history": range(-24, 0), "latest": [0], "forecast": range(1, 73)}[temporality]
        rows = [
            {"zone": "FR", "carbonIntensity": intensity("FR", hour + n * HOUR), "datetime": iso(hour + n * HOUR)}
            | {"emissionFactorType": "lifecycle", "isEstimated": temporality == "forecast"}
            for n in hours
        ]
        return Reply(rows[0] if temporality == "latest" else {"zone": "FR", temporality: rows})

    own = {f"/carbon-intensity/{temporality}": electricity_maps for temporality in ("history", "latest", "forecast")}
    return {"/co2eq": energy_charts, "/co2eq_forecast": energy_charts, **own}
