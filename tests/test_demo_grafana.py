"""Grafana in the demo, played by a program that takes its flags and variables and checks what it is given."""

import sys

import pytest
import requests

from carbon_exporter.demo import stack
from carbon_exporter.demo.grafana import dashboards_folder, grafana
from carbon_exporter.demo.servers import ServerError

PROMETHEUS = "http://127.0.0.1:29090"
FAKE = f"""#!{sys.executable}
import http.server, json, os, pathlib, sys, yaml
flags = dict(flag.split("=", 1) for flag in sys.argv[1:] if "=" in flag)
home = pathlib.Path(flags["--homepath"])
if not (home / "conf" / "defaults.ini").is_file():
    sys.exit("no homepath")
for name in ("GF_PATHS_DATA", "GF_PATHS_LOGS", "GF_PATHS_PLUGINS"):
    pathlib.Path(os.environ[name]).mkdir(parents=True, exist_ok=True)
provisioning = pathlib.Path(os.environ["GF_PATHS_PROVISIONING"])
(source,) = yaml.safe_load((provisioning / "datasources" / "carbon-exporter.yaml").read_text())["datasources"]
(provider,) = yaml.safe_load((provisioning / "dashboards" / "carbon-exporter.yaml").read_text())["providers"]
dashboards = [json.loads(path.read_text())["uid"] for path in pathlib.Path(provider["options"]["path"]).glob("*.json")]
if not dashboards:
    sys.exit("no dashboards")
seen = {{"arguments": sys.argv[1:], "source": source, "dashboards": dashboards,
        "environment": {{k: v for k, v in os.environ.items() if k.startswith("GF_")}}}}

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()
        self.wfile.write(json.dumps(seen).encode())
    def log_message(self, *_):
        pass

address = os.environ["GF_SERVER_HTTP_ADDR"], int(os.environ["GF_SERVER_HTTP_PORT"])
http.server.HTTPServer(address, Handler).serve_forever()
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """install(name) puts the fake on an otherwise empty PATH, with its files beside it as an archive has them."""

    def put(name, text=FAKE):
        program = tmp_path / "opt" / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "opt" / "conf").mkdir(exist_ok=True)
        (tmp_path / "opt" / "conf" / "defaults.ini").write_text("")
        program.write_text(text)
        program.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path / "opt" / "bin"))
    return put


@pytest.fixture
def dashboards(tmp_path):
    folder = tmp_path / "dashboards"
    folder.mkdir()
    (folder / "cluster.json").write_text('{"uid": "carbon-cluster"}')
    return folder


@pytest.mark.parametrize(("name", "first"), [("grafana", ["server"]), ("grafana-server", [])])
def test_grafana_starts_with_the_datasource_and_the_dashboards(install, dashboards, tmp_path, monkeypatch, name, first):
    install(name)
    monkeypatch.setenv("GF_AUTH_PROXY_ENABLED", "true")  # the user's own settings are not the demo's
    with grafana(tmp_path, PROMETHEUS, dashboards) as server:
        seen = requests.get(f"{server.url}/api/health", timeout=5).json()
    assert seen["arguments"] == [*first, f"--homepath={tmp_path / 'opt'}"]
    assert seen["dashboards"] == ["carbon-cluster"]
    assert (seen["source"]["type"], seen["source"]["url"]) == ("prometheus", PROMETHEUS)
    assert seen["source"]["isDefault"]
    environment = seen["environment"]
    assert environment["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert (environment["GF_AUTH_ANONYMOUS_ENABLED"], environment["GF_AUTH_ANONYMOUS_ORG_ROLE"]) == ("true", "Viewer")
    assert environment["GF_ANALYTICS_REPORTING_ENABLED"] == environment["GF_AUTH_BASIC_ENABLED"] == "false"
    assert "GF_AUTH_PROXY_ENABLED" not in environment
    assert all(environment[key].startswith(f"{tmp_path}/") for key in environment if key.startswith("GF_PATHS_"))
    with pytest.raises(requests.ConnectionError):
        requests.get(server.url, timeout=5)


def test_without_grafana_its_files_or_dashboards_one_line_says_so(install, dashboards, tmp_path):
    with pytest.raises(ServerError, match="no program named grafana or grafana-server is on the PATH"):
        grafana(tmp_path, PROMETHEUS, dashboards)
    install("grafana")
    with pytest.raises(ServerError, match=r"missing has no dashboards: run the demo from a checkout"):
        grafana(tmp_path, PROMETHEUS, tmp_path / "missing")
    (tmp_path / "opt" / "conf" / "defaults.ini").unlink()
    with pytest.raises(ServerError, match=r"defaults\.ini of Grafana is not found"):
        grafana(tmp_path, PROMETHEUS, dashboards)


def test_the_demo_says_where_grafana_is_and_goes_on_without(install, dashboards, tmp_path, monkeypatch):
    monkeypatch.setattr(stack, "dashboards_folder", lambda: dashboards)
    with stack._grafana(tmp_path / "a", PROMETHEUS) as where:
        assert where == "not started: no program named grafana or grafana-server is on the PATH"
    install("grafana-server", "#!/bin/sh\necho no such database\nexit 3\n")
    (tmp_path / "b").mkdir()
    with stack._grafana(tmp_path / "b", PROMETHEUS) as where:
        assert where == "not started: grafana-server ended with status 3: no such database"
    install("grafana-server")
    (tmp_path / "c").mkdir()
    with stack._grafana(tmp_path / "c", PROMETHEUS) as where:
        assert requests.get(where.replace("/dashboards", "/api/health"), timeout=5).ok
    with pytest.raises(requests.ConnectionError):
        requests.get(where, timeout=5)


def test_a_checkout_has_the_dashboards_that_the_demo_shows(repository):
    assert dashboards_folder() == repository / "dashboards"
    assert list(dashboards_folder().glob("*.json"))
