"""What is the same around the panels of every dashboard: name, tags, links, rows and numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Dashboard, DashboardCursorSync, DashboardLinkType, Panel, RowPanel

from dashboards.variables import Variable

TAG: Final = "carbon-exporter"


@dataclass(frozen=True, slots=True)
class Row:
    """A question and the panels that answer it; `folded` where few ask it."""

    question: str
    panels: Sequence[Builder[Panel]]
    folded: bool = False


def dashboard(
    uid: str, title: str, says: str, *, since: str, variables: Sequence[Variable], rows: Sequence[Row]
) -> Dashboard:
    """A dashboard over the time from `since` to now. Its panels are numbered from 1, as deep links name them."""
    links = build.DashboardLink("Carbon").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    frame = (
        build.Dashboard(title)
        .uid(uid)
        .description(says)
        .tags([TAG])
        .readonly()
        .refresh("1m")
        .tooltip(DashboardCursorSync.CROSSHAIR)
    )
    frame = frame.timezone("browser").time(since, "now").link(links.keep_time(True).include_vars(True))
    for variable in variables:
        frame = frame.with_variable(variable)
    for row in rows:
        head = build.Row(row.question).collapsed(row.folded)
        if row.folded:
            for panel in row.panels:
                head = head.with_panel(panel)
        frame = frame.with_row(head)
        if not row.folded:
            for panel in row.panels:
                frame = frame.with_panel(panel)
    return _numbered(frame.build())


def _numbered(built: Dashboard) -> Dashboard:
    everything: list[Panel | RowPanel] = []
    for panel in built.panels or []:
        everything.append(panel)
        if isinstance(panel, RowPanel):
            everything += panel.panels
    for number, panel in enumerate(everything, 1):
        panel.id_val = number
    return built
