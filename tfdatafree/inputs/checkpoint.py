"""Unfinished images in a file, from which `generate_images` continues an interrupted run."""

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tfdatafree.errors import LoadError
from tfdatafree.files import require_writable_name
from tfdatafree.inputs.generated_images import GeneratedImages
from tfdatafree.inputs.matching import Matching, State
from tfdatafree.model.graph import Graph
from tfdatafree.model.network import GivenRange


def fingerprint(graph: Graph, options: Matching, begin, targets, input_range, batch: int, seed: int) -> str:
    """A text that is the same for two runs only if they make the same images."""
    settings = (options, input_range, batch, seed, [array.shape for array in begin])
    return digest_of(settings, [*begin, *([] if targets is None else [targets])], [graph])


def digest_of(settings: object, arrays: Sequence[np.ndarray], graphs: Sequence[Graph]) -> str:
    """A text that is the same only for the same settings (as `repr` writes them), arrays and graphs."""
    digest, found = hashlib.sha256(repr(settings).encode()), list(arrays)
    for graph in graphs:
        for key in sorted(graph.layers):
            digest.update(f"{key} {graph.layers[key].class_name}".encode())
            found += graph.layers[key].weights
    for array in found:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def require_npz(path) -> Path:
    """`path` as a Path. Raises ValueError unless it ends in .npz."""
    path = Path(path)
    require_writable_name(path)
    if path.suffix != ".npz":
        raise ValueError(f"path is '{path}'; give one that ends in .npz.")
    return path


def read_checkpoint(path: Path, identity: str) -> dict[str, np.ndarray] | None:
    """The arrays that an earlier run of the same fingerprint `identity` wrote; None without a file.

    Raises:
        LoadError: The file is damaged.
        ValueError: The file is from another model or from other options.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (AttributeError, EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise LoadError(f"'{path}' is damaged and cannot be continued; delete it, or give another path.") from error
    if str(arrays.get("identity")) != identity:
        raise ValueError(
            f"'{path}' was made from another model or with other options, and cannot be continued; delete it, or give "
            "another path."
        )
    return arrays


def finished_images(arrays: Mapping[str, np.ndarray], names: list[str], input_range: GivenRange) -> GeneratedImages:
    """The result in the arrays of a finished run; `names` are the inputs."""
    inputs = {name: arrays["x" if len(names) == 1 else name] for name in names}
    divergence = json.loads(str(arrays["divergence"]))
    return GeneratedImages(inputs=inputs, input_range=input_range, loss=arrays["loss"], divergence=divergence)


def state_arrays(state: State) -> dict[str, np.ndarray]:
    """The state of an unfinished run as arrays, which `parse_state` reads."""
    arrays = {"state_done": np.array(state.done), "state_loss": state.loss, "state_moments": state.moments}
    for part in ("images", "first", "second"):
        arrays |= {f"state_{part}_{at}": array for at, array in enumerate(getattr(state, part))}
    return arrays


def parse_state(arrays: Mapping[str, np.ndarray], inputs: int) -> State:
    """The state of an unfinished run for a model with this number of `inputs`."""
    images, first, second = (
        [arrays[f"state_{part}_{at}"] for at in range(inputs)] for part in ("images", "first", "second")
    )
    return State(images, first, second, arrays["state_moments"], arrays["state_loss"], int(arrays["state_done"]))
