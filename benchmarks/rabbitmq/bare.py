"""The limit line for RabbitMQ: aio-pika alone, with the driver's durability and nothing of jobs.

The same quorum queue, persistent messages that must be routed, a confirmation for each, 500 of them
at a time; consuming with a window of the same size, and an ack for each message. No ledger, no
results.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

from bananas_brokers.rabbitmq.names import arguments_of, band_queue
from benchmarks.rounds import Stopwatch, report, timed
from benchmarks.sqlite.ours import CONCURRENCY
from benchmarks.workload import BATCH, MESSAGE


async def submit(channel: AbstractChannel, queue: AbstractQueue, jobs: int) -> None:
    message = aio_pika.Message(MESSAGE, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
    for begin in range(0, jobs, BATCH):
        count = min(BATCH, jobs - begin)
        await asyncio.gather(
            *(channel.default_exchange.publish(message, queue.name) for _ in range(count))
        )


async def drain(queue: AbstractQueue, jobs: int) -> None:
    left, done = jobs, asyncio.Event()

    async def on_message(message: AbstractIncomingMessage) -> None:
        nonlocal left
        await message.ack()
        left -= 1
        if not left:
            done.set()

    await queue.consume(on_message)
    await done.wait()


async def measure(what: str, jobs: int, folder: str) -> Stopwatch:
    connection = await aio_pika.connect(os.environ["BANANAS_BROKER_URL"])
    async with connection, connection.channel(on_return_raises=True) as channel:
        await channel.set_qos(prefetch_count=2 * CONCURRENCY)
        name = band_queue(Path(folder).name, "bare", 1)
        queue = await channel.declare_queue(name, durable=True, arguments=arguments_of(name))
        if what == "submit":
            with timed() as watch:
                await submit(channel, queue, jobs)
        else:
            await submit(channel, queue, jobs)
            with timed() as watch:
                await drain(queue, jobs)
        await queue.delete(if_unused=False, if_empty=False)
    return watch


def run(what: str, jobs: int, folder: str) -> Stopwatch:
    """On uvloop where it is installed, as Bananas is."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(measure(what, jobs, folder))
    return uvloop.run(measure(what, jobs, folder))


if __name__ == "__main__":
    count = int(sys.argv[2])
    report(count, run(sys.argv[1], count, sys.argv[3]))
