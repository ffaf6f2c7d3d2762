"""The documents say what the code does: every metric, key, command and flag, and nothing that is not there."""

import argparse
import importlib
import pkgutil
import re
import subprocess

import pytest
import yaml

import carbon_exporter
from carbon_exporter import cli, metrics, plugins
from carbon_exporter.config import Config, load_config
from carbon_exporter.forecast.settings import Settings as ForecastSettings
from carbon_exporter.intensity.cluster import Settings as ClusterSettings
from carbon_exporter.jobs.kubernetes import Settings as KubernetesSettings
from carbon_exporter.settings import Settings, validated

NOT_METRICS = {"carbon_exporter", "carbon_training", "carbon_exporter_push", "carbon_exporter_demo"}


def documents(repository):
    files = [repository / "README.md", *sorted((repository / "docs").glob("*.md"))]
    assert len(files) > 5
    return {path.name: path.read_text() for path in files}


def test_metrics_md_is_what_the_contract_generates(repository):
    assert (repository / "docs" / "metrics.md").read_text() == "\n".join(metrics.markdown()) + "\n"


def test_documents_name_only_metrics_that_exist(repository):
    known = {metric.name for metric in metrics.contract()}
    for name, text in documents(repository).items():
        recorded = set(re.findall(r"training_job:(carbon_[a-z_]+):", text))
        found = set(
            re.findall(r"\bcarbon_[a-z_]+\b", re.sub(r"carbon_exporter[./]\S+|from carbon_exporter\S*", "", text))
        )
        # A name that ends in "_" is a family written with a star: carbon_forecast_*.
        unknown = {n for n in found - known - recorded - NOT_METRICS if not n.endswith("_")}
        assert not unknown, f"{name}: {unknown}"


def keys_of(settings, prefix):
    for name, field in settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Settings):
            yield from keys_of(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def plugin_keys(room):
    package = importlib.import_module(f"carbon_exporter.{room}")
    for module in pkgutil.iter_modules(package.__path__):
        settings = importlib.import_module(f"{package.__name__}.{module.name}").Settings
        yield from keys_of(settings, f"{room}.{module.name}.")


def test_every_configuration_key_is_documented_and_no_other(repository):
    own = {key for key in keys_of(Config, "") if key.split(".")[0] not in ("sources", "jobs", "forecast", "rules")}
    expected = own - {"intensity.sections"} | {
        k for room in ("sources", "jobs", "intensity") for k in plugin_keys(room)
    }
    text = (repository / "docs" / "configuration.md").read_text()
    documented = set(
        re.findall(r"^\| `((?:node|sources|jobs|intensity|pue|cloud_region|embodied)[a-z_.]*)` \|", text, re.MULTILINE)
    )
    assert documented == expected


def test_every_key_of_the_forecast_is_documented(repository):
    text = (repository / "docs" / "forecast.md").read_text()
    missing = [key for key in keys_of(ForecastSettings, "") if f"`{key}`" not in text]
    assert not missing


def commands():
    parser = cli._parser()
    action = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return action.choices


def test_every_command_is_in_the_readme(repository):
    text = (repository / "README.md").read_text()
    missing = [name for name in commands() if f"carbon-exporter {name}" not in text and f"`{name}`" not in text]
    assert not missing


def test_every_flag_is_documented(repository):
    text = "".join(documents(repository).values())
    flags = {option for parser in commands().values() for a in parser._actions for option in a.option_strings}
    missing = [flag for flag in flags - {"-h", "--help"} if flag not in text]
    assert not missing


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main([command, "--help"])
    assert exit_.value.code == 0
    assert f"carbon-exporter {command}" in capsys.readouterr().out


def anchors(path):
    """The headings of a document as links name them."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_documents_resolve(repository):
    for path in [repository / "README.md", repository / "CONTRIBUTING.md", *(repository / "docs").glob("*.md")]:
        for name, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", path.read_text()):
            target = path.parent / name if name else path
            assert target.exists(), f"{path.name}: {name}"
            assert not anchor or anchor in anchors(target), f"{path.name}: {name}#{anchor}"


PROVIDERS = {
    "static": "DE", "electricity_maps": "DE", "energy_charts": "DE", "gb_carbon_intensity": "GB", "entsoe": "DE",
    "energi_data_service": "DK-DK1", "eia": "US-CAL-CISO", "watttime": "US-CAL-CISO", "cluster": "DE",
}  # fmt: skip
KEYS = ("CARBON_ELECTRICITY_MAPS_TOKEN", "CARBON_ENTSOE_TOKEN", "CARBON_EIA_KEY", "CARBON_WATTTIME_PASSWORD")


def as_words(seconds):
    if seconds == float("inf"):
        return "ever"
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds / 60:g} min"


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_the_table_of_providers_says_what_they_say_of_themselves(repository, name):
    text = (repository / "docs" / "intensity.md").read_text()
    row = re.search(rf"^\| `{name}` \|(.*)\|$", text, re.MULTILINE)
    cells = [cell.strip() for cell in row.group(1).split("|")]
    sections = {"watttime": {"username": "u"}}
    traits = plugins.open_provider(name, sections, PROVIDERS[name], dict.fromkeys(KEYS, "x")).traits
    assert cells[-2:] == [as_words(traits.lag_seconds), as_words(traits.fresh_seconds)]
    assert (cells[-3] == "none") == (traits.horizon_seconds == 0 and name != "cluster")
    assert name == "cluster" or f"`{traits.basis}`" in cells[2]
    assert (traits.signal == "marginal") == ("marginal" in cells[2])


def test_every_provider_is_in_the_table():
    package = importlib.import_module("carbon_exporter.intensity")
    assert {module.name for module in pkgutil.iter_modules(package.__path__)} == set(PROVIDERS)


def test_the_version_stands_in_one_place_more(repository):
    assert f'version = "{carbon_exporter.__version__}"' in (repository / "pyproject.toml").read_text()


def test_make_verbs_in_the_documents_exist(repository):
    verbs = set(re.findall(r"^([a-z-]+):", (repository / "Makefile").read_text(), re.MULTILINE))
    for name, text in documents(repository).items():
        assert set(re.findall(r"`make ([a-z-]+)", text)) <= verbs, name


def test_no_machine_path_or_download_address_is_in_the_tree(repository):
    files = subprocess.run(["git", "ls-files"], cwd=repository, capture_output=True, text=True, check=False)
    if files.returncode:
        pytest.skip("not a git checkout")
    forbidden = re.compile(
        "|".join(["python" + "hosted", r"pypi\." + "org", r"npm" + r"js\.", "/wor" + "k/", "/far" + "m/"])
    )
    for name in files.stdout.split():
        path = repository / name
        if path.suffix in {".py", ".md", ".txt", ".toml", ".yaml", ".yml", ""} and path.is_file():
            assert not forbidden.search(path.read_text(errors="replace")), name


def manifests(repository):
    """The YAML blocks of kubernetes.md: the node agent's, the forecast service's, and the nodes' intensity after it.

    The scrape configuration comes before them, and has to select the pods by their labels.
    """
    text = (repository / "docs" / "kubernetes.md").read_text()
    blocks = [list(yaml.safe_load_all(block)) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    (scrapes,), node, forecast, (then,) = blocks
    selected = [one["relabel_configs"][0]["regex"] for one in scrapes["scrape_configs"]]
    manifests = [{part["kind"]: part for part in parts} for parts in (node, forecast)]
    workloads = [manifests[0]["DaemonSet"], manifests[1]["Deployment"]]
    assert selected == [one["spec"]["template"]["metadata"]["labels"]["app"] for one in workloads]
    return *manifests, then


def config_of(parts, folder):
    file = folder / "config.yaml"
    file.write_text(parts["ConfigMap"]["data"]["config.yaml"])
    return load_config(file)


def container_of(parts, kind):
    """The one container of a pod, and its mounts: path -> whether it is read-only."""
    pod = parts[kind]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert container["securityContext"]["readOnlyRootFilesystem"]
    _, command, *flags = container["command"]
    cli._parser().parse_args([command, *flags])
    return container, {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}


def test_the_manifest_of_the_node_agent_is_yaml_and_its_configuration_is_accepted(repository, tmp_path):
    parts, _, then = manifests(repository)
    config = config_of(parts, tmp_path)
    _, mounts = container_of(parts, "DaemonSet")
    assert mounts[str(config.node.sysfs)]
    assert not mounts[str(config.node.state_file.parent)]
    assert config.intensity.cache_dir.parent == config.node.state_file.parent
    assert mounts[str(KubernetesSettings().pod_resources_socket.parent)]
    verbs = {resource: rule["verbs"] for rule in parts["ClusterRole"]["rules"] for resource in rule["resources"]}
    listed = ["get", "list", "watch"]
    assert verbs == {"pods": listed, "resourceslices": listed, "nodes": ["get"]}
    with_cluster = validated(Config, then, "").intensity
    assert with_cluster.provider == ("cluster",)
    assert with_cluster.cache_dir == config.intensity.cache_dir


def test_the_manifest_of_the_forecast_service_is_what_the_nodes_ask(repository, tmp_path):
    node, parts, then = manifests(repository)
    config = config_of(parts, tmp_path)
    container, mounts = container_of(parts, "Deployment")
    variables = {variable["name"]: variable["valueFrom"]["secretKeyRef"] for variable in container["env"]}
    assert variables.keys() <= set(KEYS)
    assert all(reference["optional"] for reference in variables.values())
    assert validated(ForecastSettings, config.forecast, "forecast").prometheus_url
    for zone, chain in config.intensity.chains().items():
        for name in chain:
            plugins.open_provider(name, config.intensity.sections, zone, {})
    assert then["intensity"]["grid_zone"] in config.intensity.zones
    assert config_of(node, tmp_path).intensity.grid_zone in config.intensity.zones
    assert mounts[str(config.intensity.cache_dir)] is False

    service, deployment = parts["Service"], parts["Deployment"]
    (port,), (exposed,) = container["ports"], service["spec"]["ports"]
    assert f":{port['containerPort']}" == cli.FORECAST_ADDRESS
    assert exposed["targetPort"] == port["name"]
    assert f"http://{service['metadata']['name']}:{exposed['port']}" == ClusterSettings().url
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]) == (1, {"type": "Recreate"})
    assert deployment["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"]
    namespaces = {part["metadata"]["namespace"] for part in [*parts.values(), node["DaemonSet"]]}
    assert namespaces == {node["Namespace"]["metadata"]["name"]}
