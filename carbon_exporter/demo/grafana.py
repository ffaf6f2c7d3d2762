"""A Grafana for the demo, where one is installed: with the demo's Prometheus and the dashboards of the checkout."""

import os
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Final

import yaml

from carbon_exporter.demo.servers import Server, ServerError, free_port

COMMANDS: Final = (("grafana", "server"), ("grafana-server",))
"""Newer releases have the first, older ones the second."""
# https://grafana.com/docs/grafana/latest/setup-grafana/configure-grafana/: GF_SECTION_KEY.
_SETTINGS: Final = {
    "GF_SERVER_HTTP_ADDR": "127.0.0.1",
    # Whoever is on this host may look; nobody can log in to change anything.
    "GF_AUTH_ANONYMOUS_ENABLED": "true",
    "GF_AUTH_ANONYMOUS_ORG_ROLE": "Viewer",
    "GF_AUTH_DISABLE_LOGIN_FORM": "true",
    "GF_AUTH_BASIC_ENABLED": "false",
    # The demo asks nothing of anybody outside.
    "GF_ANALYTICS_ENABLED": "false",
    "GF_ANALYTICS_REPORTING_ENABLED": "false",
    "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
    "GF_PLUGINS_PREINSTALL_DISABLED": "true",
    "GF_NEWS_NEWS_FEED_ENABLED": "false",
    "GF_LOG_MODE": "console",
}


def dashboards_folder() -> Path:
    """dashboards/ of the checkout that this runs from; a wheel has none."""
    return Path(str(files("carbon_exporter"))).parent / "dashboards"


def grafana(directory: Path, prometheus_url: str, dashboards: Path) -> Server:
    """A Grafana with its files in `directory`, which shows `dashboards` from the Prometheus given.

    Raises:
        ServerError: no Grafana is on the PATH, its files are not found, or there are no dashboards.
    """
    command = next((command for command in COMMANDS if shutil.which(command[0])), None)
    if command is None:
        raise ServerError("no program named grafana or grafana-server is on the PATH")
    if not any(dashboards.glob("*.json")):
        raise ServerError(f"{dashboards} has no dashboards: run the demo from a checkout")
    home = _home(Path(shutil.which(command[0]) or command[0]))
    port = free_port()
    folder = directory / "grafana"
    environment = {
        **_SETTINGS,
        "GF_SERVER_HTTP_PORT": str(port),
        "GF_PATHS_DATA": str(folder / "data"),
        "GF_PATHS_LOGS": str(folder / "logs"),
        "GF_PATHS_PLUGINS": str(folder / "plugins"),
        "GF_PATHS_PROVISIONING": str(_provision(folder / "provisioning", prometheus_url, dashboards)),
    }
    return Server(
        [*command, f"--homepath={home}"],
        f"http://127.0.0.1:{port}",
        directory / "grafana.log",
        ready_path="/api/health",
        environment={**dict.fromkeys(name for name in os.environ if name.startswith("GF_")), **environment},
    )


def _home(program: Path) -> Path:
    """Where Grafana has its own files: beside the program in an archive, under share in a package."""
    prefixes = (program.resolve().parent.parent, program.parent.parent, Path("/usr"))
    places = [place for prefix in prefixes for place in (prefix, prefix / "share" / "grafana")]
    for place in places:
        if (place / "conf" / "defaults.ini").is_file():
            return place
    raise ServerError(f"{program}: conf/defaults.ini of Grafana is not found beside it or in /usr/share/grafana")


def _provision(folder: Path, prometheus_url: str, dashboards: Path) -> Path:
    """Write what Grafana reads at its start (https://grafana.com/docs/grafana/latest/administration/provisioning/)."""
    datasource = {
        "name": "Prometheus",
        "uid": "carbon-prometheus",
        "type": "prometheus",
        "access": "proxy",
        "url": prometheus_url,
        "isDefault": True,
        "jsonData": {"timeInterval": "1s"},
    }
    options = {"path": str(dashboards.resolve())}
    provider = {"name": "carbon-exporter", "folder": "Carbon", "type": "file", "options": options}
    contents = {
        "datasources": {"apiVersion": 1, "datasources": [datasource]},
        "dashboards": {"apiVersion": 1, "providers": [provider]},
    }
    for name, content in contents.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "carbon-exporter.yaml").write_text(yaml.safe_dump(content))
    return folder
