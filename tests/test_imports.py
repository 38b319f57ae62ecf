"""The shape of the house: who imports whom, read from the source."""

import ast
import inspect
import sys
from collections.abc import Iterator
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


GRAPH = {module: edges(module) for module in MODULES if module != "tfdatafree"}


def folder_of(module: str) -> str:
    """The folder of a module; a module at the top of the package stands for itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 or MODULES[module].name == "__init__.py" else module


def folder_graph() -> dict[str, set[str]]:
    """Folder -> folders (and modules at the top) that it imports. The package's own __init__ is its shop window."""
    graph: dict[str, set[str]] = {}
    for module, targets in GRAPH.items():
        found = graph.setdefault(folder_of(module), set())
        found.update(folder_of(target) for target in targets)
    return {folder: targets - {folder} for folder, targets in graph.items()}


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def test_no_module_imports_itself_by_way_of_others():
    assert cycle_in(GRAPH) == []
    assert cycle_in({"a": {"b"}, "b": {"a"}}), "a cycle would be found"
    assert "tfdatafree.flow.steps" in GRAPH["tfdatafree.compress"], "the edges are real"


def test_no_folder_imports_itself_by_way_of_others():
    graph = folder_graph()
    assert cycle_in(graph) == []
    assert {"model", "numerics"} <= graph["quantization"] and "quantization" in graph["export"], "the edges are real"


def test_imports_inside_functions_count():
    assert imported("def f():\n    from tfdatafree.model.graph import Graph") == {
        "tfdatafree.model.graph",
        "tfdatafree.model.graph.Graph",
    }


def test_nobody_imports_the_shop_window():
    readers = {module for module, targets in GRAPH.items() if "tfdatafree" in targets}
    assert readers == set(), "modules import from where a name is defined"


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("tfdatafree.numerics")])
def test_numerics_know_no_model_and_no_framework(module):
    found = imported(MODULES[module].read_text(), module)
    assert {name.split(".")[0] for name in found} <= {"numpy", "scipy", "tfdatafree"} | sys.stdlib_module_names
    assert all(name.startswith("tfdatafree.numerics") for name in found if name.startswith("tfdatafree"))


def test_the_flow_is_imported_by_nobody_but_the_doors():
    readers = {module for module, targets in GRAPH.items() if "tfdatafree.compress" in targets}
    assert readers <= {
        "tfdatafree.cli.compress",
        "tfdatafree.cli.demo",
        "tfdatafree.stages",
        "tfdatafree.sweeping.work",
    }


def test_stages_do_not_know_the_result_the_report_or_the_command_line():
    stages = (
        "numerics",
        "tflite",
        "model",
        "canonical",
        "measuring",
        "preconditioning",
        "quantization",
        "pruning",
        "export",
    )
    outer = {"cli", "report", "recovery", "flow", "diagnosis", "tfdatafree.compressed", "tfdatafree.progress"}
    graph = folder_graph()
    for folder in stages:
        assert not graph[folder] & outer, folder


def test_only_one_file_touches_the_private_parts_of_keras():
    private = ("_inbound_nodes", "_nodes_by_depth", "_keras_history", "_inputs_struct", "_outputs_struct")
    readers = {module for module, path in MODULES.items() if any(name in path.read_text() for name in private)}
    assert "tfdatafree.model.keras_model" in readers
    assert readers <= {"tfdatafree.model.keras_model", "tfdatafree.model.load", "tfdatafree.model.load_keras2"}


def test_errors_and_recipes_need_no_framework():
    for module in ("tfdatafree.errors", "tfdatafree.recipe.recipe", "tfdatafree.report.report"):
        names = {name.split(".")[0] for name in imported(MODULES[module].read_text())}
        assert not names & {"keras", "tensorflow", "ai_edge_litert"}, module


@pytest.mark.slow
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


# Names ----------------------------------------------------------------------------------------------------------------


def has_standard_name(module: str) -> bool:
    """Whether a module, or a folder, is called like a module of the standard library; `__main__` must be."""
    name = module.rpartition(".")[2]
    return name in sys.stdlib_module_names and not name.startswith("__")


def test_no_module_is_called_like_one_of_the_standard_library():
    assert [module for module in MODULES if has_standard_name(module)] == []
    assert has_standard_name("tfdatafree.cli.inspect") and not has_standard_name("tfdatafree.__main__")


# Size -----------------------------------------------------------------------------------------------------------------

MOST_FOLDERS, MOST_LINES, MOST_PARAMETERS, MOST_RETURNED = 9, 400, 8, 2
# A file may be longer if its docstring says why.
LONG = "Long because"
PUBLIC = {name for name in tfdatafree.__all__ if inspect.isfunction(getattr(tfdatafree, name))} | {"load_demo"}


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name not in PUBLIC:
                yield f"{module}.{node.name}", node


def longest_chain(graph: dict[str, set[str]]) -> list[str]:
    """The longest way down from importer to imported."""
    chains: dict[str, list[str]] = {}
    for name in TopologicalSorter(graph).static_order():
        below = max((chains[other] for other in graph.get(name, ())), key=len, default=[])
        chains[name] = [name, *below]
    return max(chains.values(), key=len)


def parameters(function: ast.FunctionDef) -> int:
    given = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len([name for name in given if name not in ("self", "cls")])


def returned(function: ast.FunctionDef) -> int:
    """Number of values that the annotation of a returned tuple lists."""
    hint = function.returns
    if isinstance(hint, ast.Constant) and isinstance(hint.value, str):
        hint = ast.parse(hint.value, mode="eval").body
    if isinstance(hint, ast.Subscript) and ast.unparse(hint.value) == "tuple" and isinstance(hint.slice, ast.Tuple):
        return len([part for part in hint.slice.elts if not (isinstance(part, ast.Constant) and part.value is ...)])
    return 1


def test_the_house_has_few_floors():
    """Modules at the top of the package (errors, files, progress ...) are rooms of no folder, and pass imports on."""
    chain = [name for name in longest_chain(folder_graph()) if not name.startswith("tfdatafree.")]
    assert len(chain) <= MOST_FOLDERS, chain


def test_a_long_file_says_why():
    for module, path in MODULES.items():
        source = path.read_text()
        if len(source.splitlines()) > MOST_LINES:
            assert LONG in (ast.get_docstring(ast.parse(source)) or ""), module


@pytest.mark.slow
def test_functions_take_few_parameters_outside_the_public_interface():
    assert {name: parameters(node) for name, node in functions() if parameters(node) > MOST_PARAMETERS} == {}


@pytest.mark.slow
def test_functions_return_at_most_a_pair():
    assert [name for name, node in functions() if returned(node) > MOST_RETURNED] == []
    tree = ast.parse("def f() -> tuple[int, str, bool]: ...")
    assert returned(tree.body[0]) == 3, "a longer tuple would be found"
