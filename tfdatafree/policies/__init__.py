"""How the budget of a whole network becomes one of each layer."""
