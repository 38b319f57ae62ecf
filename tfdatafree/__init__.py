"""tfdatafree: compresses Keras models without data."""
