"""The folder layouts that semesters of the competition have had, one function per format.

Semesters are abbreviated: F18 is Fall 2018, S26 is Spring 2026.
"""
