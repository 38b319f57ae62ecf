"""The report page in a real browser: Chromium or Chrome if one is installed, driven by playwright."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from tfdatafree import compress
from tfdatafree.demo import load_demo
from tfdatafree.report.page import report_page

pytest.importorskip("bokeh", reason="the report page is drawn with Bokeh: pip install 'bokeh>=3.4'")
playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FOUND = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FOUND is None, reason=f"there is no browser: none of {', '.join(BROWSERS)}"),
]

DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture(scope="module")
def report():
    return result().report


_RESULTS: list = []


def result():
    """The result for the demonstration model, made only once."""
    if not _RESULTS:
        _RESULTS.append(compress(load_demo()[0], verbose=0))
    return _RESULTS[0]


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return result().save(tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def browser():
    # Root, as in containers, cannot start Chromium's sandbox.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=FOUND, args=arguments)
        yield started
        started.close()


class Visit:
    """A page that was opened from disk, with its console messages and requests."""

    def __init__(self, browser, path: Path, options: dict):
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: m.type in ("error", "warning") and self.complaints.append(m.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-plotted]", state="attached")

    def names(self) -> list[str]:
        """Layers that the table shows, from top to bottom."""
        return self.page.eval_on_selector_all(
            "#table tbody tr", "rows => rows.filter(row => row.offsetParent).map(row => row.cells[1].textContent)"
        )

    def chosen(self) -> str:
        return self.page.text_content("#detail-name")

    def model(self, name: str) -> dict:
        """The data of a Bokeh source."""
        return self.page.evaluate(
            """name => {
                for (const document of Bokeh.documents)
                    for (const model of document._all_models.values())
                        if (model.name === name)
                            return Object.fromEntries(Object.entries(model.data).map(([key, values]) => [key, [...values]]));
            }""",
            name,
        )


@pytest.fixture
def visit(browser, path):
    opened = []

    def open_page(options: dict = DESKTOP) -> Visit:
        opened.append(Visit(browser, path, options))
        return opened[-1]

    yield open_page
    for one in opened:
        one.context.close()


@pytest.mark.parametrize(
    "options", [DESKTOP, PHONE, {**DESKTOP, "color_scheme": "dark"}], ids=["desktop", "phone", "dark"]
)
def test_the_page_loads_without_a_complaint_or_a_request_and_fits(visit, path, options):
    one = visit(options)
    assert one.complaints == []
    assert [url for url in one.requests if not url.startswith("data:")] == [path.as_uri()]
    assert one.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert one.page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth)")


def test_the_browser_would_tell_of_errors_and_requests(browser, tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text("<html data-plotted><script>fetch('file:///nowhere'); missing();</script>")
    one = Visit(browser, broken, DESKTOP)
    one.page.wait_for_timeout(200)
    assert any("missing" in text for text in one.complaints)
    assert len(one.requests) + len(one.complaints) > 2
    one.context.close()


def test_dark_and_light_differ_and_text_can_be_read(visit):
    for scheme in ("light", "dark"):
        one = visit({**DESKTOP, "color_scheme": scheme})
        ink, paper = one.page.evaluate(
            "(style => [style.color, style.backgroundColor])(getComputedStyle(document.body))"
            ".map(text => text.match(/[0-9]+/g).slice(0, 3).reduce((sum, part) => sum + +part, 0) / 3)"
        )
        assert (paper > ink) == (scheme == "light") and abs(paper - ink) > 150
        # The plots have the background colour of the text around them, and axes in the colour of soft text.
        plot, text, soft = one.page.evaluate(
            "(figure => [figure.background_fill_color, figure.left[0].major_label_text_color, "
            "getComputedStyle(document.documentElement).getPropertyValue('--soft').trim()])(Bokeh.documents[0].roots()[0])"
        )
        assert plot is None and text == soft


def test_columns_sort_up_and_down_and_what_has_no_value_comes_last(visit, report):
    one = visit()
    assert one.names() == [row.name for row in report.layers]
    one.page.click("th[data-key=sqnr] button")
    rising = sorted(report.layers, key=lambda row: row.sqnr_db)
    assert one.names() == [row.name for row in rising]
    one.page.click("th[data-key=sqnr] button")
    assert one.names() == [row.name for row in rising[::-1]]
    assert one.page.get_attribute("th[data-key=sqnr]", "aria-sort") == "descending"
    for rising_first in (True, False):
        one.page.click("th[data-key=bytes] button")
        sizes = {row.name: row.bytes for row in report.layers}
        shown = [sizes[name] for name in one.names()]
        some = [value for value in shown if value is not None]
        assert shown[len(some) :] == [None] * (len(shown) - len(some)) and len(some) < len(shown)
        assert some == sorted(some, reverse=not rising_first)


def test_filters_show_what_matches_and_count_it(visit, report):
    one = visit()
    one.page.fill("#filter", "Conv2D BLOCK2")
    wanted = [row.name for row in report.layers if "block2" in row.name and "Conv2D" in row.operation]
    assert one.names() == wanted and 0 < len(wanted) < len(report.layers)
    assert one.page.text_content("#shown") == f"{len(wanted)} of {len(report.layers)}"
    one.page.fill("#filter", "")
    one.page.check("#weighted")
    assert one.names() == [row.name for row in report.layers if row.weights is not None]
    one.page.fill("#filter", "no such layer")
    assert one.names() == []


def costliest(report) -> str:
    return max(report.layers, key=lambda row: row.damage or 0).name


def test_the_costliest_tensor_is_chosen_first_and_the_table_shows_its_top_and_all_columns(visit, report):
    one = visit()
    assert one.chosen() == costliest(report)
    top, wide, seen = one.page.evaluate(
        "(box => [box.scrollTop, box.scrollWidth, box.clientWidth])(document.querySelector('.scroll'))"
    )
    assert top == 0 and wide <= seen


def test_a_layer_is_chosen_in_the_table_the_drawing_the_profile_and_by_keys(visit, report):
    one, names = visit(), [row.name for row in report.layers]
    one.page.click(f"#table tbody tr:has-text('{names[1]}')")
    assert one.chosen() == names[1]
    one.page.click("#map .mark >> nth=4")
    assert one.chosen() == names[4] == one.page.text_content("#caption-name")
    one.page.focus("#map .mark.chosen")
    one.page.keyboard.press("ArrowRight")
    assert one.chosen() == names[5]
    one.page.click("#previous")
    assert one.chosen() == names[4]
    one.page.evaluate(
        """() => { for (const document of Bokeh.documents) for (const model of document._all_models.values())
            if (model.name === "profile_dots") model.selected.indices = [2]; }"""
    )
    assert one.chosen() == names[2]
    one.page.click(f"#detail-facts button:has-text('{report.layers[2].reads[0]}')")
    assert one.chosen() == report.layers[2].reads[0]


def test_the_histograms_are_those_of_the_chosen_layer_with_its_grid(visit, report):
    one, evidence = visit(), result().evidence
    at = next(at for at, row in enumerate(report.layers) if row.weights and row.low < 0)
    one.page.click(f"#map .mark >> nth={at}")
    row = report.layers[at]
    counts = evidence.values[row.name].histogram.counts
    assert one.model("values_bars")["share"] == pytest.approx(100 * counts / counts.sum())
    grid = one.model("values_grid")["x"]
    assert len(grid) == 256 and grid[0] == pytest.approx(row.low) and grid[-1] == pytest.approx(row.high)
    bars = one.model("kernel_bars")
    assert bars["count"] == evidence.kernels[row.layer].histogram.counts.tolist()
    assert bars["integer"][0] == -127 and bars["integer"][-1] == 127
    assert one.page.is_visible("#plot-kernel")
    ends = evidence.kernels[row.layer]
    assert one.model("channels_bars")["low"] == pytest.approx(ends.lows.tolist(), rel=0.006)
    assert one.model("channels_bars")["high"] == pytest.approx(ends.highs.tolist(), rel=0.006)
    one.page.click("#map .mark >> nth=0")
    assert not one.page.is_visible("#plot-kernel"), "an input has no weights"


def test_the_drawing_has_a_mark_per_row_and_a_line_per_reader_and_takes_other_colours(visit, report):
    one = visit(PHONE)
    assert one.page.locator("#map .mark").count() == len(report.layers)
    assert one.page.locator("#map .edge").count() == sum(len(row.reads) for row in report.layers)
    fills = "marks => marks.map(mark => mark.querySelector('.shape').style.fill)"
    before = one.page.eval_on_selector_all("#map .mark", fills)
    one.page.select_option("#metric", "sparsity")
    assert one.page.eval_on_selector_all("#map .mark", fills) != before
    assert "no weights" in one.page.text_content("#legend")


def test_a_plots_width_follows_the_window(visit):
    one = visit()
    one.page.set_viewport_size({"width": 500, "height": 800})
    one.page.wait_for_timeout(300)
    assert one.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert one.complaints == []


def test_layers_that_cost_nothing_are_blue_and_what_costs_much_is_red(browser, report, tmp_path):
    cheap, dear = (
        dataclasses.replace(
            report, layers=tuple(dataclasses.replace(row, damage=damage, sqnr_db=3.0) for row in report.layers)
        )
        for damage in (0.002, 0.5)
    )
    colours = []
    for at, shown in enumerate((cheap, dear)):
        page = tmp_path / f"{at}.html"
        page.write_text(report_page(shown, result().recipe, result().evidence), encoding="utf-8")
        one = Visit(browser, page, DESKTOP)
        fill = "getComputedStyle(document.querySelector('#map .shape')).fill.match(/[0-9]+/g).map(Number)"
        colours.append(one.page.evaluate(fill))
        one.page.select_option("#metric", "sqnr")
        assert one.page.evaluate(fill)[0] > one.page.evaluate(fill)[2], "3 dB alone would be red"
        one.context.close()
    assert colours[0][2] > colours[0][0] and colours[1][0] > colours[1][2]


def test_narrow_weights_have_a_mark_and_a_colour(browser, report, tmp_path):
    assert "bits" not in [value for value in option_values(browser, report, tmp_path / "same.html")]
    rows = tuple(
        dataclasses.replace(row, weight_bits=4 if at == 1 else row.weight_bits) for at, row in enumerate(report.layers)
    )
    assert "bits" in option_values(
        browser, dataclasses.replace(report, layers=rows), tmp_path / "mixed.html", widths=["4"]
    )


def option_values(browser, report, path: Path, widths: list[str] | None = None) -> list[str]:
    """The colours that the page of `report` offers; its marks must have the numbers `widths`."""
    path.write_text(report_page(report, result().recipe, result().evidence), encoding="utf-8")
    one = Visit(browser, path, DESKTOP)
    assert one.page.eval_on_selector_all("#map .width", "marks => marks.map(mark => mark.textContent)") == (
        widths or []
    )
    values = one.page.eval_on_selector_all("#metric option", "options => options.map(option => option.value)")
    if "bits" in values:
        one.page.select_option("#metric", "bits")
        assert "4 bits" in one.page.text_content("#legend") and one.complaints == []
    one.context.close()
    return values
