"""Which quantizers cost a model most, and what to do about them."""
