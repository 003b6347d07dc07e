"""Bananas on SQLite and the plain sqlite3 loop that limits it."""
