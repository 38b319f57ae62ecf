"""TFLite files: flatbuffers, rules of operators, the LiteRT runtime, sizes."""
