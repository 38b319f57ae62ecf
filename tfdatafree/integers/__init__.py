"""TFLite's integer arithmetic, operator by operator, in NumPy: the same integers as LiteRT's reference kernels."""
