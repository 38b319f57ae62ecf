"""Says whether a wheel holds all of the package: each file of tfdatafree/ that git would take, and nothing else.

python tools/check_wheel.py dist/tfdatafree-0.1.0-py3-none-any.whl
"""

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def differences(wheel: Path) -> list[str]:
    """One line per file that the wheel lacks, or has too many."""
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tfdatafree").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return [f"lacks {name}" for name in sorted(wanted - held)] + [f"holds {name}" for name in sorted(held - wanted)]


if __name__ == "__main__":
    found = differences(Path(sys.argv[1]))
    print("\n".join(found) or f"{sys.argv[1]} holds the package.")
    sys.exit(bool(found))
