"""The package's own integer arithmetic (`integers/`)."""

from collections.abc import Mapping, Sequence

import numpy as np

from tfdatafree.runtimes.runtime import Runtime


class _Session:
    def __init__(self, content: bytes):
        from tfdatafree.integers.run import IntegerRunner  # needs TensorFlow, which the list of runtimes does not

        self._runner = IntegerRunner(content)

    def run(self, inputs: Sequence[np.ndarray]) -> Mapping[int, np.ndarray]:
        return dict(self._runner.walk(inputs))


SIMULATION = Runtime("simulation", _Session)
