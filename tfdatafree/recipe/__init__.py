"""What to do to a model: options, presets, rules for single layers, recipe files."""
