"""How pip installs tfdatafree; the settings of the development tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
README = HERE / "README.md"


def version() -> str:
    """Returns the version, read as text: importing the package would need its dependencies."""
    source = (HERE / "tfdatafree" / "version.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"', source, re.MULTILINE).group(1)


setup(
    name="tfdatafree",
    version=version(),
    description="Compresses trained Keras CNNs without any data and writes integer TFLite files for mobile NPUs.",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    url="https://github.com/tfdatafree/tfdatafree",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["tfdatafree", "tfdatafree.*"]),
    package_data={
        "tfdatafree": ["py.typed"],
        "tfdatafree.demo": ["digits.keras"],
        "tfdatafree.report": ["*.html", "*.css", "*.js"],
    },
    entry_points={"console_scripts": ["tfdatafree = tfdatafree.cli:main"]},
    install_requires=[
        "absl-py",
        "ai-edge-litert",
        "flatbuffers",
        "h5py",
        "keras>=3.15",
        "numpy",
        "scikit-learn",
        "scipy",
        "tensorflow-model-optimization>=0.8",
        "tensorflow>=2.21,<2.22",
        "tf_keras",
        "tqdm",
    ],
    extras_require={
        "test": [
            "bokeh>=3.4",
            "hypothesis",
            "matplotlib",
            "mypy",
            "pillow",
            "playwright",
            "pytest",
            "pytest-xdist",
            "pyyaml",
            "ruff",
        ],
        "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=1.0", "ruff"],
        "notebook": ["bokeh>=3.4", "ethos-u-vela", "ipykernel", "matplotlib", "nbclient"],
        "images": ["pillow"],
        "npu": ["ethos-u-vela"],
        "report": ["bokeh>=3.4"],
        "plots": ["matplotlib"],
        "distributed": ["dask[distributed]"],
        "runtimes": ["openvino", "tflite-micro"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
