"""Unique keys: who holds one, and what becomes of it when its holder ends.

A key is a small document ``unique/{digest}`` that points to its *owner*, a job. The owner's record
decides: the key is held while that says so (``held``), so it is free the moment its owner ends,
whoever is late to tidy up, and it stays with its owner over all attempts and deaths. Taking a free
key over is one compare-and-set of the document.

A job with a key is put ``waiting`` and released once it is certain that it holds the key:

1. The document is made to point to it (``unique_put.py``). It has no record yet, so others respect
   that for ``HOLD`` seconds only.
2. Its record is put. From now on nobody may take the key over.
3. If that took so long that somebody may have taken it over in between, the document is written
   once more; that fails if somebody has. Reading it would not do: somebody may have read it before
   the record was there and be about to write.
4. It is released. Or, if another job has the key, it ends as cancelled.

A crash between any two steps leaves a waiting record whose guard makes ``due`` ask for its
follow-up, or a document without a record, which is free after ``HOLD`` and deleted by ``tidy``.

U1. However many submit at once, at most one live job holds a key.
U2. A key stays with its job over all attempts and deaths, and is free the moment that job has
    ended, whether or not anybody has followed that up.
U3. ``started`` frees it at the first claim; a ``period`` holds it for that time, whatever becomes
    of the job.
U4. Submitting again with the same job id makes no second job and takes no key twice.
U5. A retried job, and a node of a workflow whose turn it is, gets its key or ends as cancelled.
U6. A crash after any call leads neither to two live jobs nor to a key that nobody can have, nor to
    a record that waits for ever.
U7. Neither does a stall of any length.
U8. What conflicts is answered with the job that holds the key, which has a record by then, or, if
    asked for, refused with its id.
U9. ``replace`` and ``reschedule`` change a job of the same task that has not started: the newest
    arguments count.
U10. ``keep_last``: however often it is submitted while a job runs, one more follows, with the
    newest arguments, as soon as that has ended.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from bananas_core.errors import ResultBackendUnavailable
from bananas_core.job import FINAL, Doc, Job, JobState, Ready, Signal, SignalKind, Write
from bananas_core.message import decode_stored
from bananas_core.results import ResultBackend
from bananas_core.unique_rule import UniqueRule, Until, rule_of

HOLD: Final = 5.0
"""Seconds for which a key is respected although its owner has no record yet."""
PREFIX: Final = "unique/"
TIDY: Final = 500
"""Documents that ``tidy`` looks at in one call."""
BY: Final = "unique"
"""Who cancels a job that lost its key."""

_IDS: Final = uuid.UUID("b7a4a1f5-6c0d-5a39-9d6e-2f3f6f0c7d11")
_UNSTARTED: Final = frozenset({JobState.WAITING, JobState.SCHEDULED, JobState.PENDING})


class KeyDoc(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The document of one key. Instants are on the ledger's clock."""

    owner: str
    key: str
    until: Until
    at: float
    """When the owner got the key."""
    free_at: float | None = None
    """Of a period: its end."""
    kept: bool = False
    """Of a period: the owner has ended, so its record may be gone."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it was when somebody looked: the document first, then its owner's record."""

    key: str
    now: float
    """The ledger's time before it was read."""
    doc: Doc | None = None
    value: KeyDoc | None = None
    owner: Job | None = None

    @property
    def holder(self) -> str | None:
        """Id of the job that holds the key; None when it is free."""
        if self.value is None or not held(self.value, self.owner, self.now):
            return None
        return self.value.owner

    def write(self, owner: str, rule: UniqueRule, *, at: float | None = None) -> Write:
        """Make it point to ``owner``, if it is still as it was seen.

        ``at``: when the owner got it, if it has it already.
        """
        since = self.now if at is None else at
        free_at = None if rule.period is None else since + rule.period
        value = KeyDoc(owner=owner, key=self.key, until=rule.until, at=since, free_at=free_at)
        return self._write(value)

    def keep(self) -> Write:
        """What is left of it once its owner has ended: nothing, or the rest of the period."""
        value = self.value
        if value is None or value.free_at is None or value.free_at <= self.now:
            return self._write(None)
        return self._write(replace(value, kept=True))

    def _write(self, value: KeyDoc | None) -> Write:
        ttl = None
        if value is not None and value.free_at is not None:
            ttl = max(value.free_at - self.now, 0.001)
        return Write(
            key=doc_key(self.key),
            value=None if value is None else msgspec.json.encode(value),
            version=0 if self.doc is None else self.doc.version,
            ttl=ttl,
        )


class Decision(msgspec.Struct, kw_only=True):
    """What became of jobs that waited for their key."""

    ready: list[Ready] = []
    lost: dict[str, str] = {}
    """Those that ended since another job holds the key, and that job."""
    open: list[str] = []
    """Those that can't be decided yet: the key's owner has no record, but may get one."""


def held(value: KeyDoc, owner: Job | None, now: float) -> bool:
    """Whether a key's owner holds it. ``owner``: its record, read after the document."""
    if value.until is Until.PERIOD and value.free_at is not None and value.free_at <= now:
        return False
    if owner is None:
        return value.kept or now < value.at + HOLD
    if owner.unique != value.key:
        return False  # an id that was used for another job
    if value.until is Until.PERIOD:
        return True
    if value.until is Until.STARTED:
        return owner.state in _UNSTARTED and owner.fence == 0
    return owner.state not in FINAL


def doc_key(key: str) -> str:
    """The key of a unique key's document."""
    return PREFIX + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def next_id(value: KeyDoc, number: int = 0) -> str:
    """Id of the job that follows when the owner ends (``keep_last``). ``number``: how many such
    ended before they could run, cancelled by somebody."""
    return uuid.uuid5(_IDS, f"{value.owner}/{value.at!r}/{number}").hex


async def look(
    backend: ResultBackend, keys: Iterable[str], ids: Iterable[str] = ()
) -> tuple[dict[str, Seen], dict[str, Job]]:
    """Keys as they are, and the records of their owners and of ``ids``, as far as they exist."""
    unique = list(dict.fromkeys(keys))
    now = await backend.now()
    docs = await backend.get_docs([doc_key(key) for key in unique])
    values = [None if doc is None else msgspec.json.decode(doc.value, type=KeyDoc) for doc in docs]
    wanted = dict.fromkeys((*(v.owner for v in values if v is not None), *ids))
    jobs = await records(backend, wanted)
    seen = {}
    for key, doc, value in zip(unique, docs, values, strict=True):
        owner = None if value is None else jobs.get(value.owner)
        seen[key] = Seen(key=key, now=now, doc=doc, value=value, owner=owner)
    return seen, jobs


async def tidy(backend: ResultBackend, after: str = "") -> str:
    """Delete documents of keys whose owners never came to have a record, one page at a time: their
    submitters died, and perhaps nobody asks for these keys again. Safe to repeat, by anybody.

    Args:
        after: what the call before returned.

    Returns:
        Where the next page begins; empty at the end.
    """
    docs = await backend.docs(PREFIX, after=after, limit=TIDY)
    if not docs:
        return ""
    now = await backend.now()
    values = [msgspec.json.decode(doc.value, type=KeyDoc) for doc in docs]
    old = [i for i, value in enumerate(values) if not held(value, None, now)]
    # Read after the documents: whoever puts a record now is late, and looks again (step 3).
    jobs = await records(backend, [values[i].owner for i in old])
    gone = [docs[i] for i in old if values[i].owner not in jobs]
    if gone:
        await backend.cas([Write(key=doc.key, value=None, version=doc.version) for doc in gone])
    return docs[-1].key if len(docs) == TIDY else ""


async def records(backend: ResultBackend, ids: Iterable[str]) -> dict[str, Job]:
    """The records that exist, by id."""
    wanted = list(ids)
    if not wanted:
        return {}
    return {job.id: job for job in await backend.get(wanted) if job is not None}


async def follow_keys(backend: ResultBackend, jobs: Sequence[Job]) -> list[Ready]:
    """Follow up records that have a key: an ended one passes it on, a waiting one gets it or ends
    as cancelled. Any other needs nothing. Safe to repeat, by anybody.

    Returns:
        What must be done now.
    """
    ready = await pass_on(backend, [job for job in jobs if job.state in FINAL])
    return ready + (await decide(backend, jobs)).ready


async def release(backend: ResultBackend, jobs: Sequence[Job]) -> list[Ready]:
    """Release waiting jobs with a key that wait for nothing else: each gets its key and goes on,
    or ends as cancelled. Safe to repeat.

    Raises:
        ResultBackendUnavailable: a key's owner is on its way into the ledger, or was lost on it;
            known after ``HOLD`` seconds at the latest.
    """
    decision = await decide(backend, jobs)
    if decision.open:
        raise ResultBackendUnavailable(
            f"it is not known yet whether job {decision.open[0]} can have its unique key"
        )
    return decision.ready


async def decide(backend: ResultBackend, jobs: Sequence[Job]) -> Decision:
    """Release those of the waiting jobs that hold their key or get it, end those that can't. The
    follow-up of a ``keep_last`` stays as it is while the job before it holds the key."""
    found = Decision()
    left = [job for job in jobs if job.state is JobState.WAITING and job.unique is not None]
    rules = {job.id: rule_of(decode_stored(job.message)) for job in left}
    while left:
        seen, _ = await look(backend, [job.unique for job in left if job.unique is not None])
        sure: list[Job] = []
        again: list[Job] = []
        wishes: list[Signal] = []
        takes: dict[str, tuple[Job, Write]] = {}
        for job in left:
            key, rule = seen[str(job.unique)], rules[job.id]
            if rule.until is Until.STARTED and job.fence > 0:
                sure.append(job)  # it started before: it holds nothing any more
            elif key.value is not None and key.value.owner == job.id:
                takes[key.key] = (job, key.write(job.id, rule, at=key.value.at))
            elif key.holder is None:
                if key.key in takes:
                    again.append(job)
                else:
                    takes[key.key] = (job, key.write(job.id, rule))
            elif key.holder != rule.after:
                if key.owner is None:
                    found.open.append(job.id)
                else:
                    found.lost[job.id] = key.holder
                    wishes.append(_duplicate(job, key.holder))
        for job, done in await _take(backend, takes):
            (sure if done else again).append(job)
        found.ready += await _signal(backend, [*(_go(job) for job in sure), *wishes])
        left = again
    return found


async def pass_on(backend: ResultBackend, jobs: Sequence[Job]) -> list[Ready]:
    """The keys of ended jobs go to the follow-up of a ``keep_last``, if there is one, or their
    documents go; those of a period stay as long as that."""
    ready: list[Ready] = []
    left = [job for job in jobs if job.unique is not None]
    while left:
        # `look` reads the records after the documents: one that was ended then and is live by now
        # must have written its document since, so that what is written here is refused.
        seen, current = await look(
            backend,
            [job.unique for job in left if job.unique is not None],
            [job.id for job in left],
        )
        mine = []
        for job in left:
            key, now = seen[str(job.unique)], current.get(job.id)
            owns = key.value is not None and key.value.owner == job.id
            if owns and (now is None or now.state in FINAL):
                mine.append((job, key))
        nexts = await followers(backend, {job.id: key for job, key in mine})
        takes = {}
        for job, key in mine:
            _, after = nexts[job.id]
            if after is not None and after.state is JobState.WAITING:
                rule = rule_of(decode_stored(after.message))
                takes[job.id] = (job, key.write(after.id, rule))
            else:
                takes[job.id] = (job, key.keep())
        left, passed = [], []
        for job, done in await _take(backend, takes):
            after = nexts[job.id][1]
            if not done:
                left.append(job)
            elif after is not None and after.state is JobState.WAITING:
                passed.append(after)
        ready += await _signal(backend, [_go(job) for job in passed])
    return ready


async def followers(
    backend: ResultBackend, keys: Mapping[str, Seen]
) -> dict[str, tuple[str, Job | None]]:
    """Of each key, the id of the job that follows its owner's end, and its record if there is one.
    One that ended before it could run makes room for another."""
    found: dict[str, tuple[str, Job | None]] = {}
    number, left = 0, dict(keys)
    while left:
        ids = {name: next_id(k.value, number) for name, k in left.items() if k.value is not None}
        jobs = await records(backend, ids.values())
        for name, id in ids.items():
            job = jobs.get(id)
            if job is None or job.state not in FINAL:
                found[name] = (id, job)
                del left[name]
        number += 1
    return found


async def _take(
    backend: ResultBackend, takes: Mapping[str, tuple[Job, Write]]
) -> list[tuple[Job, bool]]:
    """Write documents; of each job whether its was."""
    if not takes:
        return []
    answers = await backend.cas([write for _, write in takes.values()])
    return [(job, a.done) for (job, _), a in zip(takes.values(), answers, strict=True)]


async def _signal(backend: ResultBackend, wishes: Sequence[Signal]) -> list[Ready]:
    """Send signals. A job that ended before its release gives its key back."""
    if not wishes:
        return []
    answers, ready = await backend.signal(wishes)
    ended = [
        wish.id
        for wish, answer in zip(wishes, answers, strict=True)
        if wish.kind is SignalKind.RELEASE and answer.state in FINAL
    ]
    if ended:
        ready = ready + await pass_on(backend, list((await records(backend, ended)).values()))
    return ready


def _go(job: Job) -> Signal:
    """``gen``: if it ends and is retried meanwhile, it has to get its key anew."""
    return Signal(id=job.id, kind=SignalKind.RELEASE, gen=job.gen)


def _duplicate(job: Job, holder: str) -> Signal:
    return Signal(
        id=job.id,
        kind=SignalKind.END,
        state=JobState.CANCELLED,
        gen=job.gen,
        by=BY,
        reason=f"job {holder} holds its unique key",
    )
