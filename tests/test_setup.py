"""What pip installs: all of the package, and nothing that is not there."""

import ast
import json
import re
import runpy
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tfdatafree"


def package_data() -> dict[str, list[str]]:
    """Package -> patterns of its files that are not Python, as setup.py has them."""
    (call,) = (
        node.value
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text()))
        if isinstance(node, ast.keyword) and node.arg == "package_data"
    )
    return ast.literal_eval(call)


def test_every_file_of_the_package_is_installed():
    for package, patterns in package_data().items():
        for pattern in patterns:
            assert list((ROOT / package.replace(".", "/")).glob(pattern)), f"{package} has no {pattern}"
    installed = {
        path
        for package, patterns in package_data().items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    others = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert others == installed, "package_data in setup.py names the files that are not Python"
    assert PACKAGE / "py.typed" in installed


def test_every_package_has_a_lower_bound():
    required = re.search(r"install_requires=\[(.*?)\]", (ROOT / "setup.py").read_text(), re.DOTALL)[1]
    packages = re.findall(r'"(.+?)"', required)
    assert packages and all(re.fullmatch(r"[\w-]+>=[\d.]+", package) for package in packages)


def test_the_demo_network_is_a_file_of_the_oldest_keras():
    oldest = re.search(r'"keras>=([\d.]+)"', (ROOT / "setup.py").read_text())[1]
    with zipfile.ZipFile(PACKAGE / "demo" / "digits.keras") as archive:
        assert json.loads(archive.read("metadata.json"))["keras_version"].startswith(f"{oldest}.")


def test_a_wheel_that_lacks_a_file_is_noticed(tmp_path):
    sources = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    whole, lacking = tmp_path / "whole.whl", tmp_path / "lacking.whl"
    for wheel, held in ((whole, sources), (lacking, [path for path in sources if path.name != "py.typed"])):
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("tfdatafree-0.dist-info/METADATA", "")
            for path in held:
                archive.writestr(path.relative_to(ROOT).as_posix(), "")
    differences = runpy.run_path(str(ROOT / "tools" / "check_wheel.py"))["differences"]
    assert differences(whole) == [] and differences(lacking) == ["lacks tfdatafree/py.typed"]
