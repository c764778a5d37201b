"""Measurements of members and blends: bootstrap intervals, edit counts, each member on its own."""
