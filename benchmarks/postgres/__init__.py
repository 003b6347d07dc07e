"""Bananas on PostgreSQL and the plain asyncpg loop that limits it."""
