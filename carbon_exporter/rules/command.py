"""`carbon-exporter rules`: write the recording and alerting rules with the settings of the configuration file."""

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from carbon_exporter.model import ConfigurationError
from carbon_exporter.rules.render import HEADER, one_file, prometheus_rule, rule_files
from carbon_exporter.rules.settings import Settings

MANIFEST: Final = "prometheusrule.yaml"
_LABEL_KEY: Final = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Print the rules, or write them into --out. 0.

    Raises:
        ConfigurationError: an argument is wrong, or a file cannot be written or is somebody else's.
    """
    manifest = _manifest(arguments, settings)
    if arguments.out is None:
        sys.stdout.write(manifest or one_file(settings))
        return 0
    texts = {MANIFEST: manifest} if manifest else rule_files(settings)
    paths = write(arguments.out, texts, force=arguments.force)
    told = " ".join(map(str, paths))
    then = f"kubectl apply -f {told}" if manifest else f"promtool check rules {told}, and name them under rule_files"
    sys.stderr.write(f"Wrote {told}. Next: {then}\n")
    return 0


def _manifest(arguments: argparse.Namespace, settings: Settings) -> str | None:
    """The PrometheusRule that is asked for; None where plain files are."""
    given = {"--name": arguments.name, "--namespace": arguments.namespace, "--label": arguments.label}
    if arguments.format == "files":
        for flag, value in given.items():
            if value:
                raise ConfigurationError(f"{flag}: belongs to a manifest: add --format prometheusrule")
        return None
    name = arguments.name or "carbon-exporter"
    for flag, text in (("--name", name), ("--namespace", arguments.namespace)):
        if text is not None and not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", text):
            raise ConfigurationError(f"{flag}: is no name in Kubernetes: give lower-case letters, digits and -")
    return prometheus_rule(settings, name, arguments.namespace, _labels(arguments.label or []))


def _labels(pairs: list[str]) -> dict[str, str]:
    labels = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if not (_LABEL_KEY.fullmatch(key) and "=" in pair and _LABEL_VALUE.fullmatch(value)):
            raise ConfigurationError(f"--label {pair}: give KEY=VALUE as Kubernetes takes it, as in release=prometheus")
        labels[key] = value
    return labels


def write(folder: Path, texts: Mapping[str, str], *, force: bool = False) -> list[Path]:
    """Write each text to its name in `folder`, which is made where it is missing; their paths.

    Each file is replaced in one step. Nothing is written where one of them is somebody else's.

    Raises:
        ConfigurationError: a file is not one that was written here (unless `force`), or cannot be written.
    """
    paths = {folder / name: text for name, text in texts.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            if not force and path.exists() and not path.read_bytes().startswith(HEADER.encode()):
                raise ConfigurationError(f"{path}: was not written by this command: name another --out, or add --force")
        for path, text in paths.items():
            _replace(path, text)
    except OSError as error:
        where = error.filename or folder
        raise ConfigurationError(f"{where}: {error.strerror}: name a folder that can be written with --out") from None
    return list(paths)


def _replace(path: Path, text: str) -> None:
    handle, new = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(new).chmod(0o644)  # Prometheus is another user
        Path(new).replace(path)
    except BaseException:
        Path(new).unlink(missing_ok=True)
        raise
