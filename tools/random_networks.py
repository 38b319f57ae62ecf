"""Compresses random networks and holds each against what every compression promises.

    python tools/random_networks.py --n=1000 --seed=0

The promises: reading, separating and folding keep the function; the model stays as it is; the file's integers are those of
its simulation; an output below 6 dB is said to be unlike; or else there is one line that says what cannot be done. The same
seed gives the same networks. Each is made in a second process, which may die. --keep names a folder for those that fail.
"""

import collections
import os
from collections.abc import Sequence
from pathlib import Path

import command
import numpy as np
from absl import flags
from networks import RandomNetwork, random_network
from own_process import OwnProcess

RECIPES = ("int8", "int8_per_tensor", "int16x8", "pruned", "lwdf", "dfq", "float16")
_SECONDS = 300
# Of the function, relative to its largest value. Several BatchNorms of nearly constant channels magnify rounding errors.
_MOST_CHANGE = 1e-3
_LEAST_DB = 6.0
_FRESH, _SEED = 32, 99


def changes(network: RandomNetwork) -> list[str]:
    """What reading, separating or folding changes of the network's function."""
    from tfdatafree.canonical.fold_batchnorm import fold
    from tfdatafree.canonical.separate import separate
    from tfdatafree.model.graph import Graph

    inputs = network.inputs(2, _SEED)
    wanted = _outputs(network.model(inputs if len(inputs) > 1 else inputs[0], training=False))
    graph = Graph.from_keras(network.model)
    separated = separate(graph).graph
    found = []
    for name, form in (("reading", graph), ("separating", separated), ("folding", fold(separated).graph)):
        change = max(_difference(y, x) for y, x in zip(form.predict(inputs), wanted, strict=True))
        if not change < _MOST_CHANGE:
            found.append(f"{name} changes the function by {change:.1e}")
    return found


def compression(network: RandomNetwork, recipe: str) -> str:
    """How compressing the network ends: "kept", the name of a typed error, or "WRONG ..." for a broken promise."""
    from tfdatafree import Generate, Prune, Recipe, compress
    from tfdatafree.errors import TfdatafreeError, UnsupportedModelError
    from tfdatafree.tflite.runtime import Runner

    before = [weights.copy() for weights in network.model.get_weights()]
    quick = Generate(images=16, samples=400)
    options = Recipe(prune=Prune(sparsity=0.5), generate=quick) if recipe == "pruned" else recipe
    try:
        done = compress(network.model, options, input_range=network.input_range, verbose=0)
    except UnsupportedModelError as error:
        text = str(error)
        return "UnsupportedModelError" if len(text) <= 600 and text.isprintable() else f"WRONG message: {text!r}"
    except TfdatafreeError as error:
        return f"WRONG {type(error).__name__}: {error}"[:300]
    except Exception as error:  # noqa: BLE001  (this is what the tool looks for)
        return f"WRONG {type(error).__name__}: {error}"[:300]
    if any(not np.array_equal(x, y) for x, y in zip(before, network.model.get_weights(), strict=True)):
        return "WRONG: the model was changed"
    inputs = network.inputs(_FRESH, _SEED)
    wanted = _outputs(network.model(inputs if len(inputs) > 1 else inputs[0], training=False))
    runner = Runner(done.tflite)
    rows = [runner.predict([x[at : at + 1] for x in inputs]) for at in range(_FRESH)]
    written = [
        np.concatenate(column).reshape(y.shape) for column, y in zip(zip(*rows, strict=True), wanted, strict=True)
    ]
    if not all(np.isfinite(y).all() for y in written):
        return "WRONG: the file's outputs are not finite"
    steps = [max(detail["quantization"][0], 1e-9) for detail in runner.outputs]
    worst = min(_decibels(*values) for values in zip(wanted, written, steps, strict=True))
    if worst < _LEAST_DB:
        return "said to be unlike, or in doubt" if done.report.warnings else f"WRONG: {worst:.0f} dB, and nothing said"
    return "kept"


def examine(seed: int, recipes: Sequence[str]) -> list[tuple[str, str]]:
    """(recipe, how it ended) of the network of this seed. Every recipe is tried on one of as many networks."""
    try:
        network = random_network(seed)
    except Exception as error:  # noqa: BLE001  (a fault of the generator)
        return [("network", f"WRONG {type(error).__name__}: {error}"[:300])]
    recipe = recipes[seed % len(recipes)]
    try:
        found = changes(network)
    except Exception as error:  # noqa: BLE001  (this is what the tool looks for)
        found = [f"{type(error).__name__}: {error}"[:300]]
    return [("function", "WRONG: " + "; ".join(found) if found else "kept"), (recipe, compression(network, recipe))]


def save(seed: int, folder: str) -> None:
    """Saves the network of this seed."""
    random_network(seed).model.save(Path(folder) / f"network_{seed}.keras")


def _outputs(values) -> list[np.ndarray]:
    return [np.asarray(value) for value in (values if isinstance(values, list | tuple) else [values])]


def _difference(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max(initial=0) / max(np.abs(wanted).max(initial=0), 1e-6))


def _decibels(wanted: np.ndarray, found: np.ndarray, step: float) -> float:
    """SQNR; infinite where the noise is that of rounding to the output's own steps, which no file can do without."""
    noise = float(np.mean(np.square(wanted.astype(np.float64) - found)))
    if noise <= step**2:
        return float("inf")
    return 10 * np.log10(max(float(np.mean(np.square(wanted, dtype=np.float64))), 1e-12) / noise)


def _define_flags() -> None:
    flags.DEFINE_integer("n", 400, "Networks.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of the first network; the next one has the next seed.", lower_bound=0)
    flags.DEFINE_list("recipes", list(RECIPES), "Recipes to take in turn.")
    flags.DEFINE_string("keep", None, "Folder for the networks that fail.")


def main(values: flags.FlagValues) -> int:
    with command.input_errors():
        recipes = command.choose("recipes", values.recipes, RECIPES)
    own_process, counts = OwnProcess(_SECONDS), collections.Counter()
    try:
        for seed in range(values.seed, values.seed + values.n):
            ends = own_process(examine, seed, recipes)
            ends = [(recipes[seed % len(recipes)], ends)] if isinstance(ends, str) else ends
            for recipe, end in ends:
                counts[recipe, end.split(":")[0]] += 1
                if end.startswith("WRONG"):
                    print(f"network {seed}, {recipe}: {end}", flush=True)
                    if values.keep is not None:
                        Path(values.keep).mkdir(parents=True, exist_ok=True)
                        own_process(save, seed, values.keep)
    finally:
        own_process.close()
    for (recipe, end), count in sorted(counts.items()):
        print(f"{recipe:<18}{count:6d}  {end}")
    return int(any(end.startswith("WRONG") for _, end in counts))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    command.run(main, _define_flags)
