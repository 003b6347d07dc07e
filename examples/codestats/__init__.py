"""Statistics of a tree of Python files, one job a file."""
