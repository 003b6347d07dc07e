"""What the drivers of SQL databases have in common: rows, and decisions on loaded records."""
