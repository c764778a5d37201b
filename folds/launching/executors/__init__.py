"""Executors by name; one file each."""
