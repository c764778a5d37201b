"""Searches that minimise a measured loss: member weights by greedy selection, settings over grids."""
