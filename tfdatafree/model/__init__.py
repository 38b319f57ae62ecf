"""A Keras model as a graph of nodes, what its layers compute, and loading it."""
