"""``make bench-rabbitmq``: interleaved rounds, medians, ratios; a table, and JSON if asked for."""

from __future__ import annotations

import os

from benchmarks.rounds import options, run
from integration.servers import RabbitServer, RedisServer

SUBJECTS = {"bare aio-pika loop": "benchmarks.rabbitmq.bare", "bananas": "benchmarks.rabbitmq.ours"}
MEASURES = {
    "rabbitmq bulk submit": ("submit", 0.60),
    "rabbitmq drain with results, one worker": ("drain", 0.60),
}


def main() -> int:
    said = options("benchmarks.rabbitmq", __doc__, 10_000)
    with RabbitServer() as server, RedisServer() as ledger:
        os.environ["BANANAS_BROKER_URL"] = server.url
        os.environ["BANANAS_RESULT_BACKEND_URL"] = ledger.url
        version = server.call("rabbit_misc:version()").strip('"')
        return run(said, SUBJECTS, MEASURES, {"rabbitmq": version})


if __name__ == "__main__":
    raise SystemExit(main())
