"""The answering side of a link: takes what the other site asks, has it worked on, and sends what is found.

Promises: what is at work, what waits and what leaves is bounded (`intake`), whatever the other site asks and whether it
reads; what it does not want any more is not sent. Thread-safe, by the link's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeAlias

from proxyfab.buffers import Frames
from proxyfab.errors import CapacityError, ProxyfabError
from proxyfab.link.intake import Intake
from proxyfab.link.question import digest_of
from proxyfab.link.session import SMALL, Session, Small, Want

_LEAVING = 1024
_WORDS = 16 << 20
"""Objects that leave, and bytes of letters, beyond which nothing more that is asked is worked on."""
Found: TypeAlias = "Frames | ProxyfabError | None"


class Desk:
    """What the other site asks, and what leaves for it.

    Args:
        peer: The other site's name, for errors.
        session: The link's; used under its lock.
        lock: The link's.
        work: Begins to answer some questions, and must not wait; `give_many` is the answer.
        ring: Tells the link's streams that there is something to send.
    """

    def __init__(
        self,
        peer: str,
        session: Session,
        lock: AbstractContextManager[object],
        work: Callable[[list[Want]], None],
        ring: Callable[[], None],
    ) -> None:
        self.peer = peer
        self._session, self._lock = session, lock
        self._work, self._ring = work, ring
        self._intake = Intake()
        self._leaving: dict[int, Frames] = {}
        """Objects that are on their way to the other site."""
        self._admitting = self._closed = False

    @property
    def waits(self) -> bool:
        """Whether something that was asked waits for room."""
        return self._intake.waits

    def asked(self, wants: list[Want], nbytes: int) -> None:
        """The other site asks, in a letter of so many bytes."""
        with self._lock:
            refused = self._intake.add(wants, nbytes)
        if refused:
            why = CapacityError(f"Site {self.peer} asks for more than is worked on at once; ask for less, or later.")
            self.give_many([(want, why) for want in refused])
        self.admit()

    def dropped(self, transfers: Sequence[int]) -> None:
        """The other site has these, or wants them no more."""
        with self._lock:
            for transfer in transfers:
                self._leaving.pop(transfer, None)
                self._intake.forget(transfer)
        self.admit()

    def admit(self) -> None:
        """Have worked on what waits, while what was answered before leaves."""
        while self._intake.waits:
            with self._lock:
                crowded = len(self._leaving) >= _LEAVING or self._session.sender.words > _WORDS
                wants = [] if crowded or self._admitting or self._closed else self._intake.next()
                if not wants:
                    return
                self._admitting = True
            try:
                self._work(wants)
            finally:
                self._admitting = False

    def is_asked(self, transfer: int) -> bool:
        """Whether a question is neither answered nor given up."""
        return not self._closed and transfer in self._intake

    def defer(self, want: Want) -> None:
        """An answer takes long, and is not to hold up others."""
        with self._lock:
            self._intake.defer(want.transfer)
        self.admit()

    def give_many(self, answers: Sequence[tuple[Want, Found]]) -> None:
        """Answer; from any thread."""
        digests = [digest_of(found) if isinstance(found, Frames) else b"" for _, found in answers]
        small: list[Small] = []
        with self._lock:
            if self._closed:
                return
            for (want, found), digest in zip(answers, digests, strict=True):
                if not self._intake.forget(want.transfer):  # nobody waits for it any more
                    continue
                if found is None:
                    self._session.none(want)
                elif isinstance(found, ProxyfabError):
                    self._session.fail(want, str(found), type(found).__name__)
                elif found.nbytes <= SMALL:
                    small.append(Small(want.transfer, digest, found.nbytes, found.views))
                else:
                    self._leaving[want.transfer] = found
                    self._session.have(want, found.nbytes, digest)
            self._session.some(small)
        self._ring()
        self.admit()

    def leaving(self, transfer: int) -> Frames | None:
        """An object that is on its way; None when it is not wanted any more."""
        return self._leaving.get(transfer)

    def close(self) -> None:
        """Let go of everything; under the lock."""
        self._closed = True
        self._leaving.clear()
