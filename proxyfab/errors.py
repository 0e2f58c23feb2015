"""Every error proxyfab raises, in one tree; each is also a fitting built-in, and each pickles.

    ProxyfabError
    ├── KeyNotFound           LookupError          no object under this key (evicted, expired, never there)
    │   ├── ObjectLost        KeyNotFound          its server restarted or its owner died: it will not come back
    │   └── ObjectReleased    KeyNotFound          its topic has let it go: everybody it was kept for has read it
    ├── TopicNotFound         LookupError          a broker has no such topic, or no such group of it
    ├── KeyExists             ValueError           objects are written once; say replace=True
    ├── Conflict              ValueError           somebody else has changed it meanwhile
    ├── ConnectorError        ConnectionError      the place where bytes lie cannot be reached or used
    │   └── TransferFailed    ConnectorError       a transfer between collections of Globus failed
    │       ├── TransferStalled TransferFailed     it goes on and gets nowhere
    │       └── TransferPaused TransferFailed      somebody has paused it, or a collection
    ├── ResolveTimeout        TimeoutError         a deadline passed
    ├── IntegrityError        ValueError           bytes are not what was written
    │   └── SealError         IntegrityError       a signature or an encryption does not hold, or a key is missing
    ├── SerializationError    ValueError           an object cannot become bytes, or bytes an object
    ├── CapacityError         MemoryError          a disk, a memory or a quota is full
    ├── AccessDenied          PermissionError      the place refuses
    │   ├── ConsentRequired   AccessDenied         Globus wants a consent that was not given yet
    │   └── CredentialsExpired AccessDenied        there is no login at Globus, or it has lapsed
    ├── BorrowError           RuntimeError         ownership's rules were broken
    ├── LifetimeEnded         RuntimeError         a lifetime or a lease is over
    │   └── StaleEpoch        LifetimeEnded        another producer goes on under the same name
    ├── CapabilityError       NotImplementedError  the backend cannot do this at all
    ├── MissingDependency     ImportError          an extra is not installed (the pip line is in the message)
    ├── BackPressureError     RuntimeError         a bounded queue is full
    ├── WorkerDied            RuntimeError         every worker that ran this task died: it is not tried again
    ├── RemoteError           RuntimeError         an exception of another process, as far as it can be told here
    └── ConfigurationError    ValueError           a URL, an option or a name makes no sense

A message is a sentence: what failed, on what, what to do. It is the only argument, so that every error crosses a
process boundary whole.
"""

from typing import TYPE_CHECKING


class ProxyfabError(Exception):
    """Root of the tree: catch this to catch everything proxyfab raises."""


class KeyNotFound(ProxyfabError, LookupError):
    """No object lies under this key: it was evicted, it expired, its owner ended, or it was never there."""


class ObjectLost(KeyNotFound):
    """The object was there and is gone for good: the server that held it restarted, or its owner died."""


class ObjectReleased(KeyNotFound):
    """The object of an event is gone as its topic's `release` says: all that it was kept for have acknowledged it."""


class TopicNotFound(ProxyfabError, LookupError):
    """A broker has no topic of this name, or the topic no such group."""


class KeyExists(ProxyfabError, ValueError):
    """An object already lies under this key, and objects are written once."""


class Conflict(ProxyfabError, ValueError):
    """A value has another revision than the caller has seen: somebody else has set it meanwhile."""


class ConnectorError(ProxyfabError, ConnectionError):
    """A connector cannot reach or use the place where its bytes lie."""


class TransferFailed(ConnectorError):
    """A transfer between collections of Globus did not bring an object; the attributes travel with it."""

    code: str = ""
    """The service's word for the reason."""
    link: str = ""
    """The task's page in Globus's web application."""


class TransferStalled(TransferFailed):
    """The task is active, reports an error again and again, or has not finished by its deadline; it was cancelled."""


class TransferPaused(TransferFailed):
    """A rule or a person has paused the task: it goes on when they allow it."""


class ResolveTimeout(ProxyfabError, TimeoutError):
    """The deadline of a wait passed."""


class IntegrityError(ProxyfabError, ValueError):
    """Bytes are truncated, damaged or not proxyfab's."""


class SealError(IntegrityError):
    """A sealed payload does not verify, is not sealed where it must be, or its key is not known here."""


class SerializationError(ProxyfabError, ValueError):
    """An object cannot become bytes, or bytes cannot become an object here."""


class CapacityError(ProxyfabError, MemoryError):
    """A disk, a memory or a quota is full."""

    # MemoryError's refuses, and who makes errors anew beside their tracebacks, as Dask does, calls what he finds.
    if not TYPE_CHECKING:
        __new__ = Exception.__new__


class AccessDenied(ProxyfabError, PermissionError):
    """The place where the bytes lie refuses this process."""


class ConsentRequired(AccessDenied):
    """Globus wants a consent for a collection; the message holds the command that asks for it."""

    scopes: tuple[str, ...] = ()


class CredentialsExpired(AccessDenied):
    """Nobody has logged in to Globus here, or the login has lapsed; the message holds the command."""


class BorrowError(ProxyfabError, RuntimeError):
    """The rules of ownership were broken."""


class LifetimeEnded(ProxyfabError, RuntimeError):
    """A lifetime or a lease is over: what it held is gone, and it takes nothing more."""


class StaleEpoch(LifetimeEnded):
    """Another producer has begun under the same name: it goes on, and this one's events count no more."""


class CapabilityError(ProxyfabError, NotImplementedError):
    """The backend lacks this ability, and no slower form of it would be correct."""


class MissingDependency(ProxyfabError, ImportError):
    """An optional package is not installed; the message holds the pip line."""


class BackPressureError(ProxyfabError, RuntimeError):
    """A bounded queue is full and the caller chose an error over waiting."""


class WorkerDied(ProxyfabError, RuntimeError):
    """The workers that ran a task died, each time: the task is not tried again."""


class RemoteError(ProxyfabError, RuntimeError):
    """What was raised in another process: its type, message and traceback, where it does not travel itself.

    Where it does travel, this is its `__cause__`, and shows where it was raised.
    """


class ConfigurationError(ProxyfabError, ValueError):
    """A URL, an option or a name makes no sense; the message says which and what is allowed."""
