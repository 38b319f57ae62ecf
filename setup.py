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
    python_requires=">=3.10",
    packages=find_packages(include=["tfdatafree", "tfdatafree.*"]),
    package_data={
        "tfdatafree": ["py.typed"],
        "tfdatafree.demo": ["digits.keras"],
        "tfdatafree.report": ["*.html", "*.css", "*.js"],
        "tfdatafree.sweeping": ["*.html", "*.css"],
    },
    entry_points={"console_scripts": ["tfdatafree = tfdatafree.cli:main"]},
    # The lower bounds are tested: .ci/run installs the oldest set of them and runs the core's tests.
    install_requires=[
        "tensorflow>=2.20",  # first: uv chooses the newest of the first, and fits the others to it
        "absl-py>=1.4",
        "ai-edge-litert>=2.1.6",
        "flatbuffers>=25.2.10",
        "h5py>=3.11",
        "keras>=3.12",
        "numpy>=1.26",
        "scipy>=1.13",
        "tqdm>=4.60",
    ],
    extras_require={
        "test": [
            "bokeh>=3.4",
            "distributed>=2024.8",
            "hypothesis>=6.100",
            "jsonschema>=4.20",
            "matplotlib>=3.8",
            "mypy>=1.15",
            "pillow>=10.1",
            "playwright>=1.45",
            "pytest>=8.2",
            "pytest-xdist>=3.5",
            "pyyaml>=6.0.1",
            "ruff>=0.14",
            "scikit-learn>=1.4",
            "tensorflow-model-optimization>=0.8",
            "tf_keras>=2.20",
        ],
        "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=1.0", "ruff>=0.14"],
        "notebook": ["bokeh>=3.4", "ethos-u-vela>=4", "ipykernel", "matplotlib>=3.8", "nbclient"],
        "demo": ["scikit-learn>=1.4"],
        "images": ["pillow>=10.1"],
        "keras2": ["tensorflow-model-optimization>=0.8", "tf_keras>=2.20"],
        "npu": ["ethos-u-vela>=4"],
        "report": ["bokeh>=3.4"],
        "plots": ["matplotlib>=3.8"],
        "runtimes": ["openvino", "tflite-micro"],
        "sweep": ["bokeh>=3.4", "distributed>=2024.8"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
