"""The rooms and what each may import. Directions: cli -> rooms -> grid -> sources, jobs, intensity -> nouns."""

import ast
import subprocess
import sys

import pytest

NOUNS = {"model", "naming", "metrics", "counter", "procfs", "cgroups", "settings", ""} | {
    "answers", "forecast_api", "fuels", "regions", "secret", "timeline"
}  # fmt: skip
# What each room may import besides itself and the nouns.
ALLOWED = {
    "model": set(),
    "naming": set(),
    "metrics": set(),
    "answers": {"model"},
    "forecast_api": set(),
    "fuels": {"model"},
    "regions": {"model"},
    "secret": {"model"},
    "timeline": {"model"},
    "cgroups": {"model", "procfs"},
    "counter": {"model"},
    "procfs": {"model"},
    "settings": {"model"},
    "sources": NOUNS,
    "jobs": NOUNS,
    "intensity": NOUNS,
    "plugins": NOUNS,
    "config": NOUNS,
    "push": {"model", "naming", "metrics"},
    "web": NOUNS,
    "grid": NOUNS | {"plugins", "config", "web"},
    "node": NOUNS | {"plugins", "config", "grid"},
    "forecast": NOUNS | {"grid", "web"},
    "audit": NOUNS | {"plugins", "config", "node"},
    "check": NOUNS | {"plugins", "config", "grid", "node", "web"},
    "rules": NOUNS,
    "demo": NOUNS | {"push", "forecast", "rules"},
    "__main__": {"cli"},
}
PURE = (
    "counter.py",
    "model.py",
    "naming.py",
    "fuels.py",
    "timeline.py",
    "intensity/entsoe/document.py",
    "grid/hours.py",
    "grid/outlook.py",
    "grid/statistical.py",
    "grid/advice.py",
    "grid/replay.py",
    "grid/backtest.py",
    "node/embodied.py",
    "node/grams.py",
    "node/recount.py",
    "jobs/slurm/environment.py",
    "jobs/kubernetes/names.py",
    "node/ledger.py",
    "node/accounts.py",
    "node/gpu_shares.py",
    "node/holders.py",
    "node/idle.py",
    "node/shares.py",
    "forecast/energy.py",
    "forecast/clock.py",
    "forecast/gpus.py",
    "forecast/progress.py",
    "forecast/totals.py",
    "forecast/track.py",
    "forecast/carbon.py",
    "forecast/scores.py",
    "forecast/level.py",
    "forecast/scoring.py",
    "forecast/bands.py",
    "forecast/builtin.py",
    "forecast/conformal.py",
    "forecast/group_calibration.py",
    "forecast/start.py",
    "forecast/stopping.py",
    "forecast/backtest.py",
    "forecast/summary.py",
    "forecast/carbontracker.py",
    "forecast/record.py",
    "forecast/view.py",
)
INPUT_OUTPUT = {"os", "time", "socket", "subprocess", "requests", "random", "threading", "logging", "sqlite3"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            if node.module == "carbon_exporter":
                yield from (f"carbon_exporter.{alias.name}" for alias in node.names)
            else:
                yield node.module


def rooms_imported(path):
    names = (name.split(".") for name in imports(path) if name.split(".")[0] == "carbon_exporter")
    return {parts[1] if len(parts) > 1 else "" for parts in names} - {"__version__"}


def test_imports_point_one_way(repository):
    package = repository / "carbon_exporter"
    files = sorted(package.rglob("*.py"))
    assert len(files) > 30
    for path in files:
        room = path.relative_to(package).parts[0].removesuffix(".py")
        if room in ("cli", "__init__"):
            continue
        extra = rooms_imported(path) - ALLOWED[room] - {room}
        assert not extra, f"{path.relative_to(package)} imports {extra}"


def test_sources_jobs_and_providers_do_not_know_each_other(repository):
    for room in ("sources", "jobs", "intensity"):
        folder = repository / "carbon_exporter" / room
        for path in folder.rglob("*.py"):
            plugin = f"carbon_exporter.{room}.{path.relative_to(folder).parts[0].removesuffix('.py')}"
            of_room = {name for name in imports(path) if name.startswith(f"carbon_exporter.{room}.")}
            assert all(f"{name}.".startswith(f"{plugin}.") for name in of_room), path


@pytest.mark.parametrize("name", PURE)
def test_the_core_does_no_input_or_output(repository, name):
    path = repository / "carbon_exporter" / name
    assert not {module.split(".")[0] for module in imports(path)} & INPUT_OUTPUT


def test_importing_everything_does_nothing(repository):
    """No module but __main__ prints, starts a thread, opens a file for writing or needs the network when imported."""
    program = (
        "import pkgutil, importlib, threading, carbon_exporter\n"
        "for module in pkgutil.walk_packages(carbon_exporter.__path__, 'carbon_exporter.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "assert threading.active_count() == 1\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
