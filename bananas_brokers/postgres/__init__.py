"""The PostgreSQL driver: ledger and transport in one database."""
