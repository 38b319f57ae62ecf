"""TFLite files: reading and writing flatbuffers, rules of operators, the LiteRT runtime, sizes."""
