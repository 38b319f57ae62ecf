"""Covariances of a layer's inputs, the output errors that follow from them, and least squares."""

import numpy as np

# Every input's variance is increased by this fraction of the mean variance. The covariance of generated inputs is only
# roughly that of real ones.
DAMPING = 1.0
# The same for rounding: just enough to keep H far from singular.
ROUNDING_DAMPING = 0.1
_SOLVER_STEPS = 20
# What is smaller, for inputs and weights near 1, is far below the square of a rounding error.
_DONE = 1e-25


def damped(covariance: np.ndarray, damping: float = DAMPING) -> np.ndarray:
    """H = covariance + damping * (mean variance) * I: float32, positive definite, (groups, inputs, inputs)."""
    groups, size, _ = covariance.shape
    ridge = damping * np.maximum(np.einsum("gii->g", covariance) / size, 1e-12)
    return (covariance + ridge[:, None, None] * np.eye(size)).astype(np.float32)


def by_group(matrix: np.ndarray, groups: int, inputs: int) -> np.ndarray:
    """(taps * inputs, outputs), outputs split evenly over groups -> (groups, inputs, taps * outputs per group)."""
    taps, outputs = len(matrix) // inputs, matrix.shape[1]
    split = matrix.reshape(taps, inputs, groups, outputs // groups)
    return split.transpose(2, 1, 0, 3).reshape(groups, inputs, -1)


def from_groups(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Undoes `by_group`."""
    groups, inputs, _ = values.shape
    taps, outputs = shape[0] // inputs, shape[1]
    return values.reshape(groups, inputs, taps, outputs // groups).transpose(2, 1, 0, 3).reshape(shape)


def output_variance(matrix: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Variance (outputs,) of each output for inputs with this covariance; taps are treated as independent."""
    groups, inputs, _ = covariance.shape
    weights = by_group(matrix, groups, inputs).astype(np.float32)
    energy = np.einsum("gio,gio->go", covariance.astype(np.float32) @ weights, weights, dtype=np.float64)
    taps = len(matrix) // inputs
    return np.maximum(energy.reshape(groups, taps, -1).sum(axis=1).reshape(-1), 0)


def output_change(matrix: np.ndarray, values: np.ndarray, covariance: np.ndarray) -> float:
    """Energy of the change of the outputs when `values` replaces `matrix`, relative to the energy of the outputs.

    Both are variances around the mean, and without the mean of all outputs, which a softmax ignores. Not for grouped kernels.
    """
    change, before = (array - array.mean(axis=1, keepdims=True) for array in (values - matrix, matrix))
    return float(output_variance(change, covariance).sum() / max(output_variance(before, covariance).sum(), 1e-30))


def refit(matrix: np.ndarray, mask: np.ndarray, covariance: np.ndarray, *, damping: float = DAMPING) -> np.ndarray:
    """Chooses the weights on `mask` that change the layer's output least. Others are 0. Never worse than matrix * mask."""
    groups, inputs, _ = covariance.shape
    h = damped(covariance, damping)
    h *= _near_one(np.einsum("gii->gi", h).mean(axis=1))[:, None, None]
    target = by_group(matrix, groups, inputs).astype(np.float32)
    unit = _near_one(np.abs(target).max(axis=1, keepdims=True))
    target *= unit
    keep = by_group(mask, groups, inputs).astype(np.float32)
    inverse = 1 / np.einsum("gii->gi", h)[:, :, None]
    values = target * keep
    residual = (h @ (target - values)) * keep
    direction = inverse * residual
    slope = np.einsum("gio,gio->go", residual, direction)[:, None]
    for _ in range(_SOLVER_STEPS):
        curved = (h @ direction) * keep
        length = slope / np.maximum(np.einsum("gio,gio->go", direction, curved)[:, None], _DONE)
        values += length * direction
        residual -= length * curved
        preconditioned = inverse * residual
        following = np.einsum("gio,gio->go", residual, preconditioned)[:, None]
        direction = preconditioned + following / np.maximum(slope, _DONE) * direction
        slope = following
    return from_groups(values / unit, matrix.shape)


def _near_one(sizes: np.ndarray) -> np.ndarray:
    """Powers of two, float32, which bring each of `sizes` near 1 without a rounding error; 1 for zeros."""
    exponents = np.round(np.log2(np.where(sizes > 0, sizes, 1).astype(np.float64)))
    return np.exp2(-np.clip(exponents, -120, 120)).astype(np.float32)


def covariance_of(patches: np.ndarray) -> np.ndarray:
    """Covariance (groups, inputs, inputs), float32, of patches (count, groups, inputs)."""
    centred = np.swapaxes(patches - patches.mean(axis=0, dtype=np.float64).astype(np.float32), 0, 1)
    return np.swapaxes(centred, 1, 2) @ centred / np.float32(len(patches))


def with_doubt(covariance: np.ndarray, count: int) -> np.ndarray:
    """Adds inputs / count of the mean variance to each input's variance in a covariance that `count` samples estimated.

    This is about the error of the estimate's eigenvalues. So an estimate from few samples counts less.
    """
    groups, inputs, _ = covariance.shape
    ridge = np.einsum("gii->g", covariance) / count
    return covariance + ridge[:, None, None] * np.eye(inputs, dtype=covariance.dtype)


def covariance_of_scaled(covariance: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """The covariance of patches whose channels are multiplied by `factor` (channels,)."""
    groups, inputs, _ = covariance.shape
    by_group = np.asarray(factor, np.float32).reshape(groups, -1)
    rows = np.tile(by_group, (1, inputs // by_group.shape[1]))  # taps come before channels
    return covariance * rows[:, :, None] * rows[:, None, :]


def output_errors(change: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Squared error dW^T H dW of each output when the kernel changes by dW = `change`, (taps * inputs, outputs).

    H is damped as in rounding.
    """
    groups, inputs, _ = covariance.shape
    taps, outputs = len(change) // inputs, change.shape[1]
    ridge = ROUNDING_DAMPING * np.einsum("gii->g", covariance) / inputs
    # (groups, inputs, taps * outputs per group)
    split = change.astype(np.float32).reshape(taps, inputs, groups, outputs // groups)
    columns = split.transpose(2, 1, 0, 3).reshape(groups, inputs, -1)
    response = covariance @ columns + ridge[:, None, None] * columns
    errors = np.einsum("gic,gic->gc", columns, response, dtype=np.float64)
    return errors.reshape(groups, taps, -1).sum(axis=1).reshape(outputs)
