"""The demonstration: a tomography scan of a real volume, streamed by reference from an instrument to a picture.

    python -m proxyfab.demo

An instrument process measures, a dispatcher process routes, worker processes reconstruct, the main process assembles.
Measured arrays and pictures go through a Store; what the dispatcher passes on are references. The same scan then runs
with the arrays themselves in the messages, and the report sets both side by side.
"""

from proxyfab.demo.experiment import run
from proxyfab.demo.pipeline import DemoError
from proxyfab.demo.result import Result

__all__ = ["DemoError", "Result", "run"]
