"""The folder layouts that semesters of the competition have had, one function per format."""
