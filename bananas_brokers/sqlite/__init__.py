"""The embedded default driver: ``sqlite:///file.db`` is transport and ledger in one file."""
