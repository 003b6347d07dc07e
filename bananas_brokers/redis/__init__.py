"""``redis://host:port/db``: transport and ledger in one Redis (7.0 or later) or Valkey (8)."""
