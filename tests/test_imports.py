"""The shape of the house: who imports whom, read from the source."""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import tfdatafree

PACKAGE = Path(tfdatafree.__file__).parent


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(source: str, module: str = "tfdatafree.x") -> set[str]:
    """Full names of all that `source` imports, inside functions too; of `from a import b` both a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def edges(module: str) -> set[str]:
    """Modules of this package that `module` imports; a package's __init__ only where something of its own is imported."""
    found = imported(MODULES[module].read_text(), module)
    inner = {name for name in found if name in MODULES and name != module}
    return {name for name in inner if not any(other.startswith(f"{name}.") for other in inner) or name.count(".") > 1}


GRAPH = {module: edges(module) for module in MODULES}


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def test_no_module_imports_itself_by_way_of_others():
    # `from tfdatafree import __version__` needs the package's first lines only, not its modules.
    graph = {module: targets - {"tfdatafree"} for module, targets in GRAPH.items() if module != "tfdatafree"}
    assert cycle_in(graph) == []
    assert cycle_in({"a": {"b"}, "b": {"a"}}), "a cycle would be found"
    assert "tfdatafree.preparation" in graph["tfdatafree.compress"], "the edges are real"


def test_imports_inside_functions_count():
    assert imported("def f():\n    from tfdatafree.graph import Graph") == {
        "tfdatafree.graph",
        "tfdatafree.graph.Graph",
    }


def test_of_the_package_itself_only_the_version_is_imported():
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "tfdatafree":
                names = {alias.name for alias in node.names} - {"__version__"}
                assert {f"tfdatafree.{name}" for name in names} <= set(MODULES), (
                    f"{module} imports {names} from the package"
                )


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("tfdatafree.numerics")])
def test_numerics_know_no_model_and_no_framework(module):
    found = imported(MODULES[module].read_text(), module)
    assert {name.split(".")[0] for name in found} <= {"numpy", "scipy", "tfdatafree"} | sys.stdlib_module_names
    assert all(name.startswith("tfdatafree.numerics") for name in found if name.startswith("tfdatafree"))


def test_the_flow_is_imported_by_nobody_but_the_doors():
    readers = {module for module, targets in GRAPH.items() if "tfdatafree.compress" in targets}
    assert readers <= {"tfdatafree", "tfdatafree.cli.compress", "tfdatafree.cli.demo"}


def test_stages_do_not_know_the_result_the_report_or_the_command_line():
    outer = {
        "tfdatafree.compressed",
        "tfdatafree.report",
        "tfdatafree.cli",
        "tfdatafree.compress",
        "tfdatafree.progress",
    }
    for module, targets in GRAPH.items():
        if module.count(".") > 1 and not module.startswith("tfdatafree.cli."):
            assert not targets & outer, module
            assert not any(target.startswith("tfdatafree.cli") for target in targets), module


def test_only_one_file_touches_the_private_parts_of_keras():
    private = ("_inbound_nodes", "_nodes_by_depth", "_keras_history", "_inputs_struct", "_outputs_struct")
    readers = {module for module, path in MODULES.items() if any(name in path.read_text() for name in private)}
    assert "tfdatafree.graph" in readers
    assert readers <= {"tfdatafree.graph", "tfdatafree.load", "tfdatafree.load_keras2"}


def test_errors_and_recipes_need_no_framework():
    for module in ("tfdatafree.errors", "tfdatafree.recipe", "tfdatafree.report"):
        names = {name.split(".")[0] for name in imported(MODULES[module].read_text())}
        assert not names & {"keras", "tensorflow", "ai_edge_litert"}, module


def test_nothing_prints_and_nothing_draws_from_global_chance():
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and not module.startswith("tfdatafree.cli")
            ):
                assert node.func.id not in ("print", "hash", "eval", "exec"), f"{module}:{node.lineno}"
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("np.random", "numpy.random"):
                assert node.attr in ("default_rng", "Generator"), f"{module}:{node.lineno}"
