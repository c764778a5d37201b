"""Measurements of members and blends: edit counts, diversity, tables, distances of each member by itself."""
