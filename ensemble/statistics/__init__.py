"""Measurements of members and blends: edit counts, diversity, tables, and distances of each member alone."""
