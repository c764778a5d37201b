"""Competitions: their alphabets, splits, metrics and submissions, and the folder formats that are supported."""
