"""What a gateway answers to other gateways: its objects, and what is asked of them. Belongs to the loop's thread.

Rules:
1. What is asked is read before anything is done (`abroad.read`), and nothing is done that whoever asks has no right to
   (`rights`); who asks nonsense gets an error and nothing else.
2. Objects go out as they lie in the storage; digests are reckoned in a thread beside the loop's.
3. Of objects of a third site only copies that are here are handed out: nobody is sent on a way through here, and
   nothing is done in a name's sake but to this site's own objects. What is put here is who asks's own.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from proxyfab.background import start
from proxyfab.buffers import Frames
from proxyfab.errors import CapacityError, IntegrityError, ObjectLost, ProxyfabError
from proxyfab.link.line import Line
from proxyfab.link.session import Want
from proxyfab.osio.namespace import is_name
from proxyfab.server import abroad
from proxyfab.server.abroad import Elsewhere, Question
from proxyfab.server.answers import Answer, Answers, Reply
from proxyfab.server.copies import Holders
from proxyfab.server.host import Gateway, Host, State, Todo
from proxyfab.server.index import Entry, Name
from proxyfab.server.moves import Moves
from proxyfab.server.options import Neighbour
from proxyfab.server.peers import Peer
from proxyfab.server.rights import check
from proxyfab.server.storage import Steps
from proxyfab.wire.messages import NOBODY, Message

_LONG = 20_000
_TURN = 60.0
"""Seconds of one wait at most; who waits longer asks again."""
_TOGETHER = 64 << 20
"""Bytes of objects that are read from the storage at once, beyond the first."""
Found = tuple[Want, "Frames | ProxyfabError | None"]


class Others:
    """Answers to other sites.

    Args:
        far: The gateway.
        host: The server.
        state: What it knows.
        peers: The other sites, and what they may do here.
    """

    perform: Callable[[Peer, Message], Todo]
    """Does a verb."""

    def __init__(self, far: Gateway, host: Host, state: State, peers: Sequence[Neighbour] = ()) -> None:
        self._far = far
        self._peers = {peer.name: peer for peer in peers}
        self._host = host
        self._state = state
        self.holders = Holders()
        self._long: Counter[str] = Counter()
        """Objects that are waited for, by the site that waits."""
        self._waits: dict[tuple[Line, int], tuple[Callable[[], None], Callable[[Answer], None]]] = {}
        """What other sites wait for: how that is stopped, and how it is answered."""
        self._offered: Counter[tuple[str, Name]] = Counter()
        self._moves = Moves(host, state)
        self._answers = Answers()
        """Of what was changed for other sites: who asks again, as a link broke, has no second effect."""

    def answer(self, line: Line, wants: Sequence[Want]) -> Steps:
        """What another site asks."""
        gets: list[tuple[Want, Question]] = []
        answers: list[Found] = []
        for want in wants:
            try:
                question = abroad.read(want.key)
                self._check(line.peer, question)
            except ProxyfabError as error:
                answers.append((want, error))
                continue
            if question.verb == "get":
                gets.append((want, question))
            elif question.verb == "do":
                self._start(line, want, question)
            else:
                self._start_long(line, want, question)
        if answers:
            line.give_many(answers)
        yield from self._objects(line, gets)

    @contextlib.contextmanager
    def offering(self, site: str, name: Name) -> Iterator[None]:
        """What another site is just told to come for, which takes no right."""
        self._offered[site, name] += 1
        try:
            yield
        finally:
            self._offered[site, name] -= 1
            self._offered += Counter()  # without what is not offered any more

    def _check(self, peer: str, question: Question) -> None:
        home, here = question.home, self._host.incarnation
        if question.verb != "get" or (peer, question.names(self._far.site)[0]) not in self._offered:
            check(question, self._far.site, self._peers[peer])
        if question.verb == "take" and abroad.staged_in(question.fields)[0].site != peer:
            raise IntegrityError(f"Site {peer} wants to have put here what is not its own.")
        mine = home.site == self._far.site
        if (not mine and question.verb in ("do", "wait", "take")) or (mine and not is_name(home.namespace)):
            raise IntegrityError(f"Site {self._far.site} is asked for what is not its own: {str(home)[:200]!r}.")
        if home.site == self._far.site and question.verb != "fetch" and home.incarnation != here:
            raise ObjectLost(
                f"The gateway of site {home.site} was started anew, and what it held before is lost: incarnation "
                f"{home.incarnation} has ended."
            )

    def fail(self, line: Line, wants: Sequence[Want], fault: Answer) -> None:
        """Answering ended: by a mistake, if those who ask were not told something else already."""
        line.give_many([(want, _error(fault)) for want in wants])

    def _objects(self, line: Line, gets: list[tuple[Want, Question]]) -> Steps:
        """Hand out objects, some at a time, so that little is read before it can leave."""
        some: list[tuple[Want, Entry]] = []
        absent: list[Found] = []
        total = 0
        for want, question in gets:
            (name,) = question.names(self._far.site)
            entry = self._state.find(name)
            if entry is None:
                absent.append((want, None))
                continue
            holder = self.holders.nearest(name, entry.place, question.near)
            if holder:
                absent.append((want, Elsewhere(holder)))
                continue
            if question.home.site == self._far.site:
                self.holders.note(name, entry.place, line.peer, entry.nbytes)
            if total and total + entry.nbytes > _TOGETHER:
                yield from self._some(line, some)
                some, total = [], 0
            some.append((want, entry))
            total += entry.nbytes
        line.give_many(absent)
        if some:
            yield from self._some(line, some)

    def _some(self, line: Line, some: list[tuple[Want, Entry]]) -> Steps:
        try:
            many = yield self._host.storage.get([entry.place for _, entry in some])
        except ProxyfabError as error:
            line.give_many([(want, error) for want, _ in some])
            return
        now = self._state.now()
        answers: list[Found] = []
        for (want, entry), frames in zip(some, many, strict=True):
            left = None if entry.expires is None else entry.expires - now
            answers.append((want, None if frames is None else abroad.with_life(frames, left)))
        self._state.count("given", len(answers))
        start(lambda: line.give_many(answers), f"What site {line.peer} asked for")

    # -- everything else -------------------------------------------------------------------------------------------

    def _start(self, line: Line, want: Want, question: Question, long: int = 0) -> None:
        """Begin to do something, and answer when it is done."""

        def reply(answer: Answer) -> None:
            self._long[line.peer] -= long
            if answer.verb == "error":
                line.give(want, _error(answer))
            else:
                line.give(want, abroad.packed(answer.fields))

        if question.verb == "do":
            fields: dict[str, Any] = {**question.fields, "ns": question.home.namespace, "ids": question.ids}
            message = Message(question.what, NOBODY, fields)
            self._post(line, question, lambda: self.perform(Peer(b"", -1, self._host.line), message), reply)
        elif question.verb == "take":
            self._post(line, question, lambda: self._take(question), reply)
        elif question.verb == "wait":
            self._host.post(lambda: self._wait(line, want, question, reply), reply)
        else:
            self._host.post(lambda: self._fetch(question), reply)

    def _post(self, line: Line, question: Question, todo: Callable[[], Todo], reply: Reply) -> None:
        """Do something in its turn, and once where it can be told that this was asked before."""
        change = question.change
        if not change:
            self._host.post(todo, reply)
            return
        request = f"{line.peer} {change}".encode()

        def once() -> None:
            self._answers.once(request, reply, lambda settle: self._host.start(todo(), settle))

        self._host.post(once, reply)

    def _start_long(self, line: Line, want: Want, question: Question) -> None:
        """The same for what may take as long as whoever asks waits."""
        if self._long[line.peer] + len(question.ids) > _LONG:
            line.give(want, CapacityError(f"{_LONG} objects are waited for by site {line.peer} already."))
            return
        self._long[line.peer] += len(question.ids)
        line.defer(want)
        self._start(line, want, question, len(question.ids))

    def _wait(self, line: Line, want: Want, question: Question, reply: Callable[[Answer], None]) -> Todo:
        names, this = question.names(self._far.site), (line, want.transfer)
        there = [number for number, name in enumerate(names) if self._state.find(name) is not None]
        if there or not names:
            return Answer("ok", {"found": there})

        def wake(told: Name | None) -> None:
            self._waits.pop(this, None)
            reply(Answer("ok", {"found": [number for number, name in enumerate(names) if name == told]}))

        stop = self._state.waiters.add(names, wake, time.monotonic() + min(question.seconds, _TURN))
        self._waits[this] = stop, reply
        return None

    def sweep(self) -> None:
        """End what nobody waits for: it was given up, or its link has no stream. Whoever comes back asks again."""
        for this, (stop, reply) in list(self._waits.items()):
            line, transfer = this
            if not line.streams or not line.is_asked(transfer):
                del self._waits[this]
                stop()
                reply(Answer("ok", {"found": []}))

    def _take(self, question: Question) -> Steps:
        """Put an object that lies at another site under a name of this one."""
        home, id = abroad.staged_in(question.fields)
        far, message = Name(str(home), id), Message("put", NOBODY, question.fields)
        wish = self._moves.wish(message, Name(question.home.namespace, question.ids[0]), 0)
        yield from self._far.bring([far], question.seconds)
        try:
            entry = self._state.find(far)
            if entry is None:
                raise ObjectLost(f"What site {home.site} wants to be put here is not there any more; put it again.")
            (frames,) = yield self._host.storage.get([entry.place])
            place = yield from self._moves.store(frames)
            yield from self._moves.keep(wish._replace(nbytes=entry.nbytes), place)
        finally:
            self._far.release([far])
        return Answer("ok", {})

    def _fetch(self, question: Question) -> Steps:
        """Bring objects to this site, because another one says that they will be needed here."""
        names = question.names(self._far.site)
        if question.home.site != self._far.site:
            yield from self._far.bring(names, question.seconds)
            self._far.release(names)
        return Answer("ok", {"found": [self._state.find(name) is not None for name in names]})


def _error(answer: Answer) -> ProxyfabError:
    from proxyfab import errors

    found = getattr(errors, str(answer.fields.get("kind")), ProxyfabError)
    return found(str(answer.fields.get("text")))
