"""``make bench-rabbitmq``: interleaved rounds, medians, ratios; a table, and JSON if asked for."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

import msgspec
from rich.console import Console

from benchmarks.sqlite.measure import Summary, compare, table
from integration.servers import RabbitServer, RedisServer

SUBJECTS = {"bare aio-pika loop": "benchmarks.rabbitmq.bare", "bananas": "benchmarks.rabbitmq.ours"}
MEASURES = {
    "rabbitmq bulk submit": ("submit", 0.60),
    "rabbitmq drain with results, one worker": ("drain", 0.60),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.rabbitmq", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, list[Summary]] = {}
    short = []
    load = os.getloadavg()[0]
    with RabbitServer() as server, RedisServer() as ledger:
        os.environ["BANANAS_BROKER_URL"] = server.url
        os.environ["BANANAS_RESULT_BACKEND_URL"] = ledger.url
        version = server.call("rabbit_misc:version()").strip('"')
        for title, (what, target) in MEASURES.items():
            found[title] = compare(what, options.jobs, options.rounds, SUBJECTS)
            Console().print(table(title, found[title], target))
            ratio = found[title][-1].ratio
            if ratio is not None and ratio < target:
                short.append(f"{title}: {ratio:.2f} of the bare loop, target {target:.2f}")
    if options.json:
        about = {
            "python": platform.python_version(),
            "rabbitmq": version,
            "cores": os.cpu_count(),
            "load_before": round(load, 1),
            "jobs": options.jobs,
            "rounds": options.rounds,
        }
        data = {"about": about, "measures": msgspec.to_builtins(found)}
        options.json.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")
    for line in short:
        print(f"below target: {line}", file=sys.stderr)
    return 1 if short else 0


if __name__ == "__main__":
    raise SystemExit(main())
