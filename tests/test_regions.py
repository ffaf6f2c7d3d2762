"""Cloud regions: the table, the PUE from it, and the hint that a Kubernetes node gives."""

import pytest
from fake_kubernetes import NODE, ApiServer

from carbon_exporter.config import Config
from carbon_exporter.jobs.kubernetes import Settings, region_hint
from carbon_exporter.model import ConfigurationError
from carbon_exporter.regions import Region, pue_of, region, zone_hint

OUTSIDE = {"NODE_NAME": NODE}


def node(provider_id="aws:///eu-central-1a/i-0123456789abcdef0", region_label="eu-central-1"):
    labels = {"kubernetes.io/hostname": NODE}
    if region_label is not None:
        labels["topology.kubernetes.io/region"] = region_label
    return {"kind": "Node", "metadata": {"name": NODE, "labels": labels}, "spec": {"providerID": provider_id}}


@pytest.fixture
def server():
    server = ApiServer()
    yield server
    server.close()


def hint(server):
    return region_hint(Settings(api_url=server.url, token_file="", ca_file=""), OUTSIDE)


def test_the_table_knows_regions_of_three_clouds():
    assert region("aws/eu-central-1") == Region("DE", 1.35, 2024)
    assert region("gcp/us-central1") == Region("US-MIDW-MISO", 1.1, 2024)
    assert region("azure/westeurope") == Region("NL", 1.14, 2023)
    assert region("gcp/europe-west3").pue is None


@pytest.mark.parametrize("name", ["", "eu-central-1", "aws/eu-central-9", "region", "AWS/eu-central-1"])
def test_a_region_that_is_not_in_the_table_is_none(name):
    assert region(name) is None


def test_the_table_is_that_of_the_shared_data(repository):
    path = repository.parent / "shared" / "data" / "static" / "cloud_region_zone_pue.csv"
    if not path.is_file():
        pytest.skip(f"no {path.name} beside the repository")
    clouds = {"Amazon Web Services": "aws", "Google Cloud": "gcp", "Microsoft Azure": "azure"}
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    assert len(rows) > 90
    for cloud, name, zone, pue, year in rows:
        assert region(f"{clouds[cloud]}/{name}") == Region(zone, float(pue) if pue else None, int(year))


def test_every_pue_is_one_that_may_be_configured(repository):
    lines = (repository / "carbon_exporter" / "cloud_region.csv").read_text().splitlines()
    names = [line.split(",")[0] for line in lines if "/" in line.split(",")[0] and not line.startswith("#")]
    assert len(names) == len(set(names)) > 90
    for name in names:
        found = region(name)
        assert Config(pue=found.pue or 1.0, intensity={"grid_zone": found.grid_zone})


def test_a_number_is_the_pue_whatever_the_region():
    assert pue_of(1.2, "aws/eu-central-1") == 1.2
    assert pue_of(1.2, "nowhere") == 1.2


def test_the_region_gives_the_pue_when_asked():
    assert pue_of("cloud_region", "aws/eu-central-1") == 1.35


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("gcp/europe-west3", "pue: .*none for gcp/europe-west3: give a number"),
        ("aws/eu-central-9", "cloud_region: 'aws/eu-central-9' is not in the table.*give pue a number"),
        ("", "pue: .*needs the key cloud_region"),
    ],
)
def test_a_pue_that_the_table_has_not_is_a_clear_error(name, cure):
    with pytest.raises(ConfigurationError, match=cure) as error:
        pue_of("cloud_region", name)
    assert "\n" not in str(error.value)


def test_the_hint_names_zone_pue_and_what_to_set():
    line = zone_hint("aws/eu-central-1")
    assert "aws/eu-central-1" in line
    assert "DE (PUE 1.35 of 2024)" in line
    assert "set intensity.grid_zone: DE if" in line


def test_the_hint_says_no_pue_that_it_does_not_know():
    assert "PUE" not in zone_hint("gcp/europe-west3")
    assert "DE" in zone_hint("gcp/europe-west3")
    assert "not known" in zone_hint("aws/eu-central-9")


@pytest.mark.parametrize(
    ("provider_id", "label", "expected"),
    [
        ("aws:///eu-central-1a/i-0123456789abcdef0", "eu-central-1", "aws/eu-central-1"),
        ("gce://a-project/europe-west4-a/a-node", "europe-west4", "gcp/europe-west4"),
        ("azure:///subscriptions/0/resourceGroups/a/providers/b", "westeurope", "azure/westeurope"),
    ],
)
def test_a_node_in_a_cloud_gives_a_hint(server, provider_id, label, expected):
    server.nodes[NODE] = node(provider_id, label)
    assert expected in hint(server)
    assert server.requests[-1][0] == f"/api/v1/nodes/{NODE}"


@pytest.mark.parametrize(
    "told",
    [
        node(provider_id="kind://docker/kind/a-node"),
        node(provider_id=""),
        node(region_label=None),
        node(region_label=""),
        {"metadata": {"labels": None}, "spec": None},
        {"metadata": {"labels": {"topology.kubernetes.io/region": 7}}, "spec": {"providerID": ["aws"]}},
        [],
    ],
)
def test_a_node_that_says_no_region_gives_none(server, told):
    server.nodes[NODE] = told
    assert hint(server) is None
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_refusal_is_quiet(server, status, caplog):
    server.nodes[NODE] = node()
    server.refuse = status
    caplog.set_level("INFO")
    assert hint(server) is None
    assert len(server.requests) == 1
    assert caplog.text == ""


def test_a_server_that_is_gone_is_quiet(server):
    server.away()
    assert hint(server) is None
    server.back()


def test_outside_of_a_cluster_nobody_is_asked():
    assert region_hint(Settings(), OUTSIDE) is None


def test_a_node_name_stays_one_part_of_the_path(server):
    settings = Settings(api_url=server.url, token_file="", ca_file="", node_name="../pods?limit=1")
    assert region_hint(settings, OUTSIDE) is None
    assert server.requests[-1][0] == "/api/v1/nodes/..%2Fpods%3Flimit%3D1"
