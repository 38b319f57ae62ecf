"""Which quantizers change the results of a model most, and what helps."""
