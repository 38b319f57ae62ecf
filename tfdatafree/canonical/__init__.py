"""Passes that keep the function and bring a graph into the form that everything else works on."""
