"""What a server of events does for each request. Belongs to the loop's thread; nothing here waits.

Rules:
1. A request is answered at once, or it becomes a waiter, which has a deadline.
2. What a request asks for is bounded here: records, bytes, seconds, and how much of it one connection may want at once.
3. A request without a number (`NOBODY`) is one way: what goes wrong with it is not told, but counted as done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

from proxyfab.errors import CapacityError, ConfigurationError, IntegrityError, TopicNotFound
from proxyfab.events.cursor import NEVER, Spot
from proxyfab.events.engine import Log
from proxyfab.events.model import Kept, check_group
from proxyfab.events.plain import cursors_in, info_out, start_in, topic_in, topic_out
from proxyfab.events.values import Values
from proxyfab.server.events.members import Member, Members
from proxyfab.server.events.saying import BATCH, PAGE, ROOM, delivered, expected, kept, page, records, some, spots
from proxyfab.server.events.topics import MOST_GROUPS, Topics
from proxyfab.server.events.waiting import Reply, Waiter, Waiters
from proxyfab.wire.messages import NOBODY, Message

_LONGEST = 60.0
"""Seconds that a request may wait; a client asks again."""
_AT_ONCE = 64
"""Members that one connection may be."""
_WAITING = 32
"""Requests of one connection that may wait: their answers have room when all come at once (`proxyfab.wire.flow`)."""
_NOTE = 1 << 10
_EMPTY = Reply({"n": 0})
_DONE = Reply({})
Answer: TypeAlias = "Callable[[Reply | Exception], None]"


class Verbs:
    """All requests.

    Args:
        memory: Bytes of records at most.
        incarnation: Of this server.
    """

    def __init__(self, memory: int, incarnation: str) -> None:
        self.topics = Topics(memory)
        self.members = Members()
        self.waiters = Waiters()
        self._incarnation = incarnation
        self._verbs: dict[str, Callable[[bytes, Message, Answer], Reply | None]] = {
            name.removeprefix("on_").replace("_", "-"): getattr(self, name) for name in dir(self) if name[:3] == "on_"
        }

    def do(self, peer: bytes, message: Message, answer: Answer) -> Reply | None:
        """What to answer now; None if it is answered later, or never.

        Raises:
            ProxyfabError: What is wrong.
        """
        verb = self._verbs.get(message.verb)
        if verb is None:
            raise ConfigurationError(f"A broker over ZeroMQ knows no request {message.verb!r}.")
        return verb(peer, message, answer)

    def drop(self, peer: bytes) -> None:
        """A connection has ended."""
        self.waiters.drop(peer)
        for member in self.members.drop(peer):
            self.waiters.change(member.log)

    def _wait(
        self,
        peer: bytes,
        place: object,
        message: Message,
        answer: Answer,
        attempt: Callable[[], Reply | None],
        again: Callable[[], float],
        otherwise: Reply,
    ) -> Reply | None:
        """What is found at once, or later."""
        found = attempt()
        timeout = min(max(message.seconds("t") or 0.0, 0.0), _LONGEST)
        if found is not None or not timeout:
            return found or otherwise
        if self.waiters.count(peer) >= _WAITING:
            raise CapacityError(f"{_WAITING} requests of this connection wait already.")
        self.waiters.add(place, Waiter(peer, attempt, answer, time.monotonic() + timeout, again, otherwise))
        return None

    # -- topics ------------------------------------------------------------------------------------------------------

    def on_hello(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - all have one form
        return Reply({"incarnation": self._incarnation, "serves": "events"})

    def on_ensure(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - as above
        return Reply(topic_out(self.topics.ensure(topic_in(message.fields))))

    def on_describe(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - as above
        found = self._log(message).describe()
        extents = [[number, extent.first, extent.last] for number, extent in found.extents.items()]
        return Reply({**topic_out(found.topic), "extents": extents, "records": found.records, "nbytes": found.nbytes})

    def on_delete(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - as above
        held = self.topics.delete(message.text("topic"))
        if held is not None:
            self.waiters.change(held.log)
            self.waiters.change(held.values)
        return Reply({"was": held is not None})

    def on_topics(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - as above
        return page(self.topics.names(), message, lambda name: name)

    # -- records -----------------------------------------------------------------------------------------------------

    def on_publish(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - as above
        log = self._log(message)
        positions = self.topics.publish(log, records(message))
        self.waiters.change(log)
        return Reply({"p": [each.partition for each in positions], "o": [each.offset for each in positions]})

    def on_cut(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - as above
        log = self._log(message)
        cut = log.cut(dict(zip(message.counts("p"), message.counts("o"), strict=False)))
        self.topics.count()
        return Reply({"n": cut})

    def on_join(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - as above
        if self.members.count(peer) >= _AT_ONCE:
            raise CapacityError(f"One connection may be {_AT_ONCE} members.")
        log, group = self._log(message), check_group(message.text("group"))
        wanted = log.wanted(message.counts("partitions") if "partitions" in message.fields else None)
        self._ensure_group(log, group, message)
        member = self.members.add(peer, log, group, wanted, _positive(message, "wait"))
        return Reply({"m": member.token})

    def on_fetch(self, peer: bytes, message: Message, answer: Answer) -> Reply | None:
        member = self._member(message)
        most = min(message.count("n"), BATCH)
        log = member.log

        def attempt() -> Reply | None:
            if member.left:
                return Reply({"n": 0, "closed": True})
            found = log.fetch(member.group, member.number, most, member.ack_wait, member.partitions, ROOM)
            return delivered(found) if found else None

        reply = self._wait(peer, log, message, answer, attempt, lambda: log.next_change(member.group), _EMPTY)
        if reply is not None and reply is not _EMPTY:
            self.waiters.touch(log)  # others may get it back at a moment that nobody knew of
        return reply

    def on_read(self, peer: bytes, message: Message, answer: Answer) -> Reply | None:
        log, most = self._log(message), min(message.count("n"), BATCH)
        cursors = self._cursors(log, message)

        def attempt() -> Reply | None:
            found = log.read(cursors, most, ROOM)
            return delivered(found, list(map(list, cursors.items()))) if found else None

        return self._wait(peer, log, message, answer, attempt, lambda: NEVER, _EMPTY)

    def on_cursors(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - as above
        """Where a reader begins."""
        log = self._log(message)
        wanted = log.wanted(message.counts("partitions") if "partitions" in message.fields else None)
        found = log.cursors(start_in(message.fields.get("start")))
        cursors = [[number, found[number]] for number in sorted(wanted)]
        return Reply({"c": cursors, "log": self.topics.number(message.text("topic"))})

    def on_read_info(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - as above
        log = self._log(message)
        return Reply({"info": info_out(log.read_info(self._cursors(log, message)))})

    def _cursors(self, log: Log, message: Message) -> dict[int, int]:
        cursors = cursors_in(message.fields.get("c"))
        if message.count("log") != self.topics.number(message.text("topic")):
            raise TopicNotFound(f"Topic {log.topic.name} was deleted, and made anew; subscribe again.")
        log.wanted(list(cursors))
        return cursors

    # -- settling ----------------------------------------------------------------------------------------------------

    def on_ack(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - as above
        return self._settle(message, lambda member, spots: member.log.ack(member.group, spots))

    def on_nack(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - as above
        note, delay = message.fields.get("note", b""), max(message.seconds("delay") or 0.0, 0.0)
        if note.__class__ is not bytes or len(note) > _NOTE:
            raise CapacityError(f"A note has at most {_NOTE} bytes.")
        return self._settle(
            message, lambda member, spots: member.log.nack(member.group, member.number, spots, delay, note)
        )

    def on_extend(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - as above
        return self._settle(
            message, lambda member, spots: member.log.extend(member.group, member.number, spots, member.ack_wait)
        )

    def _settle(self, message: Message, settle: Callable[[Member, list[Spot]], None]) -> Reply:
        member = self._member(message)
        try:
            settle(member, spots(message.counts("s")))
        finally:
            if message.request == NOBODY:
                member.done += 1
                self.waiters.change(member.token)
            self.waiters.change(member.log)
        return _DONE

    def on_flush(self, peer: bytes, message: Message, answer: Answer) -> Reply | None:
        """When so many one-way messages of a member are done."""
        member, wanted = self._member(message), message.count("n")
        return self._wait(
            peer,
            member.token,
            message,
            answer,
            lambda: Reply({"done": True}) if member.done >= wanted or member.left else None,
            lambda: NEVER,
            Reply({"done": False}),
        )

    def on_leave(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - as above
        member = self._member(message)
        self.members.leave(member)
        self.waiters.change(member.log)
        return _DONE

    def on_seek(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - as above
        member = self._member(message)
        member.log.seek_group(member.group, start_in(message.fields.get("start")))
        self.waiters.change(member.log)
        return _DONE

    # -- groups ------------------------------------------------------------------------------------------------------

    def on_groups(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - as above
        infos = self._log(message).groups()
        return page(sorted(infos), message, lambda name: [name, info_out(infos[name])])

    def on_info(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - as above
        member = self._member(message)
        return Reply({"info": info_out(member.log.info(member.group))})

    def on_ensure_group(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - as above
        self._ensure_group(self._log(message), check_group(message.text("group")), message)
        return _DONE

    def on_delete_group(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - as above
        log = self._log(message)
        was = log.delete_group(message.text("group"))
        self.waiters.change(log)
        return Reply({"was": was})

    def _ensure_group(self, log: Log, group: str, message: Message) -> None:
        if not log.has_group(group) and log.groups_count >= MOST_GROUPS:
            raise CapacityError(f"Topic {log.topic.name} has {MOST_GROUPS} groups, which is all that it takes.")
        log.ensure_group(group, start_in(message.fields.get("start", "earliest")))

    # -- values ------------------------------------------------------------------------------------------------------

    def on_get(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - as above
        name = message.text("name")
        return kept({name: self._values(message).get(name)})

    def on_put(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - as above
        values, value = self._values(message), b"".join(message.body)
        self.topics.check_value(values, len(value))
        revision = values.put(message.text("name"), value, expected(message), message.seconds("ttl"))
        self.waiters.change(values)
        return Reply({"revision": revision})

    def on_drop(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - as above
        values = self._values(message)
        was = values.delete(message.text("name"), expected(message))
        self.waiters.change(values)
        return Reply({"was": was})

    def on_items(self, peer: bytes, message: Message, answer: Answer) -> Reply:  # noqa: ARG002 - as above
        """Those behind the name `after`, as many as one answer takes."""
        found: dict[str, Kept] = {}
        after, nbytes = message.text("after", ""), 0
        for name, each in self._values(message).items(message.text("prefix", "")).items():
            if name <= after:
                continue
            if found and (len(found) >= PAGE or nbytes + len(each.value) > ROOM):
                return kept(found, more=True)
            found[name] = each
            nbytes += len(each.value)
        return kept(found)

    def on_watch(self, peer: bytes, message: Message, answer: Answer) -> Reply | None:
        values, known = self._values(message), message.fields.get("known")
        if not isinstance(known, dict) or not all(number.__class__ is int for number in known.values()):
            raise IntegrityError("What is known of values is malformed.")

        def attempt() -> Reply | None:
            found = values.changed(known)
            return kept(some(found)) if found else None

        return self._wait(peer, values, message, answer, attempt, lambda: values.next_end(known), kept({}))

    # -- what a request names ----------------------------------------------------------------------------------------

    def _log(self, message: Message) -> Log:
        return self.topics.log(message.text("topic"))

    def _values(self, message: Message) -> Values:
        return self.topics.values(message.text("topic", ""))

    def _member(self, message: Message) -> Member:
        return self.members.get(message.token("m"))


def _positive(message: Message, name: str) -> float:
    value = message.seconds(name)
    if value is None or not 0 < value < 1e9:
        raise ConfigurationError(f"ack_wait is a positive number of seconds, not {value}.")
    return value
