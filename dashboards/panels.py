"""The few kinds of panel that all dashboards are made of, and the frame around them.

A panel has a title, a description (what it says, from which series, what to do), a unit, and a text for when there is
nothing to show. Stats, bars and tables ask for now (instant), time series for the range.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from grafana_foundation_sdk.builders import bargauge, common, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus as query_builder
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as choices
from grafana_foundation_sdk.models.dashboard import (
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Panel,
    Threshold,
    ThresholdsConfig,
    ThresholdsMode,
    ValueMap,
    ValueMapping,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.variables import datasource_ref

# Okabe and Ito's colours, which people with any colour vision tell apart (https://jfly.uni-koeln.de/color/).
ORANGE: Final = "#E69F00"
SKY: Final = "#56B4E9"
GREEN: Final = "#009E73"
BLUE: Final = "#0072B2"
VERMILLION: Final = "#D55E00"
PURPLE: Final = "#CC79A7"
COLOURS: Final[Mapping[str, str]] = {"gpu": GREEN, "cpu": BLUE, "dram": SKY, "idle": ORANGE, "system": PURPLE}
"""Of components and reasons, wherever they are legends."""
UNUSED_COLOURS: Final[Mapping[str, str]] = {
    "gpu idle": GREEN,
    "cpu idle": BLUE,
    "dram idle": SKY,
    "gpu system": ORANGE,
    "cpu system": PURPLE,
    "dram system": VERMILLION,
}
LEVELS: Final[Mapping[str, tuple[str, str]]] = {
    "0": ("as asked for", GREEN),
    "1": ("last good value", SKY),
    "2": ("country's yearly mean", ORANGE),
    "3": ("world's yearly mean", VERMILLION),
}
"""Fallback levels of a grid intensity in words."""
AnyPanel: TypeAlias = Builder[Panel]
PER_KWH: Final = "suffix:g/kWh"
"""Grafana puts the space."""
JOULES_PER_KWH: Final = "3.6e6"


@dataclass(frozen=True, slots=True)
class Query:
    """An expression and the legend of its series."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Column:
    """A value of a table: its expression, header and unit; `hidden` where only its labels are wanted."""

    expr: str
    header: str
    unit: str = "short"
    decimals: int | None = None
    hidden: bool = False
    words: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def stat_panel(
    title: str,
    says: str,
    queries: Sequence[Query],
    *,
    unit: str,
    empty: str,
    width: int,
    height: int = 4,
    bad_from: float | None = None,
    good_from: float | None = None,
    decimals: int | None = None,
    words: Mapping[str, tuple[str, str]] | None = None,
) -> AnyPanel:
    """Numbers of now.

    `empty` is written in one line, as small as it must be: a few words. `bad_from` or `good_from`: where vermillion
    begins or ends; without either no colour judges.
    """
    panel = stat.Panel().title(title).description(says).span(width).height(height).unit(unit).no_value(empty).min(0)
    panel = panel.datasource(datasource_ref()).targets(_instant(queries)).graph_mode(choices.BigValueGraphMode.NONE)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    judged = bad_from is not None or good_from is not None or words
    panel = panel.color_mode(choices.BigValueColorMode.VALUE if judged else choices.BigValueColorMode.NONE)
    panel = panel.thresholds(_thresholds(bad_from, good_from)).mappings(_mappings(words or {}))
    if any(query.legend for query in queries):
        panel = panel.text_mode(choices.BigValueTextMode.VALUE_AND_NAME)
    return panel if decimals is None else panel.decimals(decimals)


def time_panel(
    title: str,
    says: str,
    queries: Sequence[Query],
    *,
    unit: str,
    empty: str,
    width: int = 12,
    stacked: bool = False,
    most: float | None = None,
    bad_from: float | None = None,
    good_from: float | None = None,
    band: tuple[str, str] | None = None,
    dashed: Sequence[str] = (),
    colours: Mapping[str, str] = COLOURS,
) -> AnyPanel:
    """Lines over the range. `band`: the legends of its lower and upper edge; `dashed`: those of limits and plans."""
    panel = timeseries.Panel().title(title).description(says).span(width).height(8).unit(unit).no_value(empty).min(0)
    panel = panel.datasource(datasource_ref()).targets(_ranges(queries)).line_width(2).fill_opacity(0)
    panel = panel.show_points(choices.VisibilityMode.NEVER).thresholds(_thresholds(bad_from, good_from))
    panel = panel.color_scheme(build.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
    panel = panel.tooltip(
        common.VizTooltipOptions().mode(choices.TooltipDisplayMode.MULTI).sort(choices.SortOrder.DESCENDING)
    )
    legend = common.VizLegendOptions().display_mode(choices.LegendDisplayMode.LIST).show_legend(True)
    panel = panel.legend(legend.placement(choices.LegendPlacement.BOTTOM))
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(choices.StackingMode.NORMAL)).fill_opacity(60).line_width(1)
    if most is not None:
        panel = panel.max(most)
    if bad_from is not None or good_from is not None:
        line = common.GraphThresholdsStyleConfig().mode(choices.GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds_style(line)
    for name, colour in colours.items():
        # A legend may say more: "gpu idle", "node-1 gpu".
        panel = panel.override_by_regexp(rf"/(^|\s){name}$/", [_colour(colour)])
    for name in dashed:
        dashes = DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [10, 10]})
        panel = panel.override_by_name(name, [dashes])
    if band is not None:
        low, high = band
        edge = DynamicConfigValue(id_val="custom.lineWidth", value=0)
        fill = DynamicConfigValue(id_val="custom.fillOpacity", value=25)
        below = DynamicConfigValue(id_val="custom.fillBelowTo", value=low)
        panel = panel.override_by_name(low, [_colour(SKY), edge])
        panel = panel.override_by_name(high, [_colour(SKY), edge, fill, below])
    return panel


def bar_panel(
    title: str, says: str, queries: Sequence[Query], *, unit: str, empty: str, width: int, height: int = 8
) -> AnyPanel:
    """Bars of now, from 0, the longest being the panel's width; those of one query by length."""
    panel = bargauge.Panel().title(title).description(says).span(width).height(height).unit(unit).no_value(empty)
    if len(queries) == 1:
        queries = [Query(f"sort_desc({queries[0].expr})", queries[0].legend)]
    panel = panel.min(0).datasource(datasource_ref()).targets(_instant(queries))
    panel = panel.orientation(choices.VizOrientation.HORIZONTAL).display_mode(choices.BarGaugeDisplayMode.BASIC)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return panel.color_scheme(build.FieldColor().mode(FieldColorModeId.FIXED).fixed_color(SKY))


def state_panel(
    title: str,
    says: str,
    queries: Sequence[Query],
    *,
    words: Mapping[str, tuple[str, str]],
    empty: str,
    width: int = 12,
) -> AnyPanel:
    """A band a series, its state in words. `words`: value -> (text, colour)."""
    panel = statetimeline.Panel().title(title).description(says).span(width).height(8).unit("none").no_value(empty)
    panel = panel.datasource(datasource_ref()).targets(_ranges(queries)).mappings(_mappings(words))
    return panel.show_value(choices.VisibilityMode.AUTO).fill_opacity(70)


def table_panel(
    title: str,
    says: str,
    columns: Sequence[Column],
    *,
    labels: Mapping[str, str],
    empty: str,
    width: int = 24,
    height: int = 8,
    links: Mapping[str, str] | None = None,
    words: Mapping[str, Mapping[str, tuple[str, str]]] | None = None,
) -> AnyPanel:
    """Rows of now, joined by the labels that the columns share. The first value sorts them.

    `labels`: label -> header; `links`: label -> address; `words`: label -> its values in other words and colours.
    """
    names = [f"Value #{letter}" if len(columns) > 1 else "Value" for letter in "ABCDEFGHIJ"[: len(columns)]]
    hidden = {"Time": True, "__name__": True} | {
        name: True for name, one in zip(names, columns, strict=True) if one.hidden
    }
    # Columns come in this order, whichever query answers first.
    order = {name: index for index, name in enumerate(["cluster", *labels, *names])}
    panel = table.Panel().title(title).description(says).span(width).height(height).unit("short").no_value(empty)
    panel = panel.datasource(datasource_ref()).targets(_tables(columns)).filterable(True)
    panel = panel.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    options = {"excludeByName": hidden, "indexByName": order, "renameByName": {}}
    panel = panel.with_transformation(DataTransformerConfig(id_val="organize", options=options))
    for name, header in {"cluster": "Cluster", **labels}.items():
        # As strings: with a unit a job called 123456 would be 123 K, in its link too.
        properties = [DynamicConfigValue(id_val="displayName", value=header), _unit("string"), _BLANK]
        if links and name in links:
            link = {"title": f"Open {header.lower()}", "url": links[name]}
            properties.append(DynamicConfigValue(id_val="links", value=[link]))
        if words and name in words:
            properties += _coloured(words[name])
        panel = panel.override_by_name(name, properties)
    # Where only one query has an answer, Grafana may leave the letter off.
    panel = panel.override_by_regexp("/^Value( #A)?$/", _column(columns[0]))
    for name, one in zip(names[1:], columns[1:], strict=True):
        panel = panel.override_by_name(name, _column(one))
    shown = [(name, one) for name, one in zip(names, columns, strict=True) if not one.hidden]
    if shown:
        panel = panel.sort_by([common.TableSortByFieldState().display_name(shown[0][1].header).desc(True)])
    return panel


_BLANK: Final = DynamicConfigValue(id_val="noValue", value="-")
"""In a cell, where Grafana would write the text of the table that has no rows."""


def _unit(unit: str) -> DynamicConfigValue:
    return DynamicConfigValue(id_val="unit", value=unit)


def _column(column: Column) -> list[DynamicConfigValue]:
    properties = [DynamicConfigValue(id_val="displayName", value=column.header)]
    properties += [_unit(column.unit), _BLANK]
    if column.decimals is not None:
        properties.append(DynamicConfigValue(id_val="decimals", value=column.decimals))
    return properties + (_coloured(column.words) if column.words else [])


def _coloured(words: Mapping[str, tuple[str, str]]) -> list[DynamicConfigValue]:
    return [
        DynamicConfigValue(id_val="mappings", value=_mappings(words)),
        DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-text"}),
    ]


def _colour(colour: str) -> DynamicConfigValue:
    return DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": colour})


def _mappings(words: Mapping[str, tuple[str, str]]) -> list[ValueMapping]:
    if not words:
        return []
    results = {value: ValueMappingResult(text=text, color=colour) for value, (text, colour) in words.items()}
    return [ValueMap(options=results)]


def _thresholds(bad_from: float | None, good_from: float | None) -> Builder[ThresholdsConfig]:
    if good_from is not None:
        steps = [Threshold(value=None, color=VERMILLION), Threshold(value=good_from, color=GREEN)]
    elif bad_from is not None:
        steps = [Threshold(value=None, color=GREEN), Threshold(value=bad_from, color=VERMILLION)]
    else:
        steps = [Threshold(value=None, color=SKY)]
    return build.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _target(expr: str, index: int) -> query_builder.Dataquery:
    return query_builder.Dataquery().datasource(datasource_ref()).expr(expr).ref_id("ABCDEFGHIJ"[index])


def _instant(queries: Sequence[Query]) -> list[Builder[Dataquery]]:
    return [_target(one.expr, n).instant().legend_format(one.legend or "__auto") for n, one in enumerate(queries)]


def _ranges(queries: Sequence[Query]) -> list[Builder[Dataquery]]:
    return [_target(one.expr, n).range().legend_format(one.legend) for n, one in enumerate(queries)]


def _tables(columns: Sequence[Column]) -> list[Builder[Dataquery]]:
    targets = enumerate(columns)
    return [_target(one.expr, n).instant().format(PromQueryFormat.TABLE).legend_format("__auto") for n, one in targets]
