"""End-to-end training of a pruned or quantized network on images that a network makes up."""
