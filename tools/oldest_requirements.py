"""Prints what a wheel requires, with its tests, as lines of a requirements file.

    python tools/oldest_requirements.py dist/tfdatafree-0.1.0-py3-none-any.whl >oldest.txt
    uv pip install --resolution=lowest-direct -r oldest.txt dist/tfdatafree-0.1.0-py3-none-any.whl

uv takes the lowest versions of what is asked for by name alone, and not of what a wheel asks for.
"""

import sys
import zipfile
from email.parser import Parser
from pathlib import Path


def requirements(wheel: Path) -> list[str]:
    """The wheel's requirements, and those of its extra "test", without their markers."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(part for part in archive.namelist() if part.endswith(".dist-info/METADATA"))
        lines = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])
    kept = (line for line in lines if "extra ==" not in line or 'extra == "test"' in line)
    return [line.partition(";")[0].strip() for line in kept]


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]))))
