"""Settings -> the text of the rule files, or of one PrometheusRule. Pure, but that it reads its templates."""

import re
from collections.abc import Mapping
from importlib.resources import files
from textwrap import indent
from typing import Final

import yaml

from carbon_exporter.rules.settings import Settings

FILES: Final = ("recording.yaml", "alerts.yaml")
HEADER: Final = "# Written by `carbon-exporter rules`"
"""How every file that it writes begins."""
_FIRST_LINE: Final = f"{HEADER}: change the settings, not this file (docs/rules.md).\n"
# A placeholder alone on its line stands for any number of lines, all indented as it is; for none, the line goes.
_PLACEHOLDER: Final = re.compile(r"^(?P<indent> *)<<(?P<lines>\w+)>>\n|<<(?P<word>\w+)>>", re.MULTILINE)


def rule_files(settings: Settings) -> dict[str, str]:
    """The text of each rule file, by its name."""
    folder = files("carbon_exporter.rules") / "templates"
    templates = {name: (folder / name).read_text(encoding="utf-8") for name in FILES}
    return {name: _FIRST_LINE + text for name, text in filled(templates, placeholders(settings)).items()}


def one_file(settings: Settings) -> str:
    """All rules as one rule file."""
    return f"{_FIRST_LINE}groups:\n{_groups(settings)}"


def prometheus_rule(settings: Settings, name: str, namespace: str | None, labels: Mapping[str, str]) -> str:
    """All rules as a PrometheusRule of the Prometheus operator (monitoring.coreos.com/v1)."""
    metadata = {
        "name": name,
        **({"namespace": namespace} if namespace else {}),
        **({"labels": labels} if labels else {}),
    }
    head = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": metadata}
    return f"{_FIRST_LINE}{yaml.safe_dump(head, sort_keys=False)}spec:\n  groups:\n{indent(_groups(settings), '  ')}"


def _groups(settings: Settings) -> str:
    """What stands under `groups:` in all files."""
    return "\n".join(text.partition("\ngroups:\n")[2] for text in rule_files(settings).values())


def filled(templates: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """The templates with `values` in their placeholders.

    Raises:
        ValueError: a placeholder has no value, or a value no placeholder.
    """
    used = {m["lines"] or m["word"] for text in templates.values() for m in _PLACEHOLDER.finditer(text)}
    if used != values.keys():
        raise ValueError(
            f"placeholders without a value, or values without a placeholder: {sorted(used ^ values.keys())}"
        )

    def put(match: re.Match[str]) -> str:
        if match["word"]:
            return values[match["word"]]
        text = values[match["lines"]]
        return indent(text, match["indent"]) + "\n" if text else ""

    return {name: _PLACEHOLDER.sub(put, text) for name, text in templates.items()}


def placeholders(settings: Settings) -> dict[str, str]:
    """What each placeholder of the templates stands for; each threshold goes by its own name."""
    thresholds = settings.thresholds.model_dump()
    return {
        **{name: value if isinstance(value, str) else number(value) for name, value in thresholds.items()},
        "cluster_label": settings.cluster_label,
        "namespace_label": settings.namespace_label,
        "team_labels": ", ".join(quoted(name) for name in settings.team_labels),
        "runbook_url": settings.runbook_url,
        "interval": f"interval: {settings.interval}" if settings.interval else "",
        "alert_labels": _yaml_lines(settings.alert_labels),
        "budgets_not_pushed": "\n".join(_budgets_not_pushed(settings)),
    }


def _budgets_not_pushed(settings: Settings) -> list[str]:
    """A team's budget for each of its jobs, and the default for the rest, in PromQL."""
    budgets = [(f"{{team={quoted(team)}}}", grams) for team, grams in settings.budgets.team_grams.items()]
    if settings.budgets.default_grams is not None:
        budgets.append(("", settings.budgets.default_grams))
    by = f"({settings.cluster_label}, training_job)"
    return [
        f"or on {by}\n{number(grams)} * max by {by} (training_job:carbon_job_info:team{selector})"
        for selector, grams in budgets
    ]


def _yaml_lines(labels: Mapping[str, str]) -> str:
    wide = 2**31  # never break a line: the next one would lose its indent
    return yaml.safe_dump(dict(labels), width=wide, sort_keys=False).removesuffix("\n") if labels else ""


def number(value: float) -> str:
    """A number as short as it can be written."""
    return format(value, ".15g")


def quoted(text: str) -> str:
    """`text` as a PromQL string; what cannot be seen is escaped, so that it can stand in any YAML block too."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
