"""Moving objects between a server's storage and its peers: in one message, in chunks with credit, or not at all.

Rules:
1. An object gets its name when the storage has it whole (`Moves.keep`), in one step; until then it has none.
2. Whatever was begun for a peer ends with it: uploads are dropped, grants are taken back, downloads let go. Who
   was away may fill what was taken back all the same: that goes as soon as he says so, or a while later.
3. An upload that is repeated under the same request takes the place of the first one, which has lost its sender.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from proxyfab.abc import check_ttl
from proxyfab.buffers import Frames
from proxyfab.errors import CapacityError, ConfigurationError, ConnectorError, IntegrityError, KeyExists, ProxyfabError
from proxyfab.keys import Key
from proxyfab.osio.namespace import is_name
from proxyfab.server.abroad import PATIENCE, home_of
from proxyfab.server.answers import Answer
from proxyfab.server.host import Host, State
from proxyfab.server.index import Entry, Name
from proxyfab.server.peers import Download, Grant, Peer, Room, Upload, Wish
from proxyfab.server.storage import Steps
from proxyfab.wire.flow import WINDOW, Sending
from proxyfab.wire.messages import CHUNK, Message, parted, pieces
from proxyfab.wire.side import anywhere

_BATCH = 256 << 20
"""Bytes of objects that one request gets at most, beyond the first; a client asks for the others anew."""
SHARE = CHUNK // 4
"""Bytes from which on a client of this machine reads shared memory itself."""
_VIEWS = 256
_MOVING = 64
"""Objects under way to or from one peer at most."""
_FOUND = 1024
"""Objects that one request gets at most, so that what is said of them fits into a header."""
_SLOWEST = 64 << 20
"""Bytes a second at which a client of this machine fills shared memory at least."""
_LATE = 4096
"""Grants that were taken back of which is known where they were."""
_TOLD = 16
"""Names that were taken of which a put of many is told."""
_LEAST = CHUNK // 16
"""Bytes of a chunk at least, but for the last one: each costs the server something besides its bytes."""


class Moves:
    """The part of a server that moves bytes. Belongs to the loop's thread."""

    def __init__(self, host: Host, state: State) -> None:
        self._host = host
        self._state = state
        self.room = Room(host.options.uploads)
        self._uploading: dict[bytes, Peer] = {}
        self._late: dict[bytes, tuple[Key, float]] = {}
        """Grants that were taken back, by request: where, and when to look there once more."""

    # -- to a peer -----------------------------------------------------------------------------------------------

    def get(self, peer: Peer, message: Message) -> Steps:
        """Answer with objects, or with where a client of this machine finds them."""
        share, ranged = message.flag("shared"), message.fields.get("length") is not None
        offset, length = message.count("offset", 0), message.count("length", 0)
        names = [Name(*name) for name in message.names()]
        far = self._host.far if names and home_of(names[0].namespace) is not None else None
        if far is not None:
            names = names[:_FOUND]
            yield from far.bring(names, message.seconds("within") or PATIENCE)
        try:
            found = yield from self._fetch(names, share=share)
        finally:
            if far is not None:
                far.release(names)
        sizes: list[int] = []
        shared: list[list[Any]] = []
        body: list[memoryview] = []
        total = 0
        for item in found:
            if isinstance(item, Key):
                shared.append([len(sizes), item.id])
            elif item is not None:
                frames = item.slice(offset, length) if ranged else item
                body += frames.views if len(frames.views) <= _VIEWS else [frames.join()]
                total += frames.nbytes
                sizes.append(frames.nbytes)
                continue
            sizes.append(-1 if item is None else -2)
        self._state.count("get", len(sizes))
        self._state.count("get_bytes", total)
        return self.deliver(peer, message.request, {"sizes": sizes, "shared": shared}, body, message.count("window", 0))

    def _fetch(self, names: list[Name], *, share: bool) -> Any:
        """For each of the first so many objects its frames, its key in shared memory, or None where there is none."""
        found: list[Frames | Key | None] = []
        wanted: list[tuple[int, Name, Entry]] = []
        total = 0
        for name in names[:_FOUND]:
            entry = self._state.find(name)
            place = None
            if entry is not None and share and entry.nbytes >= SHARE:
                place = self._host.storage.share(entry.place)
            if entry is not None and place is None:
                if total and total + entry.nbytes > _BATCH:
                    break  # the client asks for the others anew
                total += entry.nbytes
                wanted.append((len(found), name, entry))
            found.append(place)
        if wanted:
            many = yield self._host.storage.get([entry.place for _, _, entry in wanted])
            for (number, name, entry), frames in zip(wanted, many, strict=True):
                found[number] = frames if frames is not None else (yield from self._look_again(name, entry))
        return found

    def _look_again(self, name: Name, before: Entry) -> Any:
        """Frames of an object whose place was empty: it was replaced or evicted meanwhile, or the storage lost it."""
        entry = self._state.find(name)
        if entry is None:
            return None
        if entry.version == before.version:
            self._state.index.remove(name)
            self._state.count("lost")
            return None
        (frames,) = yield self._host.storage.get([entry.place])
        return frames if frames is not None else (yield from self._look_again(name, entry))

    def deliver(
        self, peer: Peer, request: bytes, fields: dict[str, Any], body: list[memoryview], window: int = 0
    ) -> Answer | None:
        """The answer, with its body if that is small; a larger one follows in chunks."""
        total = sum([view.nbytes for view in body])
        if total <= CHUNK and len(body) <= _VIEWS:
            return Answer("ok", {**fields, "size": total}, tuple(body))
        if len(peer.downloads) >= _MOVING:
            raise CapacityError(f"{_MOVING} objects are under way to this client already; read them first.")
        download = Download(body, Sending(total, min(window or WINDOW, WINDOW)))
        peer.downloads[request] = download
        self._host.send(peer, request, Answer("ok", {**fields, "size": total, "chunks": True}))
        self._pump(peer, request, download)
        return None

    def _pump(self, peer: Peer, request: bytes, download: Download) -> None:
        sending = download.sending
        while (piece := sending.next()) is not None:
            part = pieces(download.body, *piece)
            if not peer.send("data", request, {"o": piece.offset}, part):
                self._host.drop(peer)
                return
        if sending.done:
            peer.downloads.pop(request, None)

    def ack(self, peer: Peer, message: Message) -> None:
        """A peer has received a part of what is under way to it."""
        download = peer.downloads.get(message.request)
        if download is not None:  # otherwise all was sent meanwhile
            download.sending.ack(message.count("n"))
            download.touched = time.monotonic()
            self._pump(peer, message.request, download)

    # -- from a peer ---------------------------------------------------------------------------------------------

    def put(self, _: Peer, message: Message) -> Steps:
        """Take small objects that came with the request."""
        ids, sizes = message.items("ids"), message.counts("sizes")
        if len(ids) != len(sizes) or sum(sizes) != message.nbytes:
            raise IntegrityError("A put names other sizes than it brings.")
        namespace = message.text("ns")
        wishes = [self.wish(message, Name(namespace, id), size) for id, size in zip(ids, sizes, strict=True)]
        many = [Frames(views) for views in parted(message.body, sizes)]
        errors = [[number, str(_taken(wish))] for number, wish in enumerate(wishes) if not self._is_free(wish)]
        taken = {number for number, _ in errors}
        rest = [number for number in range(len(wishes)) if number not in taken]
        places = yield self._host.storage.put([many[number] for number in rest])
        failed = [place for place in places if isinstance(place, ProxyfabError)]
        for number, place in zip(rest, places, strict=True):
            try:
                if isinstance(place, Key):
                    yield from self.keep(wishes[number], place)
            except KeyExists as error:
                errors.append([number, str(error)])
        if failed:
            raise failed[0]
        self._state.count("put", len(ids))
        self._state.count("put_bytes", sum(sizes))
        return Answer("ok", {"exists": errors[:_TOLD]})

    def upload(self, peer: Peer, message: Message) -> None:
        """Begin to take a large object, which comes in chunks as soon as there is room."""
        wish = self.wish(message, Name(message.text("ns"), message.text("id")), message.count("size"))
        if not wish.nbytes:
            raise IntegrityError("An upload announces no bytes; what is empty is put in one message.")
        if wish.nbytes > self._host.options.objects:
            raise CapacityError(f"An object of {wish.nbytes} bytes is above this server's limit for one.")
        if len(peer.uploads) >= _MOVING:
            raise CapacityError(f"{_MOVING} objects are under way from this client already; finish them first.")
        self._check_free(wish)
        upload, request = Upload(wish), message.request
        peer.uploads[request] = upload
        self._uploading[request] = peer
        self.room.ask(upload, lambda: self._host.send(peer, request, Answer("go", {"window": WINDOW})))

    def place(self, peer: Peer, message: Message, nbytes: int) -> list[memoryview]:
        """Where a message's body is to be received, if that can be chosen."""
        upload = peer.uploads.get(message.request) if message.verb == "data" else None
        if upload is None or not upload.started:
            return anywhere(message, nbytes)
        return [upload.room(nbytes)]

    def data(self, peer: Peer, message: Message) -> None:
        """A chunk of an upload."""
        upload = peer.uploads.get(message.request)
        if upload is None or not upload.started:
            return  # it was dropped, and its sender is told when it asks
        try:
            received = upload.receiving.take(message.count("o"), message.nbytes)
            if message.nbytes < _LEAST and not upload.receiving.done:
                raise IntegrityError(f"A chunk has {message.nbytes} bytes; all but the last have {_LEAST} or more.")
        except IntegrityError:
            self.abandon(peer, message.request)
            raise
        upload.parts += message.body if len(message.body) <= _VIEWS else [Frames(message.body).join()]
        upload.touched = time.monotonic()
        if upload.receiving.done:
            steps = self._complete(peer, message.request, upload)
            self._host.start(steps, lambda answer: self._state.answers.settle(message.request, answer))
        elif received is not None:
            self._host.send(peer, message.request, Answer("credit", {"n": received}))

    def _complete(self, peer: Peer, request: bytes, upload: Upload) -> Steps:
        self._uploading.pop(request, None)
        try:
            place = yield from self.store(Frames(upload.parts))
            yield from self.keep(upload.wish, place)
        finally:
            peer.uploads.pop(request, None)
            upload.parts.clear()
            self.room.leave(upload)
        self._state.count("put")
        self._state.count("put_bytes", upload.wish.nbytes)
        return Answer("ok", {})

    def supersede(self, request: bytes) -> None:
        """The sender of an upload begins anew, so the first attempt is over."""
        peer = self._uploading.get(request)
        if peer is not None:
            self.abandon(peer, request)

    def abandon(self, peer: Peer, request: bytes) -> None:
        """Drop an upload that is not complete, or a grant that is not used."""
        upload = peer.uploads.pop(request, None)
        grant = peer.grants.pop(request, None)
        if grant is not None:
            self._take_back(request, grant)
        self._uploading.pop(request, None)
        if upload is not None and not upload.receiving.done:
            upload.parts.clear()
            self.room.leave(upload)
            self._state.answers.forget(request)
            self._state.count("dropped_uploads")

    # -- by shared memory ----------------------------------------------------------------------------------------

    def grant(self, peer: Peer, message: Message) -> Steps:
        """Give a client of this machine room in shared memory; no place when it has to send its object."""
        wish = self.wish(message, Name(message.text("ns"), message.text("id")), message.count("size"))
        self._check_free(wish)
        if len(peer.grants) >= _MOVING:
            raise CapacityError(f"{_MOVING} grants are held by this client already; use them first.")
        place = yield self._host.storage.grant(wish.nbytes)
        if place is None:
            return Answer("ok", {"place": None})
        if peer.who not in self._host.peers:
            yield self._host.storage.revoke(place)
            return None
        seconds = self._host.options.grant + wish.nbytes / _SLOWEST
        peer.grants[message.request] = Grant(place, wish, time.monotonic() + seconds)
        return Answer("ok", {"place": place.id})

    def commit(self, peer: Peer, message: Message) -> Steps:
        """A client has filled what it was granted: from now on it is an object."""
        token = message.token("grant")
        holders = (each for each in (peer, *self._host.peers.values()) if token in each.grants)
        holder = next(holders, None)  # another connection of his, if that broke and its end was not seen yet
        if holder is None:
            late = self._late.pop(token, None)
            if late is not None:
                yield self._host.storage.revoke(late[0])
            raise ConnectorError("Shared memory was not filled in time and was taken back; put again.")
        grant = holder.grants.pop(token)
        whole = yield self._host.storage.adopt(grant.place, grant.wish.nbytes)
        if not whole:
            yield self._host.storage.revoke(grant.place)
            raise IntegrityError("What was written to shared memory is not what was announced; put again.")
        yield from self.keep(grant.wish, grant.place)
        self._state.count("put")
        self._state.count("put_bytes", grant.wish.nbytes)
        return Answer("ok", {})

    # -- both ----------------------------------------------------------------------------------------------------

    def keep(self, wish: Wish, place: Key) -> Steps:
        """Publish what the storage has; what it replaces is let go."""
        try:
            before = self._state.index.publish(
                wish.name, place, wish.nbytes, self._state.now(), wish.ttl, replace=wish.replace
            )
        except KeyExists:
            yield self._host.storage.evict([place])
            raise
        self._state.waiters.tell(wish.name)
        if before is not None:
            yield self._host.storage.evict([before.place], before.nbytes)

    def store(self, frames: Frames) -> Any:
        """Put one object into the storage; answers with its place."""
        (place,) = yield self._host.storage.put([frames])
        if isinstance(place, ProxyfabError):
            raise place
        return place

    def drop(self, entries: Sequence[Entry]) -> Steps:
        """Let go of what lies under entries that have no name any more."""
        for start in range(0, len(entries), 256):
            some = entries[start : start + 256]
            yield self._host.storage.evict([entry.place for entry in some], sum([entry.nbytes for entry in some]))

    def release(self, peer: Peer) -> None:
        """Let go of all that was under way to or from a peer."""
        for request in list(peer.uploads):
            self.abandon(peer, request)
        while peer.grants:
            self._take_back(*peer.grants.popitem())
        peer.downloads.clear()

    def sweep(self, now: float) -> None:
        """End what stands still, and take back grants that were not used in time."""
        idle = now - self._host.options.idle
        for peer in list(self._host.peers.values()):
            for request, upload in list(peer.uploads.items()):
                if upload.started and upload.touched < idle:
                    self.abandon(peer, request)
            for request, download in list(peer.downloads.items()):
                if download.touched < idle:
                    del peer.downloads[request]
            for request, grant in list(peer.grants.items()):
                if grant.until < now:
                    del peer.grants[request]
                    self._take_back(request, grant)
        for request, (place, until) in list(self._late.items()):
            if until < now:
                self._late[request] = place, math.inf
                self._host.start(self._revoke(place), _ignore)

    def _take_back(self, request: bytes, grant: Grant) -> None:
        before = self._late.pop(request, None)
        if before is not None:
            self._host.start(self._revoke(before[0]), _ignore)
        self._late[request] = grant.place, time.monotonic() + self._host.options.grant
        if len(self._late) > _LATE:
            del self._late[next(iter(self._late))]
        self._host.start(self._revoke(grant.place), _ignore)

    def _revoke(self, place: Key) -> Steps:
        yield self._host.storage.revoke(place)

    def wish(self, message: Message, name: Name, nbytes: int) -> Wish:
        """What a client wants to put, checked."""
        if name.id.__class__ is not str or not is_name(name.namespace):
            raise ConfigurationError(f"{name.namespace!r} and {name.id!r} cannot name an object.")
        Key(name.id)  # or it cannot be a key
        ttl = message.seconds("ttl")
        check_ttl(ttl)
        return Wish(name, nbytes, ttl, message.flag("replace"))

    def _check_free(self, wish: Wish) -> None:
        """Refuse what would be refused when it is there, before it has moved."""
        if not self._is_free(wish):
            raise _taken(wish)

    def _is_free(self, wish: Wish) -> bool:
        return wish.replace or self._state.find(wish.name) is None


def _taken(wish: Wish) -> KeyExists:
    return KeyExists(f"{wish.name.id} is there already; objects are written once (say replace=True).")


def _ignore(_: Answer) -> None:
    pass
