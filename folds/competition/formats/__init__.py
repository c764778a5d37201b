"""The competitions: one class for each folder layout.

Semesters are abbreviated: F18 is Fall 2018, S26 is Spring 2026.
"""
