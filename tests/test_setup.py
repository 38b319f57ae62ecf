"""What pip installs: all of the package, and nothing that is not there."""

import ast
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
