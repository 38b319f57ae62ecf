"""The content of the report page, the evidence behind it, and the report in notebooks."""

import csv
import dataclasses
import functools
import gzip
import html
import importlib.util
import io
import json
import re
import shlex
import sys
import types
import urllib.parse
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import build

import tfdatafree
from tfdatafree import PRESETS, Generate, Prune, Quantize, Recipe, Rule, compress
from tfdatafree.cli import main
from tfdatafree.compressed import Compressed
from tfdatafree.demo import MODEL_PATH
from tfdatafree.errors import MissingPackageError
from tfdatafree.inputs.make import make_inputs
from tfdatafree.model.graph import Graph
from tfdatafree.report.evidence import Evidence, Histogram, make_thumbnails
from tfdatafree.report.network import assign_lanes
from tfdatafree.report.outputs import compare_outputs, output_forms
from tfdatafree.report.page import report_page
from tfdatafree.report.plots import for_script
from tfdatafree.report.reproduce import command_text, python_text
from tfdatafree.report.table import COLUMNS
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.sizes import gzip_bytes

pytest.importorskip("bokeh", reason="the report page is drawn with Bokeh: pip install 'bokeh>=3.4'")

HOSTILE = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>\"&<!--"
QUICK = Recipe(name="quick", generate=Generate(images=4, samples=200, effort="fast"))


@functools.cache
def _compressed(name: str, recipe: Recipe) -> Compressed:
    return compress(build(name), recipe, input_range=(-1, 1), verbose=0)


def compressed(name: str = "branch_add", recipe: Recipe = QUICK) -> Compressed:
    return _compressed(name, recipe)


@functools.cache
def page(name: str = "branch_add", recipe: Recipe = QUICK) -> str:
    result = compressed(name, recipe)
    return report_page(result.report, result.recipe, result.evidence)


class Parsed(HTMLParser):
    """A parsed page: elements, the texts of the table's cells, scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.rows: list[list[str]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag in ("script", "style", "pre", "td", "h1", "title", "dd", "div", "b"):
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data):
        if self._open:
            self.texts[self._open[-1]][-1] += data
        if "td" in self._open:
            self.rows[-1][-1] += data

    @property
    def data(self) -> dict:
        """The data of the page's script."""
        at = [attributes.get("id") for tag, attributes in self.elements if tag == "script"].index("data")
        return json.loads(self.texts["script"][at])


# What the page says


@pytest.mark.slow
def test_every_row_of_the_report_is_in_the_table_with_the_reports_numbers():
    report, columns = compressed().report, [key for key, *_ in COLUMNS]
    rows = [dict(zip(columns, cells, strict=True)) for cells in Parsed(page()).rows if cells]
    assert [row["name"] for row in rows] == [row.name for row in report.layers]
    for shown, row in zip(rows, report.layers, strict=True):
        assert shown["operation"] == row.operation
        assert float(shown["sqnr"]) == pytest.approx(row.sqnr_db, abs=0.05)
        if row.damage is not None:
            assert float(shown["damage"]) == pytest.approx(100 * row.damage, abs=0.005)
        assert shown["activation_bits"] == str(row.activation_bits)
        assert shown["bytes"].replace(",", "") == ("" if row.bytes is None else str(row.bytes))
        assert shown["multiplications"].replace(",", "") == (str(row.multiplications) if row.multiplications else "")
        assert shown["weight_bits"] == ("" if row.weight_bits is None else str(row.weight_bits))
        if row.sparsity is not None:
            assert float(shown["sparsity"]) == pytest.approx(100 * row.sparsity, abs=0.005)


@pytest.mark.slow
def test_the_script_gets_the_same_numbers():
    report = compressed().report
    for shown, row in zip(Parsed(page()).data["layers"], report.layers, strict=True):
        for name in (
            "name",
            "operation",
            "low",
            "high",
            "activation_bits",
            "weight_bits",
            "weights",
            "bytes",
            "damage",
        ):
            assert shown[name] == getattr(row, name)
        assert shown["sqnr"] == row.sqnr_db
        assert tuple(shown["reads"]) == row.reads


@pytest.mark.slow
def test_the_summary_says_what_the_report_says():
    report, text = compressed().report, " ".join(Parsed(page()).texts["div"])
    output = report.outputs[0]
    for wanted in (
        f"{report.bytes:,} bytes; float: {report.float_bytes:,}",
        f"{report.gzip_bytes:,} bytes; float: {report.float_gzip_bytes:,}",
        f"{output.output_discrepancy:.4f}",
        f"{output.response_discrepancy:.4f}",
        str(output.expected),
        f"{report.seconds:.1f} s",
    ):
        assert wanted in text
    assert f"<b>{report.verdict.words}</b> {report.verdict.figure}" in page().partition('class="tiles"')[0]
    compiled = dataclasses.replace(report, npu_bytes=4321)
    assert "4,321 bytes" not in page()
    assert "4,321 bytes" in report_page(compiled, QUICK, Evidence())


@pytest.mark.slow
def test_a_file_is_called_smaller_only_where_it_is():
    report = compressed().report
    small, large = (dataclasses.replace(report, float_bytes=size) for size in (1000 * report.bytes, report.bytes // 2))
    assert "1000.0 times smaller" in report_page(small, QUICK, Evidence())
    assert "smaller" not in report_page(large, QUICK, Evidence()).partition("<main>")[0].partition("<body>")[2]


@pytest.mark.slow
def test_each_reason_stands_once_with_all_it_is_the_reason_of():
    kept = {f"layer_{at}": "the reason of many" for at in range(12)} | {"alone": "a reason of its own"}
    report = dataclasses.replace(compressed().report, kept=kept, notes={"noted": "good to know"})
    text = report_page(report, QUICK, Evidence())
    assert text.count("<b>the reason of many</b>") == 1
    assert ", ".join(f"layer_{at}" for at in range(12)) in text
    assert "a reason of its own" in text and "alone" in text and "good to know" in text


@pytest.mark.parametrize(
    "recipe", [PRESETS["float16"], Recipe(quantize=None, prune=Prune(sparsity=0.5, method="uniform", images=8))]
)
@pytest.mark.slow
def test_float_files_have_a_page_too(recipe):
    result = compressed("plain", recipe)
    parsed = Parsed(report_page(result.report, result.recipe, result.evidence))
    assert parsed.data["layers"] == []
    assert f"{result.report.bytes:,}" in " ".join(parsed.texts["div"])
    assert ("of the weights" in " ".join(parsed.texts["div"])) == (result.report.pruning is not None)


@pytest.mark.slow
def test_a_simulation_has_a_page_without_sizes():
    text = page("plain", dataclasses.replace(QUICK, quantize=Quantize(activation_bits=6)))
    assert "simulation only" in text and "After gzip" not in text


@pytest.mark.slow
def test_the_page_opens_with_what_makes_the_result_useless():
    report = compressed().report
    noisy = dataclasses.replace(report.outputs[0], sqnr_db=1.0, expected=None)
    broken = dataclasses.replace(report, outputs=(noisy,))
    assert broken.failures and not report.failures
    before_tiles = report_page(broken, QUICK, Evidence()).partition('class="tiles"')[0]
    assert "is unlike the float model" in before_tiles.partition("<body>")[2]
    assert "unlike" not in page().partition('class="tiles"')[0]


@pytest.mark.slow
def test_recovery_is_shown_with_what_it_changed():
    report = compressed().report
    assert "--recover=256" in page()
    former = dataclasses.replace(report.outputs[0], output_discrepancy=0.4321)
    for how in ("feature regression", "distillation", "reconstruction"):
        solved = dataclasses.replace(report, before_recovery=(former,), notes={how: "a note of it"})
        shown = report_page(solved, QUICK, Evidence())
        assert "before recovery: 0.4321" in shown and "a note of it" in shown and "--recover=256" not in shown
        assert f"recovered   by {how}; before, agreement with float: {former.expected}; discrepancy 0.4321" in str(
            solved
        )


@pytest.mark.slow
def test_layers_and_recipe_are_there_to_save():
    report = compressed().report
    links = {a["download"]: a["href"] for tag, a in Parsed(page()).elements if tag == "a" and "download" in a}
    content = {name: urllib.parse.unquote(address.partition(",")[2]) for name, address in links.items()}
    assert Recipe.from_dict(json.loads(content["recipe.json"])) == QUICK
    saved = list(csv.DictReader(io.StringIO(content["layers.csv"])))
    assert [row["name"] for row in saved] == [row.name for row in report.layers]
    assert [float(row["damage"] or 0) for row in saved] == [row.damage or 0 for row in report.layers]


# What the page must not do


def references(text: str) -> list[str]:
    """All addresses outside of the page that a browser would load, or that the page links to."""
    parsed = Parsed(text)
    found = [
        attributes[name]
        for _, attributes in parsed.elements
        for name in ("src", "href", "srcset", "action", "data", "poster")
        if attributes.get(name) is not None
    ]
    for style in parsed.texts["style"]:
        found += re.findall(r"@import|url\(", style)
    return [reference for reference in found if not reference.startswith(("data:", "#"))]


@pytest.mark.slow
def test_the_page_refers_to_nothing_outside():
    assert references(page()) == []
    assert references(page().replace("data:image", "https://a.b/")), "a reference would be found"
    policies = [attributes for tag, attributes in Parsed(page()).elements if "content" in attributes]
    policy = next(p["content"] for p in policies if p.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';") and "http" not in policy


@pytest.mark.slow
def test_names_cannot_break_out_of_their_place():
    report = compressed().report
    rows = tuple(
        dataclasses.replace(row, name=f"{HOSTILE}{at}", operation=HOSTILE, reads=tuple())
        for at, row in enumerate(report.layers)
    )
    output = dataclasses.replace(report.outputs[0], name=HOSTILE)
    hostile = dataclasses.replace(
        report,
        model=HOSTILE,
        recipe=HOSTILE,
        layers=rows,
        outputs=(output, output),
        kept={HOSTILE: HOSTILE},
        notes={f"{HOSTILE}0": HOSTILE},
        call={"model": HOSTILE, "input_range": (0.0, 1.0)},
    )
    evidence = Evidence(inputs={HOSTILE: np.zeros((1, 9, 9, 3), np.uint8), "b": np.zeros((1, 9, 9, 3), np.uint8)})
    honest = Parsed(report_page(report, QUICK, evidence))
    attacked = Parsed(report_page(hostile, QUICK, evidence))

    def scripts(parsed):
        return [tag for tag, _ in parsed.elements].count("script")

    assert scripts(attacked) == scripts(honest)
    assert not [attributes for _, attributes in attacked.elements if set(attributes) & {"onerror", "onclick", "onload"}]
    assert attacked.texts["h1"] == [HOSTILE]
    assert [layer["name"] for layer in attacked.data["layers"]] == [row.name for row in rows]
    assert [cells[1] for cells in attacked.rows if cells] == [row.name for row in rows]
    notebook = hostile._repr_html_()
    assert "<script" not in notebook and "<img" not in notebook


def test_data_for_a_script_is_json_that_ends_no_script():
    assert json.loads(for_script({"a": HOSTILE})) == {"a": HOSTILE}
    assert not set(for_script([HOSTILE])) & set("<>&")
    with pytest.raises(ValueError, match="not JSON compliant"):
        for_script(float("nan"))


# What the page is made from


def test_a_kernels_histogram_counts_the_files_integers():
    result = compressed()
    file = File.parse(result.tflite)
    in_file = {}
    for operator in file.operators:
        if "CONV" in file.operator_name(operator) or "FULLY" in file.operator_name(operator):
            in_file[file.name(operator.outputs[0])] = file.constant(operator.inputs[1])
    kernels = list(result.evidence.kernels.values())
    assert len(kernels) == len(in_file) > 2
    for kernel, integers in zip(kernels, in_file.values(), strict=True):
        histogram = kernel.histogram
        assert (histogram.low, histogram.high, len(histogram.counts)) == (-127.5, 127.5, 255)
        np.testing.assert_array_equal(
            histogram.counts, np.bincount(integers.reshape(-1).astype(int) + 127, minlength=255)
        )
        assert kernel.sparsity == np.mean(integers == 0)


@pytest.mark.slow
def test_zeros_and_clipping_of_rows_are_those_that_were_made():
    recipe = dataclasses.replace(QUICK, prune=Prune(sparsity=0.6, method="uniform", images=8))
    report = compressed("plain", recipe).report
    kernels = [row for row in report.layers if row.weights]
    zeros = sum(row.sparsity * row.weights for row in kernels)
    # Rounding can only add zeros.
    assert zeros / sum(row.weights for row in kernels) >= report.pruning.sparsity > 0.5
    tight = dataclasses.replace(QUICK, quantize=Quantize(ranges="percentile"))
    assert all(0 <= row.clipped <= 1 for row in compressed("plain", tight).report.layers)
    assert all(row.seen[0] <= row.seen[1] for row in report.layers)


def test_every_value_is_in_some_bin():
    values = np.array([-1.0, -1.0, 0.0, 2.0], np.float32)
    histogram = Histogram.of(values, -1, 2, 3)
    np.testing.assert_array_equal(histogram.counts, [2, 1, 1])
    assert Histogram.of(np.zeros(5), 0, 0).counts.sum() == 5
    for constant in (0.5, -3e8, 7e-20):
        nearly = np.nextafter(np.float32(constant), np.float32([-np.inf, constant, np.inf]))
        assert Histogram.of(nearly, float(nearly.min()), float(nearly.max())).counts.sum() == 3


def test_rows_read_rows_before_them_and_residuals_read_two():
    report = compressed().report
    seen = set()
    for row in report.layers:
        assert set(row.reads) <= seen
        assert row.reads or row.operation == "input"
        assert len(row.reads) == 2 or row.operation != "Add"
        seen.add(row.name)
    assert any(row.operation.startswith("Add") for row in report.layers)


def test_outputs_are_compared_with_the_users_model_on_the_generated_inputs():
    result, model = compressed(), build("branch_add")
    inputs = make_inputs(Graph.from_keras(model), 4, (-1, 1), seed=0)
    forms = output_forms(Graph.from_keras(model))
    wanted = compare_outputs(forms, [model.predict(inputs[0], verbose=0)], [result.predict(inputs[0])])[0]
    found = result.report.outputs[0]
    assert result.report.compared == 4
    assert found.output_discrepancy == pytest.approx(wanted.output_discrepancy, rel=1e-3)
    assert found.response_discrepancy == pytest.approx(wanted.response_discrepancy, rel=1e-3)
    assert found.agreement == wanted.agreement


def test_gzip_sizes_are_those_of_gzip():
    parts = [bytes(1000), np.random.default_rng(0).bytes(5000)]
    assert gzip_bytes(parts) == pytest.approx(len(gzip.compress(b"".join(parts), 9)), abs=16)
    assert compressed().report.gzip_bytes == gzip_bytes([compressed().tflite])


def test_images_are_shown_small_and_stretched_and_other_inputs_are_not():
    wide = np.linspace(-3, 5, 2 * 300 * 200 * 3, dtype=np.float32).reshape(2, 300, 200, 3)
    shown = make_thumbnails(
        ["a", "b", "c", "d"], [wide, np.zeros((2, 7)), np.zeros((2, 1, 400, 3)), np.zeros((2, 9, 9, 5))]
    )
    assert list(shown) == ["a"] and shown["a"].dtype == np.uint8
    assert shown["a"].shape == (2, 75, 50, 3)
    assert shown["a"].min() == 0 and shown["a"].max() == 255


@st.composite
def networks(draw):
    count = draw(st.integers(1, 30))
    reads = [[]]
    for at in range(1, count):
        reads.append(draw(st.lists(st.integers(0, at - 1), min_size=1, max_size=3, unique=True)))
    return reads


@given(networks())
@pytest.mark.slow
def test_tensors_that_are_still_to_be_read_have_lanes_of_their_own(reads):
    names = [f"t{at}" for at in range(len(reads))]
    found = assign_lanes(names, [[names[source] for source in sources] for sources in reads])
    last = {at: max([at, *(to for to, sources in enumerate(reads) if at in sources)]) for at in range(len(reads))}
    for first in range(len(reads)):
        for second in range(first + 1, len(reads)):
            # A tensor may take the lane of a tensor that it is the last to read.
            assert found[first] != found[second] or last[first] <= second
    assert found[0] == 0


def test_a_chain_stays_in_one_lane_and_a_residual_leaves_it():
    assert assign_lanes("abc", [[], ["a"], ["b"]]) == [0, 0, 0]
    assert assign_lanes("abcd", [[], ["a"], ["b"], ["a", "c"]]) == [0, 1, 1, 0]


# How to make the same file again


@pytest.mark.parametrize(
    "recipe",
    [
        *PRESETS.values(),
        QUICK,
        Recipe(quantize=Quantize(weight_bits=4, bias_correction=False), prune=Prune(sparsity=0.25), equalize=True),
        dataclasses.replace(PRESETS["int8"], equalize=True),
        Recipe(rules=(Rule("block_1*", weight_bits=4), Rule("Dense", keep_float=True), Rule("stem"))),
    ],
    ids=lambda recipe: recipe.name,
)
def test_the_python_of_a_recipe_makes_that_recipe(recipe, monkeypatch):
    asked = []

    class Result:
        def save(self, path):
            asked.append(path)

    def remember(model, recipe="int8", **options):
        asked.extend([model, recipe, options])
        return Result()

    monkeypatch.setattr(tfdatafree, "compress", remember)
    call = {"model": "a b.keras", "input_range": (-1.0, 1.0), "seed": 3, "target": "generic", "input_shape": None}
    exec(python_text(recipe, call), {})
    model, given, options, path = asked
    assert model == "a b.keras" and options == {"input_range": (-1.0, 1.0), "seed": 3} and path == "model.tflite"
    assert (PRESETS[given] if isinstance(given, str) else given) == recipe


@pytest.mark.slow
def test_the_command_line_is_told_where_it_has_words_for_it():
    call = {"model": "a b.keras", "input_range": (-1.0, 1.0), "seed": 3}
    assert command_text(PRESETS["dfq"], call) == (
        "tfdatafree compress 'a b.keras' -o model.tflite --recipe=dfq --input_range=-1,1 --seed=3"
    )
    assert command_text(QUICK, call) == (
        "tfdatafree compress 'a b.keras' -o model.tflite --recipe=recipe.json --input_range=-1,1 --seed=3"
    )
    assert "recipe.json holds the full recipe" in page(recipe=QUICK)
    assert command_text(PRESETS["dfq"], {**call, "representative_data": True}) is None
    given = command_text(PRESETS["dfq"], {**call, "representative_data": "my images"})
    assert given.endswith("--seed=3 '--representative_data=my images'")
    assert "representative_data='my images'" in python_text(QUICK, {"representative_data": "my images"})
    assert "inputs: the same representative inputs" in python_text(QUICK, {"representative_data": True})


@pytest.mark.slow
def test_the_command_that_was_typed_is_the_one_to_type_again(tmp_path):
    words = ["compress", str(MODEL_PATH), "-o", f"{tmp_path}/a b.tflite", "--input_range=-1,1", "--seed=3", "--quiet"]
    assert main([*words, f"--report={tmp_path}/a.json"]) == 0
    command = json.loads((tmp_path / "a.json").read_text())["report"]["command"]
    first = (tmp_path / "a b.tflite").read_bytes()
    name, *again = shlex.split(command)
    assert name == "tfdatafree" and {"--input_range=-1,1", "--seed=3", "--quiet"} < set(again)
    assert main([*again, "--overwrite"]) == 0
    assert (tmp_path / "a b.tflite").read_bytes() == first
    assert html.escape(command) in report_page(
        dataclasses.replace(compressed().report, command=command), QUICK, Evidence()
    )


# Saving and notebooks


@pytest.mark.slow
def test_the_page_is_saved_whole_and_the_same_each_time(tmp_path):
    path = compressed().save(tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and text.rstrip().endswith("</html>")
    assert len(text.encode()) < 3_000_000


def test_without_bokeh_the_error_says_how_to_get_it_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"Bokeh.*pip install 'bokeh>=3\.4'"):
        compressed().save(tmp_path / "report.html")
    assert main(["compress", str(MODEL_PATH), "-o", f"{tmp_path}/a.tflite", f"--report={tmp_path}/a.html"]) == 1
    assert "pip install 'bokeh>=3.4'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_frame_has_a_row_per_tensor_and_without_pandas_the_error_says_how_to_get_it(monkeypatch):
    made = []
    monkeypatch.setitem(
        sys.modules, "pandas", types.SimpleNamespace(DataFrame=lambda rows, columns: made.append((rows, columns)))
    )
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "pandas" or find(name))
    report = compressed().report
    report.to_frame()
    rows, columns = made[0]
    assert [row["name"] for row in rows] == [row.name for row in report.layers] and set(columns) == set(rows[0])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="pip install pandas"):
        report.to_frame()


def test_in_a_notebook_the_report_is_a_table_without_scripts():
    report, shown = compressed().report, compressed().report._repr_html_()
    parsed = Parsed(shown)
    assert [cells[0] for cells in parsed.rows if len(cells) == 7] == [row.name for row in report.layers]
    assert f"{report.bytes:,} bytes" in shown and "<script" not in shown
