"""One namespace on one server: scripts by name, and changes of records by compare-and-set."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import msgspec
from redis import exceptions
from redis.exceptions import NoScriptError, RedisError

from bananas_brokers.redis.changes import Change, commands
from bananas_brokers.redis.connect import connector
from bananas_brokers.redis.errors import NotOpen, translate
from bananas_brokers.redis.facts import Facts, read_facts
from bananas_brokers.redis.header import decode
from bananas_brokers.redis.keys import Keys
from bananas_brokers.redis.layout import agree
from bananas_brokers.redis.scripts import KeyNames, Scripts, Split
from bananas_brokers.redis.settings import Settings
from bananas_brokers.redis.wire import Wire
from bananas_core.clock import Clock
from bananas_core.errors import BananasError, ConfigurationError
from bananas_core.job import Job

T = TypeVar("T")

BATCH: Final = 100
"""Jobs in one call of a script: a longer one keeps everybody else waiting."""
BYTES: Final = 64 << 10
_TRIES: Final = 200
_REPLICAS_WITHIN: Final = 2_000
"""Milliseconds to wait for replicas. Not long: whatever else goes over the connection waits too."""


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """Records at one moment. ``now``: the ledger's clock then."""

    now: float
    jobs: dict[str, Job]
    heads: dict[str, bytes]


Fixed = tuple[str, KeyNames, tuple[Any, ...], Split]
"""A script, its keys, its last arguments, and these packed."""

Decide = Callable[[str, Job | None, float], Job | None]
"""id, record, time → the next value; the same one or None changes nothing. May be asked again."""


class Store:
    """What transport and ledger have in common. ``clock``: for tests that move time; else the
    server's clock counts, and only that."""

    def __init__(
        self,
        settings: Settings,
        namespace: str,
        clock: Clock | None,
        refused: type[BananasError],
        unavailable: type[BananasError],
    ) -> None:
        self.settings = settings
        self.keys = Keys(namespace)
        self.wire = Wire(connector(settings, self.keys), settings.socket_timeout)
        self.guard = True
        never = (self.keys.never,) if settings.cluster else ()
        self._scripts = Scripts(self.wire, never)
        self.kinds: dict[int, Any] = {}
        """What ``lifecycle.py`` has worked out for jobs that come often."""
        self.facts = Facts()
        self._clock = clock
        self._errors = (refused, unavailable)

    async def open(self) -> None:
        """Connect and look whether this program may use what is there. Safe to repeat.

        Raises:
            BananasError: unavailable within 10 s, or refused.
            ConfigurationError: written by a newer version or with other shards, or a server that
                is too old.
        """
        if self.wire.is_open():
            return
        try:
            await self.wire.open()
            await self._check()
            await self._scripts.load()
            await agree(self.wire, self.keys, self.settings)
        except (RedisError, OSError, NotOpen) as error:
            await self.wire.close()
            raise self.translated(error) from error
        except BaseException:
            await self.wire.close()
            raise

    async def close(self) -> None:
        await self.wire.close()

    @property
    def own_clock(self) -> bool:
        """Whether the time of scripts is ours, not the server's."""
        return self._clock is not None

    def stamp(self) -> str | bytes:
        """The first argument of every script: empty where the server's own clock counts."""
        return b"" if self._clock is None else repr(self._clock.now())

    async def run(self, name: str, keys: KeyNames, *args: Any) -> Any:
        """One script, translated errors."""
        try:
            if not self.wire.connected:
                await self.wire.connect()
            stamp = b"" if self._clock is None else self.stamp()
            try:
                return await self._scripts.post(name, keys, stamp, *args)
            except NoScriptError:
                return await self._scripts.whole(name, keys, stamp, *args)
        except (RedisError, OSError, NotOpen) as error:
            raise self.translated(error) from error

    async def answer(
        self, wire: Wire, name: str, keys: KeyNames, args: Sequence[Any]
    ) -> Any | None:
        """One script over another connection, written at once; None if the server forgot it.

        Raises:
            RedisError, OSError, NotOpen: as it comes.
        """
        try:
            return await wire.post(*self._scripts.command(name, keys, self.stamp(), *args))
        except NoScriptError:
            return None

    async def run_one(self, script: Fixed, id: str, message: bytes) -> Any:
        """A script that differs in an id and a message from one call to the next."""
        name, keys, args, (front, back) = script
        if self._clock is not None:
            return await self.run(name, keys, id, message, *args)
        key = id.encode()
        parts = (front, len(key), key, len(message), message, back)
        command = b"%b$%d\r\n%b\r\n$%d\r\n%b%b" % parts
        try:
            if not self.wire.connected:
                await self.wire.connect()
            try:
                return await self.wire.write(command)
            except NoScriptError:
                return await self._scripts.whole(name, keys, b"", id, message, *args)
        except (RedisError, OSError, NotOpen) as error:
            raise self.translated(error) from error

    def fixed(self, name: str, keys: KeyNames, *args: Any) -> Fixed:
        """For ``run_one``: ``args`` follow id and message."""
        return name, keys, args, self._scripts.split(name, keys, args, 2)

    async def run_all(self, name: str, keys: KeyNames, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """One script several times, in order and without waiting between."""
        if len(calls) == 1:
            return [await self.run(name, keys, *calls[0])]
        try:
            if calls and not self.wire.connected:
                await self.wire.connect()
            stamp = self.stamp()
            posted = [self._scripts.post(name, keys, stamp, *args) for args in calls]
            answers = []
            for future, args in zip(posted, calls, strict=True):
                try:
                    answers.append(await future)
                except NoScriptError:
                    answers.append(await self._scripts.whole(name, keys, stamp, *args))
        except (RedisError, OSError, NotOpen) as error:
            raise self.translated(error) from error
        return answers

    async def call(self, *command: Any) -> Any:
        """One plain command, translated errors."""
        try:
            return await self.wire.call(*command)
        except (RedisError, OSError, NotOpen) as error:
            raise self.translated(error) from error

    async def load(self, ids: Sequence[str], *, messages: bool, results: bool = False) -> Loaded:
        """Records by id; those that don't exist are missing. A batch is of one moment."""
        keys = self.keys
        want = ("m" if messages else "") + ("r" if results else "")
        names = (keys.heads, keys.extras, keys.messages, keys.results)
        jobs: dict[str, Job] = {}
        heads: dict[str, bytes] = {}
        parts = [ids[i : i + BATCH] for i in range(0, len(ids), BATCH)] or [[]]
        answers = await self.run_all("load", names, [(want, *part) for part in parts])
        for part, (_, found, extras, bodies, kept) in zip(parts, answers, strict=True):
            for i, job_id in enumerate(part):
                if found[i] is not None:
                    heads[job_id] = found[i]
                    jobs[job_id] = decode(
                        job_id,
                        found[i],
                        extras[i],
                        bodies[i] if messages else None,
                        kept[i] if results else None,
                    )
        return Loaded(now=float(answers[-1][0]), jobs=jobs, heads=heads)

    async def apply(
        self, changes: Sequence[Change], *, create: bool = False, session: str | None = None
    ) -> list[bool]:
        """Write each change if its record is still as it was. ``create``: refused when the server
        is full. ``session``: only if that session's time has run out."""
        keys, done = self.keys, list[bool]()
        name = "create" if create else "apply"
        for part in _portions(changes):
            words: list[Any] = []
            for change in part:
                made = commands(keys, change, guard=self.guard)
                words += (change.new.id, change.head, len(made))
                for command in made:
                    words.append(len(command))
                    words += command
            lapse = (session or "", keys.sessions)
            answers = await self.run(name, (keys.heads,), keys.prefix, *lapse, *words)
            done += [bool(answer) for answer in answers]
        return done

    async def transact(
        self,
        ids: Iterable[str],
        decide: Decide,
        *,
        messages: bool | None = None,
        create: bool = False,
    ) -> dict[str, tuple[Job | None, Job | None]]:
        """Read, decide, write, again for those that somebody changed meanwhile.

        Returns:
            id → the record before, and after (the same if it did not change).
        """
        left = list(dict.fromkeys(ids))
        results: dict[str, tuple[Job | None, Job | None]] = {}
        wanted = self.guard if messages is None else messages
        for turn in range(_TRIES):
            if not left:
                return results
            if turn > 2:
                await asyncio.sleep(random.uniform(0, 0.002 * min(turn, 20)))
            loaded = await self.load(left, messages=wanted)
            changes: list[Change] = []
            for job_id in left:
                old = loaded.jobs.get(job_id)
                new = decide(job_id, old, loaded.now)
                results[job_id] = (old, old if new is None else new)
                if new is not None and new is not old:
                    head = loaded.heads.get(job_id, b"")
                    changes.append(Change(old=old, new=new, head=head))
            done = await self.apply(changes, create=create)
            left = [c.new.id for c, fine in zip(changes, done, strict=True) if not fine]
        raise self._errors[1](f"{self.settings.label}: records change too fast; try again")

    async def kept(self, write: Callable[[], Awaitable[T]], *, disk: bool = False) -> T:
        """What ``write`` answers, once as many replicas as asked for have all that it wrote, and
        all that it found: that may be what an earlier try wrote. ``disk``: and once the server
        has synced it to its disk.

        Raises:
            BananasError: unavailable, as too few of them answered in time, or since the
                connection was lost, maybe with the server that had what was written.
        """
        replicas = self.settings.wait_replicas
        if not replicas and not disk:
            return await write()
        if not self.wire.connected:
            await self.call("PING")
        turn = self.wire.turn
        answer = await write()
        await self.run("mark", (self.keys.meta,))
        patience = int(self.settings.socket_timeout * 500)
        short = min(patience, _REPLICAS_WITHIN)
        label, unavailable = self.settings.label, self._errors[1]
        if replicas and (found := await self.call("WAIT", replicas, short)) < replicas:
            raise unavailable(
                f"{label}: {found} of {replicas} replicas confirmed; what was written may be lost "
                "with the master, so try again"
            )
        if disk and (await self.call("WAITAOF", 1, 0, patience))[0] < 1:
            raise unavailable(f"{label}: what was written is not on its disk yet; try again")
        if self.wire.turn != turn:
            raise unavailable(f"{label}: the connection was lost, and maybe the write; try again")
        return answer

    def translated(self, error: Exception) -> BananasError:
        return translate(error, self.settings.label, *self._errors)

    async def _check(self) -> None:
        """Look at the server, and refuse it if it can't do what is promised."""
        self.facts = facts = await read_facts(self.wire)
        label = self.settings.label
        if facts.loading:
            raise exceptions.BusyLoadingError("the server is loading its data")
        if facts.too_old:
            raise ConfigurationError(
                f"{label}: Redis {facts.version} is too old; 7.0 or later, or Valkey, is needed"
            )
        if facts.mode == "cluster" and not self.settings.cluster:
            raise ConfigurationError(f"{label} is a node of a cluster: write redis+cluster://…")
        if self.settings.durable and not facts.durable:
            raise ConfigurationError(
                f"{label}: durable=true needs a server with appendonly yes and appendfsync always; "
                f"it has appendonly {'yes' if facts.append_only else 'no'} and appendfsync "
                f"{facts.fsync or 'unknown'}"
            )
        if self.settings.durable_claims and not facts.syncs:
            raise ConfigurationError(
                f"{label}: durable_claims=true needs a server with appendonly yes, and either "
                "appendfsync always, or appendfsync everysec and WAITAOF (Redis 7.2, Valkey); "
                f"this is {facts.kind} {facts.version} with appendonly "
                f"{'yes' if facts.append_only else 'no'} and appendfsync {facts.fsync or 'unknown'}"
            )


def _portions(changes: Sequence[Change]) -> Iterable[Sequence[Change]]:
    """Parts that keep a script short."""
    part: list[Change] = []
    size = 0
    for change in changes:
        more = len(change.new.message) + len(change.new.result or b"") + 500
        if part and (len(part) >= BATCH or size + more > 2 * BYTES):
            yield part
            part, size = [], 0
        part.append(change)
        size += more
    if part:
        yield part
