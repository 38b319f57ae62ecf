"""Recovery block by block: rounding and activation steps are learned for the outputs of the float block."""
