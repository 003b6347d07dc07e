"""Bananas on PostgreSQL: see ``benchmarks.sqlite.ours``."""

from __future__ import annotations

import sys

from benchmarks.sqlite.ours import main

if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
