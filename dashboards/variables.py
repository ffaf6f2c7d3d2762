"""What a reader selects at the top of a dashboard, and how a query says so.

Every selection is interpolated as `${name:regex}` between backquotes. A job's name may hold quotes, dots, slashes or
brackets: that format escapes it for a regular expression, and a raw string of PromQL takes what it gives as it is.
Grafana's own escaping for Prometheus leaves the double quote alone unless a feature toggle is set. Only a name with a
backquote cannot be selected.
"""

from typing import Final

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

CLUSTER: Final = "cluster=~`${cluster:regex}`"
NAMESPACE: Final = "namespace=~`${namespace:regex}`"
TEAM: Final = "team=~`${team:regex}`"
JOB: Final = "training_job=~`${training_job:regex}`"
EXPORTER: Final = "instance=~`${exporter:regex}`"
INSTANCE: Final = "instance=~`${instance:regex}`"
ZONE: Final = "grid_zone=~`${grid_zone:regex}`"

_POWER: Final = "component:carbon_power_watts:rate5m"
_NODE_POWER: Final = "instance_component:carbon_power_watts:rate5m"
_EMISSIONS: Final = "grid_zone_basis:carbon_emissions_grams_per_second:rate5m"
_INFO: Final = "training_job:carbon_job_info:team"

Variable = Builder[VariableModel]


def select(metric: str, *matchers: str) -> str:
    """The series of `metric` that all `matchers` hold for."""
    return f"{metric}{{{', '.join(matchers)}}}"


def datasource_ref() -> DataSourceRef:
    """The datasource that the reader has selected."""
    return DataSourceRef(type_val="prometheus", uid="${datasource}")


def datasource() -> Variable:
    """Any Prometheus or what speaks like one."""
    return build.DatasourceVariable("datasource").label("Datasource").type("prometheus")


def cluster() -> Variable:
    """By the label cluster, where the scrape configuration gives one; "All" matches where there is none."""
    return _several("cluster", "Cluster", _POWER)


def namespace() -> Variable:
    """Of running jobs."""
    return _several("namespace", "Namespace", select(_INFO, CLUSTER))


def team() -> Variable:
    """Of running jobs in the namespaces selected."""
    return _several("team", "Team", select(_INFO, CLUSTER, NAMESPACE))


def grid_zone() -> Variable:
    """Zones that a node draws its power from."""
    return _several("grid_zone", "Grid zone", select(_EMISSIONS, CLUSTER))


def training_job() -> Variable:
    """One job: the page is about it."""
    return _query("training_job", "Training job", select(_INFO, CLUSTER, NAMESPACE, TEAM)).multi(False)


def chosen_nodes() -> Variable:
    """Some nodes, never all: what is asked of them is asked of each device."""
    return _query("instance", "Nodes", select(_NODE_POWER, CLUSTER), label="instance").multi(True)


def exporters() -> Variable:
    """Node agents and forecast services.

    Another name than that of the chosen nodes: links would carry "All" to where there is none.
    """
    return _several("exporter", "Exporter", select("carbon_exporter_build_info", CLUSTER), of="instance")


def price() -> Variable:
    """What a kilowatt-hour costs, in any currency."""
    return (
        build.TextBoxVariable("price")
        .label("Price per kWh")
        .description("Money for a kilowatt-hour, with a decimal point, in your currency: sums of money are in it.")
        .default_value("0.20")
        .current(VariableOption(selected=True, text="0.20", value="0.20"))
    )


def _several(name: str, label: str, series: str, *, of: str = "") -> build.QueryVariable:
    everything = VariableOption(selected=True, text=["All"], value=["$__all"])
    return _query(name, label, series, label=of).multi(True).include_all(True).all_value(".*").current(everything)


def _query(name: str, title: str, series: str, *, label: str = "") -> build.QueryVariable:
    return (
        build.QueryVariable(name)
        .label(title)
        .datasource(datasource_ref())
        .query(f"label_values({series}, {label or name})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )
