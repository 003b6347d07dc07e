"""``memory://name``: transport and ledger inside one process, without durability."""
