"""Trip: when one frame passed each point on its way, and what that says of the stages."""

from __future__ import annotations

from typing import NamedTuple


class Trip(NamedTuple):
    """The way of one frame. Points in time in seconds, on the clock that all processes of a machine share.

    Attributes:
        worker: Who reconstructed it.
        begun: The instrument starts the rotation.
        measured: The counts are there.
        packed: The message's body is made: the counts are in the store, or pickled.
        heard: The dispatcher begins to read the message.
        came: It has read it.
        forwarded: It begins to send it to a worker.
        received: The worker's inbox has it.
        taken: The worker is free and takes it.
        loaded: The counts are an array in the worker.
        reconstructed: The picture is computed.
        repacked: The answer's body is made.
        arrived: The main process has the answer.
        collected: The picture is in place.
    """

    worker: str
    begun: float
    measured: float
    packed: float
    heard: float
    came: float
    forwarded: float
    received: float
    taken: float
    loaded: float
    reconstructed: float
    repacked: float
    arrived: float
    collected: float

    def stages(self) -> dict[str, float]:
        """Seconds per stage; together they are the time from begun to collected."""
        return {
            "acquire": self.measured - self.begun,
            "store": (self.packed - self.measured) + (self.repacked - self.reconstructed),
            "dispatch": (self.came - self.heard) + (self.received - self.forwarded) + (self.arrived - self.repacked),
            "wait": (self.heard - self.packed) + (self.forwarded - self.came) + (self.taken - self.received),
            "load": (self.loaded - self.taken) + (self.collected - self.arrived),
            "reconstruct": self.reconstructed - self.loaded,
        }


STAGES = {
    "acquire": "expose the detector: counting noise over projections that were computed before the scan",
    "store": "make the message's body: put the array into the store, or pickle it",
    "dispatch": "message under way: instrument, dispatcher, worker, dispatcher, main process",
    "wait": "queued for a free worker",
    "load": "from body to array, in the worker and in the main process (there with a copy that is kept)",
    "reconstruct": "flat-field correction and filtered back-projection",
}
"""What each stage is, in order."""
