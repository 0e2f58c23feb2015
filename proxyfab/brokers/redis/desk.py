"""What broker, subscriptions and values ask a server, each in one round trip; and waiting for a bell that it rings.

Promises: no call outlives its deadline; a link that breaks is tried again within it, with the same words; who waits is
told by the server, and let go at once by `Waiting.end`. Nothing is lost with a link that waits: it only looks. Who
waits goes on at his deadline: what was asked for then may come later, on a link that is his.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from time import monotonic

from redis.exceptions import NoScriptError, ResponseError

from proxyfab.brokers.redis.scripts import Script
from proxyfab.errors import (
    BackPressureError,
    CapabilityError,
    ConfigurationError,
    Conflict,
    ProxyfabError,
    TopicNotFound,
)
from proxyfab.events.broker import TIMEOUT
from proxyfab.resp.errors import FOREIGN, Late
from proxyfab.resp.fleet import Fleet
from proxyfab.resp.link import SILENCE, Link, Part, pack
from proxyfab.resp.parser import Reply, checked

LOOK = 1.0
"""Seconds after which who waits looks whether all is there still: a server that lost everything rings no bell."""
_LOOKS = 0.15
"""Seconds that a server may take to notice that a wait's time is over: by default it looks ten times a second."""
_OURS = ("NOTOPIC", "NOGROUP", "NOPARTITION", "OUTSIDE", "FULL", "CONFLICT")


class Ended(Exception):
    """Who waited was let go."""


class Desk:
    """Asks servers.

    Args:
        fleet: The links.
        timeout: Seconds of a call; None for the fleet's own.
    """

    def __init__(self, fleet: Fleet, timeout: float | None = None) -> None:
        self.fleet = fleet
        self._timeout = timeout

    def within(self, timeout: float) -> Desk:
        """One whose calls have less time, if it is less."""
        return self if timeout >= TIMEOUT else Desk(self.fleet, timeout)

    def ask(
        self,
        script: Script,
        key: bytes,
        words: Sequence[Part],
        what: str,
        *,
        timeout: float | None = None,
        leaves: float = inf,
        keep: bool = False,
    ) -> Reply:
        """What a script answers.

        Args:
            script: Which.
            key: Of what it works on.
            words: It is told.
            what: Is being done, for messages.
            timeout: Seconds, if not the desk's.
            leaves: When who asks goes on, in monotonic seconds.
            keep: Whether an answer that comes later is for who asks; he is given the link then.

        Raises:
            Late: `leaves` has passed.
            TopicNotFound, BackPressureError, Conflict: It has not done its work.
            ProxyfabError: It could not be asked.
        """

        def work(link: Link) -> Reply:
            try:
                reply = _exchange(link, script.command(key, words), leaves)
                if isinstance(reply, NoScriptError):
                    reply = _exchange(link, script.command(key, words, unknown=True), leaves)
            except Late as late:
                if keep:
                    raise
                link.close()
                raise Late(late.address) from None
            return _known(reply)

        reply = self.fleet.run(key, work, what, timeout=self._timeout if timeout is None else timeout, ends=leaves)
        if isinstance(reply, ResponseError):
            raise _meaning(str(reply).split(" "), key, words, self.fleet.place.label)
        return reply

    def finish(self, link: Link, leaves: float) -> Reply | None:
        """What a script answers that was late, on its link, which is closed or given back; None where it failed.

        Raises:
            Late: `leaves` has passed again.
        """
        try:
            link.begin(self.fleet.place.timeout)
            link.hear(leaves)
            reply = _known(link.parser.read())
        except Late:
            raise
        except FOREIGN:
            link.close()
            return None
        except BaseException:
            link.close()
            raise
        self.fleet.give(link)
        return None if isinstance(reply, ResponseError) else reply

    def transact(
        self, parts: list[Part], count: int, script: Script, key: bytes, words: Sequence[Part], timeout: float
    ) -> Reply:
        """What a script answers that runs behind `count` commands, with nothing between.

        Where the server does not know it yet, the commands are done without it; then it is made known, answers nothing,
        and undoes them the next time.
        """
        parts = parts + script.command(key, words)
        nbytes = sum(map(len, parts))

        def work(link: Link) -> Reply:
            done = link.transaction(parts, nbytes, count + 1)
            assert done is not None, "nothing was watched"
            if isinstance(done[-1], NoScriptError):
                return _known(_exchange(link, script.command(key, [], unknown=True)))
            return _known(done[-1])

        reply = self.fleet.run(key, work, "publishing", timeout=timeout)
        if isinstance(reply, ResponseError):
            raise _meaning(str(reply).split(" "), key, words, self.fleet.place.label)
        return reply

    def call(self, key: bytes, words: Sequence[bytes], what: str) -> Reply:
        """What a command answers."""
        return self.fleet.run(key, lambda link: link.call(*words), what, timeout=self._timeout)


def _known(reply: Reply) -> Reply:
    """A reply, or a refusal of ours; raises other errors."""
    if isinstance(reply, ResponseError):
        said = str(reply)
        if said.partition(" ")[0] in _OURS:
            return reply
        if said.startswith("unknown command"):
            raise CapabilityError(f"A broker needs Redis 7.0 or later, or Valkey; this server says: {said}.") from reply
    return checked(reply)


def _exchange(link: Link, parts: list[Part], leaves: float = inf) -> Reply:
    link.send(parts, sum(map(len, parts)))
    if leaves < inf:
        link.hear(leaves)
    return link.parser.read()


def leaves_at(until: float, timeout: float) -> float:
    """When who waits goes on, whatever the server does; a mere look, with no time at all, is answered."""
    return until if timeout > 0 else inf


class Waiting:
    """Waits of one subscription, or of one value; several threads may wait at once."""

    def __init__(self, desk: Desk) -> None:
        self.ended = False
        self._desk = desk
        self._links: set[Link] = set()

    def wait(self, bell: bytes, rung: bytes, seconds: float, leaves: float) -> None:
        """Return when a bell is rung after `rung`, or after so many seconds, or a few more of the server's.

        Raises:
            Ended: It was let go.
            Late: `leaves` (monotonic seconds) has passed.
            ProxyfabError: The server went away.
        """
        until = monotonic() + min(seconds, LOOK)

        def work(link: Link) -> None:
            left = until - monotonic()
            if left <= 0:
                return
            self._links.add(link)
            try:
                if not self.ended:
                    block = b"%d" % max(int(left * 1000), 1)
                    link.begin(left + SILENCE)
                    link.ask(pack(b"XREAD", b"COUNT", b"1", b"BLOCK", block, b"STREAMS", bell, rung))
                    link.hear(leaves, _LOOKS)
                    checked(link.parser.read())
            except Late as late:
                link.close()
                raise Late(late.address) from None
            except FOREIGN:
                if not self.ended:
                    raise
            finally:
                self._links.discard(link)
            if self.ended:
                raise Ended

        self._desk.fleet.run(bell, work, "waiting", timeout=min(seconds, LOOK) + SILENCE, ends=leaves)

    def end(self) -> None:
        """Let go of all who wait, now and later."""
        self.ended = True
        for link in list(self._links):
            link.interrupt()


def _meaning(said: list[str], key: bytes, words: Sequence[Part], where: str) -> ProxyfabError:
    """What a refusal means."""
    topic, _, rest = key.decode().removeprefix("{pf:").partition("}:")
    if said[0] == "NOTOPIC":
        return TopicNotFound(
            f"There is no topic {topic} at {where}: it was never made (ensure(Topic({topic!r}))), it was deleted, or "
            "the server lost what it held."
        )
    if said[0] == "NOGROUP":
        return TopicNotFound(f"Topic {topic} at {where} has no group {rest[2:]!r}: it was deleted.")
    if said[0] == "NOPARTITION":
        return TopicNotFound(f"Topic {topic} at {where} has no partition {said[1]}.")
    if said[0] == "OUTSIDE":
        return ConfigurationError(f"Topic {topic} at {where} has {said[1]} partitions, from 0 on; ask for these.")
    if said[0] == "FULL":
        return BackPressureError(
            f"Topic {topic} at {where} is full: {said[1]} bytes wait in it, {said[2]} more do not fit into {said[3]}. "
            "Consume or delete groups, or make it larger."
        )
    name, expected = bytes(words[0]).decode(), bytes(words[1]).decode()
    return Conflict(f"{name} has revision {said[1]}, not {expected}: somebody else has set it.")
