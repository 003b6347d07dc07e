"""The producer's side: put, then send with confirmation, then settle; in batches.

Jobs that are submitted concurrently share requests. Nothing waits when no request is under way.
Jobs that nobody has to look at one by one (no plugin, codec, or rare option) go as ``Alike``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from bananas_core.alike import Alike, together
from bananas_core.blobs import INLINE, encode_payload_value
from bananas_core.clock import Clock, new_ids
from bananas_core.codec import CodecContext, Codecs
from bananas_core.errors import (
    DuplicateJob,
    PayloadTooLarge,
    ResultBackendError,
    TransportError,
    TransportUnavailable,
    UnsupportedCapability,
)
from bananas_core.job import JobPut, PutAnswer, PutKind, Ready, Settled
from bananas_core.message import with_fields
from bananas_core.options import Submission, to_put
from bananas_core.pair import Pair
from bananas_core.plugins import PluginManager
from bananas_core.send import send_ready
from bananas_core.template import Template
from bananas_core.transport import Outgoing
from bananas_core.unique_rule import UniqueRule, mark, rule_of

log = logging.getLogger("bananas.submit")

BATCH: Final = 500
"""Jobs in one request."""
FLIGHTS: Final = 2
"""Requests under way at once."""
SETTLE_WITHIN: Final = 1.0
"""Seconds after which confirmed sends are settled if no other put takes them along."""
SEND_WAITS: Final = (0.1, 0.4, 1.0)
"""Seconds between tries to send what is recorded already."""
HEADROOM: Final = 16_384
"""Bytes of a message that are not its payload."""


class _Group:
    """Jobs of one caller that go together, and where the caller waits: submissions, or what is
    ready to be put."""

    __slots__ = ("future", "jobs", "ready", "size")

    def __init__(self, jobs: Sequence[Submission], ready: Alike | None = None) -> None:
        self.jobs = jobs
        self.ready = ready
        self.size = len(jobs) if ready is None else len(ready)
        self.future: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()


class Submitter:
    """Submits through one open pair, on one event loop."""

    def __init__(
        self,
        pair: Pair,
        plugins: PluginManager,
        codecs: Codecs,
        *,
        clock: Clock,
    ) -> None:
        self._pair = pair
        self._plugins = plugins
        self._codecs = codecs
        self._coded = bool(codecs)
        self._clock = clock
        room = pair.transport.capabilities.max_message
        self._inline = min(INLINE, max(0, room - HEADROOM) * 3 // 4)
        self._queue: deque[_Group] = deque()
        self._flights: set[asyncio.Task[None]] = set()
        self._alone = 0
        """Requests under way that their callers make themselves."""
        self._crowded = False
        """Whether the last request had jobs of several callers: then it pays to wait for more."""
        self._landed_alone: asyncio.Event | None = None
        self._scheduled = False
        self._settled: list[Settled] = []
        self._timer: asyncio.TimerHandle | None = None
        self._settling: asyncio.Task[None] | None = None

    async def submit(self, jobs: Sequence[Submission], *, tx: Any = None) -> list[str]:
        """Record and send; ids in order. An existing id stays the job that it is. ``tx``: record
        in this transaction of the caller's; the jobs are sent once it is committed.

        Raises:
            InvalidPayload, PayloadTooLarge: nothing was sent.
            DuplicateJob: another job holds the key of one of them; the others were accepted.
            TransportError, ResultBackendError: it is unknown what was accepted. Recorded jobs
                that could not be sent are sent by any worker later. Safe to repeat with the
                same ids.
        """
        if tx is not None:
            return await self._send_in(tx, jobs)
        return await self._queued(
            [_Group(jobs[start : start + BATCH]) for start in range(0, len(jobs), BATCH)]
        )

    async def submit_alike(self, template: Template, payloads: Sequence[bytes]) -> list[str]:
        """``submit`` for new jobs of one kind."""
        ids, now = new_ids(len(payloads)), self._clock.now()
        looked_at = self._plugins.submits or self._coded or not template.simple or not ids
        if looked_at or max(map(len, payloads)) > self._inline:
            return await self.submit(template.submissions(ids, payloads, now))
        ready = template.jobs(ids, payloads, now)
        if len(ids) > BATCH:
            return await self._queued([_Group((), part) for part in ready.parts(BATCH)])
        full = len(self._flights) + self._alone >= FLIGHTS
        if full or self._crowded or self._queue or not self._pair.fused:
            return await self._queued([_Group((), ready)])
        self._alone += 1
        try:
            answers = await self._pair.backend.put(ready)
        finally:
            self._alone -= 1
            if self._queue:
                self._take_off()
            if self._landed_alone is not None:
                self._landed_alone.set()
        return [answer.id for answer in answers]

    async def _queued(self, groups: Sequence[_Group]) -> list[str]:
        """Wait until they were sent; all ids in order, or the first error."""
        self._queue.extend(groups)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._take_off)
        if len(groups) == 1:
            return await groups[0].future
        ids: list[str] = []
        answers = await asyncio.gather(*(g.future for g in groups), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            ids.extend(answer)
        return ids

    async def send_ready(self, ready: Sequence[Ready]) -> None:
        """Send what a signal made pending. An outage is logged: the guard sends it later."""
        self._settle_later(await send_ready(self._pair, ready))

    async def close(self) -> None:
        """Finish what was submitted, and settle it. Safe to repeat."""
        while self._queue or self._flights or self._alone:
            self._take_off()
            if self._flights:
                await asyncio.wait(self._flights)
            else:
                self._landed_alone = asyncio.Event()
                await self._landed_alone.wait()
        if self._timer is not None:
            self._timer.cancel()
        if self._settling is not None:
            await self._settling
        await self._settle()

    def _take_off(self) -> None:
        """Start requests as far as there may be more."""
        self._scheduled = False
        while self._queue and len(self._flights) + self._alone < FLIGHTS:
            groups = [self._queue.popleft()]
            size, ready = groups[0].size, groups[0].ready is not None
            while self._queue:
                after = self._queue[0]
                size += after.size
                if size > BATCH or (after.ready is not None) is not ready:
                    break
                groups.append(self._queue.popleft())
            self._crowded = len(groups) > 1
            flight = asyncio.get_running_loop().create_task(self._fly(groups))
            self._flights.add(flight)
            flight.add_done_callback(self._landed)

    def _landed(self, flight: asyncio.Task[None]) -> None:
        self._flights.discard(flight)
        if self._queue:
            self._take_off()

    async def _fly(self, groups: Sequence[_Group]) -> None:
        """One request; every caller gets its ids, or the first error among its jobs."""
        count = sum(group.size for group in groups)
        ready = [group.ready for group in groups if group.ready is not None]
        results: list[str | Exception]
        try:
            if ready:
                results = await self._send_ready_ones(together(ready))
            else:
                results = await self._send([job for group in groups for job in group.jobs])
        except Exception as error:
            results = [error] * count
        except asyncio.CancelledError:
            results = [TransportUnavailable("the app was closed; the outcome is unknown")] * count
        start = 0
        for group in groups:
            mine = results[start : start + group.size]
            start += group.size
            if group.future.done():
                continue  # its caller was cancelled
            refused = next((item for item in mine if isinstance(item, Exception)), None)
            if refused is not None:
                group.future.set_exception(refused)
            else:
                group.future.set_result([item for item in mine if isinstance(item, str)])

    async def _send_in(self, tx: Any, jobs: Sequence[Submission]) -> list[str]:
        """``submit`` in the caller's transaction: at once, together, and with nothing else."""
        ids: list[str] = []
        for item in await self._send(list(jobs), tx):
            if isinstance(item, Exception):
                raise item
            ids.append(item)
        return ids

    async def _send_ready_ones(self, puts: Sequence[JobPut]) -> list[str | Exception]:
        answers = await self._put_plain(puts)
        results: list[str | Exception] = [answer.id for answer in answers]
        for place, refused in await self._send_messages(puts, answers):
            results[place] = refused
        return results

    async def _send(self, jobs: list[Submission], tx: Any = None) -> list[str | Exception]:
        wanted: list[Submission | Exception] = list(jobs)
        if self._plugins.has("before_submit"):
            wanted = await self._plugins.before_submit(jobs)
        results: list[str | Exception] = []
        live: list[Submission] = []
        puts: list[JobPut] = []
        places: list[int] = []
        for job in wanted:
            try:
                if isinstance(job, Exception):
                    raise job
                put = await self._put_of(job)
            except Exception as error:
                results.append(error)
                continue
            places.append(len(results))
            results.append(put.id)
            live.append(job)
            puts.append(put)
        if not puts or (tx is not None and len(puts) < len(results)):
            return results
        if tx is None:
            answers = await self._put(live, puts)
        else:
            answers = await self._put_in(tx, puts)
        for i, answer in enumerate(answers):
            results[places[i]] = answer if isinstance(answer, Exception) else answer.id
        kept = [i for i, answer in enumerate(answers) if isinstance(answer, PutAnswer)]
        accepted = [answer for answer in answers if isinstance(answer, PutAnswer)]
        for place, refused in await self._send_messages([puts[i] for i in kept], accepted):
            results[places[kept[place]]] = refused
        if self._plugins.has("after_submit"):
            await self._plugins.after_submit([live[i] for i in kept], accepted)
        return results

    async def _put(
        self, jobs: Sequence[Submission], puts: Sequence[JobPut]
    ) -> list[PutAnswer | DuplicateJob]:
        """Record all, those with a unique key in their own way."""
        keyed = [i for i, put in enumerate(puts) if put.unique is not None and not put.waiting]
        plain = [i for i in range(len(puts)) if i not in set(keyed)] if keyed else range(len(puts))
        found: dict[int, PutAnswer | DuplicateJob] = {}
        if plain:
            answers = await self._put_plain([puts[i] for i in plain])
            found.update(zip(plain, answers, strict=True))
        if keyed:
            found.update(zip(keyed, await self._put_keyed(jobs, puts, keyed), strict=True))
        return [found[i] for i in range(len(puts))]

    async def _put_plain(self, puts: Sequence[JobPut]) -> list[PutAnswer]:
        """Record, and settle earlier sends on the way."""
        settled, self._settled = self._settled, []
        try:
            return await self._pair.backend.put(puts, settled=settled)
        except BaseException:
            self._settled.extend(settled)
            raise

    async def _put_in(self, tx: Any, puts: Sequence[JobPut]) -> list[PutAnswer | DuplicateJob]:
        """Record all in the caller's transaction; nothing is recorded if one has a unique key."""
        if any(put.unique is not None for put in puts):
            raise UnsupportedCapability(
                "a job with a unique key can't be put in your own transaction: others would have "
                "to wait for its end to know who holds the key; leave out tx= or the key"
            )
        return list(await self._pair.backend.put(puts, tx=tx))

    async def _put_keyed(
        self, jobs: Sequence[Submission], puts: Sequence[JobPut], keyed: Sequence[int]
    ) -> list[PutAnswer | DuplicateJob]:
        from bananas_core.unique_put import put_unique  # most programs have no unique jobs

        async def remake(place: int, id: str, rule: UniqueRule) -> JobPut:
            job = jobs[keyed[place]]
            message = mark(replace(job.message, id=id), job.message.unique or "", rule)
            return await self._put_of(replace(job, message=message))

        answers, ready = await put_unique(
            self._pair.backend,
            [puts[i] for i in keyed],
            [rule_of(jobs[i].message) for i in keyed],
            remake,
            clock=self._clock,
        )
        if ready:
            await self.send_ready(ready)
        return answers

    async def _put_of(self, job: Submission) -> JobPut:
        """The ledger's record of a submission, its payload encoded and checked in."""
        message = job.message
        payload = bytes(message.payload)
        if self._codecs or len(payload) > self._inline:
            wait = job.delay or 0.0
            if message.run_at is not None:
                wait = max(0.0, message.run_at.timestamp() - self._clock.now())
            encoding, payload = await encode_payload_value(
                payload,
                CodecContext(job_id=message.id, name=message.name, kind="payload"),
                codecs=self._codecs,
                backend=self._pair.backend,
                inline=self._inline,
                wait=wait,
            )
            if encoding:
                message = replace(message, encoding=encoding, payload=msgspec.Raw(payload))
        put = to_put(replace(job, message=message))
        most = self._pair.transport.capabilities.max_message
        if len(put.message) > most:
            raise PayloadTooLarge(f"a message of {len(put.message)} bytes is over {most}")
        return put

    async def _send_messages(
        self, puts: Sequence[JobPut], answers: Sequence[PutAnswer]
    ) -> list[tuple[int, TransportError]]:
        """Send what is pending; which were refused, by place."""
        if self._pair.fused:
            return []
        places = [i for i, answer in enumerate(answers) if answer.send]
        if not places:
            return []
        messages = []
        for i in places:
            put, gen = puts[i], answers[i].gen
            body = put.message if gen == 1 else with_fields(put.message, gen=gen)
            messages.append(Outgoing(body=body, queue=put.routing_key, priority=put.priority))
        sent = await self._send_surely(messages)
        # A job that existed before may have been put with another routing key: its guard stays.
        self._settle_later(
            Settled(id=puts[i].id, gen=answers[i].gen)
            for i, refused in zip(places, sent, strict=True)
            if refused is None and answers[i].kind is PutKind.CREATED
        )
        return [(i, error) for i, error in zip(places, sent, strict=True) if error is not None]

    async def _send_surely(self, messages: Sequence[Outgoing]) -> list[TransportError | None]:
        """``send``, tried again a few times: the jobs are recorded, so a copy does no harm."""
        for wait in (*SEND_WAITS, None):
            try:
                return await self._pair.transport.send(messages)
            except TransportUnavailable as error:
                if wait is None:
                    raise TransportUnavailable(
                        f"{len(messages)} jobs are recorded but could not be sent ({error}); "
                        "workers will send them; submitting again with the same ids is safe"
                    ) from error
                await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    def _settle_later(self, settled: Iterable[Settled]) -> None:
        self._settled.extend(settled)
        if self._settled and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SETTLE_WITHIN, self._settle_now)

    def _settle_now(self) -> None:
        self._timer = None
        if self._settled:
            self._settling = asyncio.get_running_loop().create_task(self._settle())

    async def _settle(self) -> None:
        """Clear the guards of confirmed sends. Not done, they fire, which costs a copy."""
        settled, self._settled = self._settled, []
        if not settled:
            return
        try:
            await self._pair.backend.put([], settled=settled)
        except ResultBackendError as error:
            log.warning("%d sends are not settled: %s", len(settled), error)
