"""``python -m integration.faults [NAME…] [--broker sqlite|redis|valkey|postgres|rabbitmq]
[--level ci|full] [--seed N] [--json FILE]``. Without names: all that are made for the broker;
without a broker: on SQLite, then on Redis. RabbitMQ has its ledger on a Redis."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import sqlite3
import sys
import tempfile
import time
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from integration.faults import brokers, limits, scenarios, unique, workflows
from integration.faults.stage import LEVELS, Scenario, Stage
from integration.servers import (
    PostgresServer,
    RabbitServer,
    RedisServer,
    Server,
    ServerMissing,
    ValkeyServer,
)

SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario
    for module in (scenarios, workflows, unique, limits, brokers)
    for scenario in module.SCENARIOS
} | {scenario.__name__: scenario for scenario in brokers.IN_PAIRS}
ON_SERVERS: Final = (*(scenario.__name__ for scenario in brokers.SCENARIOS), "chords")
"""Those that run on a server by default. Others that need nothing of a file run there too, by name:
see ``integration/redis/test_workers.py``."""
ON_PAIRS: Final = tuple(scenario.__name__ for scenario in brokers.IN_PAIRS)
"""Those for brokers whose ledger is another server."""
IN_PAIRS: Final = ("rabbitmq",)
NAMES: Final = {
    "sqlite": "SQLite",
    "redis": "Redis",
    "valkey": "Valkey",
    "postgres": "PostgreSQL",
    "rabbitmq": "RabbitMQ and Redis",
}
SERVERS: Final[dict[str, type[Server]]] = {
    "redis": RedisServer,
    "valkey": ValkeyServer,
    "postgres": PostgresServer,
    "rabbitmq": RabbitServer,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="integration.faults", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SCENARIOS)}; default all")
    parser.add_argument("--broker", choices=("sqlite", *SERVERS), help="default sqlite, then redis")
    parser.add_argument("--level", choices=LEVELS, default=os.environ.get("FAULTS_LEVEL", "ci"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--json", type=Path, help="write the figures here, beside those of other names"
    )
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {unknown[0]!r}")
    if options.json and options.broker is None:
        parser.error("--json needs a --broker: the figures are of one")
    results = []
    for broker in ("sqlite", "redis") if options.broker is None else (options.broker,):
        names = options.names or names_on(broker)
        results += [run(name, options.level, options.seed, broker) for name in names]
    passed = sum(result["passed"] is True for result in results)
    if options.json:
        about = {
            "python": platform.python_version(),
            "broker": NAMES[options.broker or "sqlite"],
            "version": version(options.broker or "sqlite"),
            "cores": os.cpu_count(),
            "level": options.level,
        }
        write_figures(options.json, about, results)
    print(f"{passed} passed, {len(results) - passed} failed")
    return 0 if passed == len(results) else 1


def write_figures(path: Path, about: dict[str, object], results: list[dict[str, Any]]) -> None:
    """Figures of the same place and level that are in the file already stay, unless they are of a
    scenario that ran again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(path.read_text()) if path.exists() else {}
    if found.get("about") == about:
        new = {result["name"]: result for result in results}
        old = found["scenarios"]
        results = [new.pop(result["name"], result) for result in old] + list(new.values())
    text = json.dumps({"about": about, "scenarios": results}, indent=2, sort_keys=True)
    path.write_text(text + "\n")


def names_on(broker: str) -> list[str]:
    """What runs on a broker if nothing is named; nothing where its program is missing, unless in
    CI."""
    if broker == "sqlite":
        servers = (*brokers.SCENARIOS, *brokers.IN_PAIRS)
        return [name for name in SCENARIOS if SCENARIOS[name] not in servers]
    try:
        SERVERS[broker].find()
    except ServerMissing as error:
        if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
            raise
        print(f"nothing runs on {broker}: {error}")
        return []
    if broker in IN_PAIRS:
        return [name for name in (*ON_SERVERS, *ON_PAIRS) if name != brokers.drain_all.__name__]
    return list(ON_SERVERS)


def version(broker: str) -> str:
    """Of SQLite, or of the server's program."""
    if broker == "sqlite":
        return sqlite3.sqlite_version
    found = re.search(r"\d+\.[\d.]+", SERVERS[broker].version_line())
    assert found is not None, broker
    return found[0]


def make_server(broker: str) -> Server:
    """One that confirms a write once it is on disk."""
    if broker == "postgres":
        return PostgresServer(fsync=True)
    if broker == "rabbitmq":
        return RabbitServer()
    return (ValkeyServer if broker == "valkey" else RedisServer)(appendfsync="always")


def run(name: str, level: str, seed: int, broker: str = "sqlite") -> dict[str, Any]:
    """Run one scenario in a folder of its own, on a broker of its own."""
    begun = time.monotonic()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=f"bananas-{name}-"))
        server = ledger = None
        if broker in SERVERS:
            server = stack.enter_context(make_server(broker))
        if broker in IN_PAIRS:
            ledger = stack.enter_context(RedisServer(appendfsync="always"))
        stage = Stage(Path(folder), LEVELS[level], seed, server, ledger)
        error = None
        try:
            asyncio.run(SCENARIOS[name](stage))
        except Exception:
            error = traceback.format_exc()
        finally:
            stage.close()
    took = time.monotonic() - begun
    print(
        f"{'ok  ' if error is None else 'FAIL'} {name} on {broker} {took:.1f} s {stage.figures}",
        flush=True,
    )
    if error is not None:
        print(error, file=sys.stderr, flush=True)
    return {
        "name": name,
        "promise": " ".join((SCENARIOS[name].__doc__ or "").split()),
        "passed": error is None,
        "seconds": round(took, 1),
        "figures": stage.figures,
    }


if __name__ == "__main__":
    raise SystemExit(main())
