"""Measurements of members and blends: bootstrap intervals, edit counts, distances of each member by itself."""
