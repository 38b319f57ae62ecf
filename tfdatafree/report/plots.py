"""The page's plots, made with Bokeh: histograms of the chosen layer, and the SQNR along the network.

The plots are empty here; the page's script fills them. Bokeh's JavaScript is part of the page, so that it needs no internet.
"""

import importlib.util
import json
from collections.abc import Sequence
from typing import Any

from tfdatafree.errors import MissingPackageError


def require_bokeh() -> None:
    """Raises MissingPackageError if Bokeh is not installed."""
    if importlib.util.find_spec("bokeh") is None:
        raise MissingPackageError(
            "the report page is drawn with Bokeh, which is not installed: pip install 'bokeh>=3.4'; "
            "or save the report as .json, which does not need it."
        )


def library() -> str:
    """Bokeh's JavaScript, for a <script> element."""
    from bokeh.resources import INLINE

    source = INLINE.js_raw[0]
    return source.partition("//# sourceMappingURL=")[0].replace("</script", "<\\/script")


def palette() -> list[str]:
    """Colours from bad to good, which people with red-green colour blindness can distinguish."""
    from bokeh.palettes import RdYlBu11

    return list(RdYlBu11)[::-1]


def shades() -> list[str]:
    """Colours from light to dark of one hue, for amounts that are neither good nor bad."""
    from bokeh.palettes import Blues9

    return list(Blues9)[::-1]


def empty_plots() -> dict[str, Any]:
    """{"values", "kernel", "channels", "profile"}: plots as Bokeh's JSON. The page's script gives them data and colours."""
    from bokeh.embed import json_item

    plots = {"values": _values(), "kernel": _kernel(), "channels": _channels(), "profile": _profile()}
    return {name: json_item(plot) for name, plot in plots.items()}


def for_script(value: Any) -> str:
    """JSON that is safe inside a <script> element, whatever texts it holds."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _figure(height: int, x_label: str, y_label: str, tools: Sequence[Any], **options: Any) -> Any:
    from bokeh.plotting import figure

    plot = figure(
        height=height,
        sizing_mode="stretch_width",
        tools=list(tools),
        toolbar_location="above",
        x_axis_label=x_label,
        y_axis_label=y_label,
        active_drag=None,  # so that a finger that moves over a plot scrolls the page
        active_scroll=None,
        active_inspect="auto",
        min_border_right=16,
        output_backend="canvas",
        background_fill_color=None,  # the page's own shows
        border_fill_color=None,
        **options,
    )
    plot.toolbar.logo = None
    plot.toolbar.stylesheets = [".bk-divider { background-color: var(--line); }"]  # Bokeh's own is white in the dark
    if "border_line_color" in plot.properties():  # Bokeh draws such a line since 3.8
        plot.border_line_color = None
    plot.xgrid.visible = False
    plot.axis.minor_tick_line_color = None
    plot.y_range.start = 0
    return plot


def _zoom_tools(hover: Any) -> list[Any]:
    from bokeh.models import BoxZoomTool, PanTool, ResetTool, WheelZoomTool

    return [
        BoxZoomTool(dimensions="width"),
        PanTool(dimensions="width"),
        WheelZoomTool(dimensions="width"),
        ResetTool(),
        hover,
    ]


def _histogram(name: str, x_label: str, y_label: str, tooltips: list[tuple[str, str]], columns: Sequence[str]) -> Any:
    """A plot with bars from the source `{name}_bars`."""
    from bokeh.models import ColumnDataSource, HoverTool, Range1d

    bars = ColumnDataSource({column: [] for column in columns}, name=f"{name}_bars")
    hover = HoverTool(visible=False, tooltips=tooltips, mode="vline")
    ranges = {"x_range": Range1d(0, 1), "y_range": Range1d(0, 1)}
    plot = _figure(230, x_label, y_label, _zoom_tools(hover), **ranges)
    quads = plot.quad(
        left="left", right="right", top="share", bottom=0, source=bars, line_width=0, name=f"{name}_quads"
    )
    hover.renderers = [quads]
    return plot


def _values() -> Any:
    from bokeh.models import BoxAnnotation, ColumnDataSource, Span

    tooltips = [("from", "@left{0.0000}"), ("to", "@right{0.0000}"), ("share", "@share{0.00} %")]
    plot = _histogram("values", "value in float", "% of values", tooltips, ("left", "right", "share"))
    grid = ColumnDataSource({"x": []}, name="values_grid")
    plot.vspan(x="x", source=grid, line_width=0.6, line_alpha=0.3, name="values_steps")
    for name in ("below", "above"):
        plot.add_layout(BoxAnnotation(fill_alpha=0.25, line_width=0, name=f"values_{name}", visible=False))
    plot.add_layout(Span(location=0, dimension="height", line_dash="dashed", line_width=1.5, name="values_zero"))
    return plot


def _kernel() -> Any:
    tooltips = [("integer", "@integer"), ("weights", "@count{0,0}"), ("share", "@share{0.00} %")]
    columns = ("left", "right", "share", "integer", "count")
    return _histogram("kernel", "integer in the file", "% of weights", tooltips, columns)


def _channels() -> Any:
    from bokeh.models import ColumnDataSource, HoverTool, Range1d

    bars = ColumnDataSource({name: [] for name in ("channel", "low", "high")}, name="channels_bars")
    hover = HoverTool(
        visible=False, tooltips=[("channel", "@channel"), ("least", "@low{0.0000}"), ("largest", "@high{0.0000}")]
    )
    ranges = {"x_range": Range1d(0, 1), "y_range": Range1d(0, 1)}
    plot = _figure(190, "output channel", "weight", _zoom_tools(hover), **ranges)
    hover.renderers = [plot.vbar("channel", 0.8, "high", "low", source=bars, line_width=0, name="channels_quads")]
    return plot


def _profile() -> Any:
    from bokeh.models import ColumnDataSource, HoverTool, Range1d, TapTool

    dots = ColumnDataSource(
        {name: [] for name in ("x", "y", "name", "operation", "sqnr", "damage", "colour")}, name="profile_dots"
    )
    links = ColumnDataSource({name: [] for name in ("x0", "y0", "x1", "y1")}, name="profile_links")
    hover = HoverTool(
        visible=False,
        tooltips=[("layer", "@name"), ("operation", "@operation"), ("SQNR", "@sqnr"), ("cost", "@damage")],
    )
    tools = [*_zoom_tools(hover), TapTool(visible=False)]
    plot = _figure(
        250, "tensor, from input to output", "SQNR in dB", tools, x_range=Range1d(0, 1), y_range=Range1d(0, 1)
    )
    plot.segment("x0", "y0", "x1", "y1", source=links, line_width=1.2, line_alpha=0.55, name="profile_lines")
    points = plot.scatter(
        "x",
        "y",
        source=dots,
        size=9,
        fill_color="colour",
        line_width=0.8,
        nonselection_fill_alpha=1.0,
        name="profile_points",
    )
    hover.renderers = [points]
    return plot
