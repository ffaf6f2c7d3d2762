"""The runbooks: one for each alert, with queries that can be pasted and commands that exist, served by the service."""

import re

import bcrypt
import promql_parser
import pytest
import requests
import yaml
from scripted_jobs import ScriptedForecasts, serve
from test_rules import ALERTING, OF_PROMETHEUS, RECORDED, selected_names

from carbon_exporter import cli, metrics
from carbon_exporter.forecast import runbooks
from carbon_exporter.web.config import load_web_config

DIRECTORY = runbooks.folder()
NAMES = sorted(rule["alert"] for rule in ALERTING)
SECTIONS = ["Meaning", "Impact", "Diagnosis", "Cure", "When to silence"]
OF_A_SCRAPE = {"scrape_duration_seconds"}


def text(name):
    return (DIRECTORY / f"{name}.md").read_text()


def queries(name):
    return [line for block in re.findall(r"```promql\n(.*?)```", text(name), re.DOTALL) for line in block.splitlines()]


def commands(name):
    return re.findall(r"`carbon-exporter ([^`]+)`", text(name))


def test_there_is_a_page_for_each_alert_and_no_other():
    assert sorted(path.stem for path in DIRECTORY.glob("*.md")) == sorted([*NAMES, "README"])


def test_the_table_has_all_alerts_as_they_are():
    rows = re.findall(r"^\| \[(\w+)\]\(\1\.md\) \| (\w+) \| (.+) \|$", text("README"), re.MULTILINE)
    assert rows == [(one["alert"], one["labels"]["severity"], one["annotations"]["summary"]) for one in ALERTING]


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_its_sections_and_is_short(name):
    page = text(name)
    assert page.startswith(f"# {name}\n\n")
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == SECTIONS
    assert all(len(part.strip()) > 20 for part in re.split(r"^## .+$", page, flags=re.MULTILINE))
    assert 25 <= len(page.splitlines()) <= 55


@pytest.mark.parametrize("name", NAMES)
def test_every_query_parses_and_names_only_what_there_is(name):
    known = {metric.name for metric in metrics.contract()} | {rule["record"] for rule in RECORDED}
    known |= {metrics.PUSH_TIME} | OF_PROMETHEUS | OF_A_SCRAPE
    assert queries(name)
    for query in queries(name):
        promql_parser.parse(query)
        assert {one for one in selected_names(query) if one} <= known, query


@pytest.mark.parametrize("name", NAMES)
def test_every_command_is_one_of_ours(name):
    for command in commands(name):
        try:
            cli._parser().parse_args(command.split())
        except SystemExit as error:
            pytest.fail(f"carbon-exporter {command}: {error}")


def test_commands_are_looked_at():
    assert sum(len(commands(name)) for name in NAMES) > 10
    with pytest.raises(SystemExit):
        cli._parser().parse_args(["check", "--no-such-flag"])


@pytest.mark.parametrize("name", [*NAMES, "README"])
def test_links_lead_somewhere(name):
    for file, anchor in re.findall(r"\]\(([^)#]+)(?:#([^)]*))?\)", text(name)):
        target = DIRECTORY / file
        assert target.is_file(), file
        headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}
        assert not anchor or anchor in anchors, f"{file}#{anchor}"


@pytest.fixture
def server():
    made = serve(ScriptedForecasts(), runbooks.routes())
    made.start()
    yield made
    made.stop()


def test_the_service_serves_every_page_as_text(server):
    for name in NAMES:
        answer = requests.get(f"{server.url}/runbooks/{name}", timeout=5)
        assert answer.text == text(name)
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


def test_the_list_names_every_page_and_what_it_says(server):
    lines = requests.get(f"{server.url}/runbooks/", timeout=5).text.splitlines()
    assert lines[::2] == [f"/runbooks/{name}" for name in NAMES]
    assert lines[1::2] == [f"    {text(name).splitlines()[2]}" for name in NAMES]


@pytest.mark.parametrize("name", ["Carbon", "README", "CarbonBudgetSpent.md", "../web", "%2e%2e/web", "a/b"])
def test_another_name_is_told_where_the_list_is(server, name):
    answer = requests.get(f"{server.url}/runbooks/{name}", timeout=5)
    assert answer.status_code == 404
    assert name == "../web" or answer.text == "There is no such runbook: /runbooks/ lists all.\n"


def test_a_known_page_is_sent_once(server):
    tag = requests.get(f"{server.url}/runbooks/CarbonGpuIdle", timeout=5).headers["ETag"]
    again = requests.get(f"{server.url}/runbooks/CarbonGpuIdle", headers={"If-None-Match": tag}, timeout=5)
    assert (again.status_code, again.text) == (304, "")


def test_they_ask_for_the_password_that_all_asks_for(tmp_path):
    users = {"ada": bcrypt.hashpw(b"example", bcrypt.gensalt(4)).decode()}
    (tmp_path / "web.yml").write_text(yaml.safe_dump({"basic_auth_users": users}))
    server = serve(ScriptedForecasts(), runbooks.routes(), load_web_config(tmp_path / "web.yml"))
    server.start()
    try:
        url = f"{server.url}/runbooks/CarbonGpuIdle"
        assert requests.get(url, timeout=5).status_code == 401
        assert requests.get(url, auth=("ada", "example"), timeout=5).text == text("CarbonGpuIdle")
    finally:
        server.stop()
