"""Runs a TFLite file through LiteRT."""

import warnings
from collections.abc import Sequence

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType


class Runner:
    """An interpreter of one file.

    Args:
        content: The file's bytes.
        keep_all: Keep every intermediate tensor readable after a run; needs memory for all of them, and leaves out the
            XNNPACK delegate, which does not keep any.
        delegate: Let XNNPACK compute what it can. Without it every operator is computed by LiteRT's own kernels.
        reference: Compute with LiteRT's plain reference kernels, which all runtimes are measured by.
        num_threads: Threads of the kernels.

    Raises:
        ValueError: LiteRT cannot prepare the file, e.g. for want of a kernel; says which operator.
    """

    def __init__(
        self,
        content: bytes,
        *,
        keep_all: bool = False,
        delegate: bool = True,
        reference: bool = False,
        num_threads: int = 2,
    ):
        alone = keep_all or not delegate
        resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if alone else OpResolverType.AUTO
        resolver = OpResolverType.BUILTIN_REF if reference else resolver
        with warnings.catch_warnings():
            # LiteRT warns about the memory that keeping all tensors takes.
            warnings.simplefilter("ignore", UserWarning)
            try:
                self._interpreter = Interpreter(
                    model_content=bytes(content),
                    experimental_preserve_all_tensors=keep_all,
                    experimental_op_resolver_type=resolver,
                    num_threads=num_threads,
                )
                self._interpreter.allocate_tensors()
            except RuntimeError as error:
                raise ValueError(str(error).strip()) from error
        self.inputs = self._interpreter.get_input_details()
        self.outputs = self._interpreter.get_output_details()

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Runs the file on raw inputs of the types it wants (batch 1 each); returns its raw outputs."""
        for detail, value in zip(self.inputs, inputs, strict=True):
            self._interpreter.set_tensor(detail["index"], np.asarray(value, detail["dtype"]))
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(detail["index"]) for detail in self.outputs]

    def predict(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Runs the file on real inputs (batch 1 each): quantizes them, and dequantizes the outputs to float32."""
        results = self.run([quantize_edge(x, detail) for x, detail in zip(inputs, self.inputs, strict=True)])
        return [dequantize_edge(q, detail) for q, detail in zip(results, self.outputs, strict=True)]

    def predict_each(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Runs the file on real inputs (n, ...), one at a time, as `predict` does; returns the outputs (n, ...)."""
        rows = [self.predict([array[at : at + 1] for array in inputs]) for at in range(len(inputs[0]))]
        return [np.concatenate(column) for column in zip(*rows, strict=True)]

    def value(self, index: int) -> np.ndarray | None:
        """Content of tensor `index` after a run; None if the runtime kept nothing there."""
        try:
            return self._interpreter.get_tensor(index)
        except ValueError:
            return None

    def kept_value(self, index: int) -> np.ndarray:
        """Content of tensor `index` after a run that kept it. Raises ValueError if the runtime kept nothing there."""
        value = self.value(index)
        if value is None:
            raise ValueError(f"the runtime did not keep tensor {index}.")
        return value


def quantize_edge(x: np.ndarray, detail: dict) -> np.ndarray:
    """Real values as the file's input takes them. `detail` describes the input, as in `Runner.inputs`."""
    scale, zero_point = detail["quantization"]
    if not scale:
        return np.asarray(x, detail["dtype"])
    limits = np.iinfo(detail["dtype"])
    return np.clip(np.rint(np.asarray(x, np.float64) / scale) + zero_point, limits.min, limits.max).astype(
        detail["dtype"]
    )


def dequantize_edge(q: np.ndarray, detail: dict) -> np.ndarray:
    """What the file's output stands for, as float32. `detail` describes the output, as in `Runner.outputs`."""
    scale, zero_point = detail["quantization"]
    if not scale:
        return q
    return (np.float64(scale) * (q.astype(np.float64) - zero_point)).astype(np.float32)


def reference_runner(content: bytes) -> Runner:
    """A runner of LiteRT's reference kernels on one thread, with every tensor readable after a run."""
    return Runner(content, keep_all=True, reference=True, num_threads=1)
