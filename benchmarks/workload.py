"""What every subject of a benchmark does, so that rates mean the same."""

from __future__ import annotations

BATCH = 500
"""Jobs in one bulk submit."""
CLAIM = 100
"""Jobs claimed at a time by a bare loop."""
MESSAGE = (
    b'{"v":1,"id":"0123456789abcdef0123456789abcdef","name":"benchmarks.noop",'
    b'"payload":{"number":12345},"created_at":"2026-01-01T00:00:00.000000Z","put":true,'
    b'"routing_key":"default","meta":{"tenant":"acme"}}'
)
"""A message of the usual size."""
