"""All runtimes by name."""

from tfdatafree.recipe.check import require_name
from tfdatafree.runtimes.litert import LITERT, REFERENCE
from tfdatafree.runtimes.openvino import OPENVINO
from tfdatafree.runtimes.runtime import Runtime
from tfdatafree.runtimes.simulation import SIMULATION
from tfdatafree.runtimes.tflite_micro import TFLITE_MICRO
from tfdatafree.runtimes.tosa import TOSA

# All others are compared with this one.
BASELINE = REFERENCE
RUNTIMES = {runtime.name: runtime for runtime in (REFERENCE, SIMULATION, LITERT, TFLITE_MICRO, TOSA, OPENVINO)}


def get_runtime(name: str) -> Runtime:
    """The runtime of this name. Raises ValueError for an unknown one."""
    require_name("runtime", name, RUNTIMES)
    return RUNTIMES[name]
