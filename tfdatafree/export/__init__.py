"""From a float graph to a verified integer TFLite file."""
