"""What a reference from elsewhere may make this process open: this process's own rules, which no reference can lower.

    restrict(schemes={"redis", "shm"}, hosts=["*.lab.org"], require_seal={"lab-2026"})

or a TOML file of the same names, named by `$PROXYFAB_POLICY`, which child processes inherit.

Rules:
1. A policy holds for what was received: a Ref, Proxy or Store that was unpickled or came as a token, the address in a
   key, and the children of a received URL. What this process's own code opens with `Store(...)` is its own affair.
2. Policies add up: each further one narrows. Without any, received references open what their URLs say, but for rule 4.
3. Places are compared as they are: a directory after links were followed, a host by itself after the URL was parsed.
4. A received URL never chooses which secret of this process is sent where: of `env:` and `file:` references only the
   names that are meant for it are followed (`PROXYFAB_*`, `REDIS*`, `/run/secrets`), unless `secrets=` allows more;
   the keys of seals and servers are no passwords, and are never sent.
5. What cannot be read (a policy file with an unknown name) is an error, never no policy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextvars import ContextVar, Token
from typing import NamedTuple

from proxyfab.errors import AccessDenied, ConfigurationError
from proxyfab.spec import ConnectorSpec, StoreSpec

LOCAL = frozenset({"memory", "shm"})
"""Schemes whose bytes only this user's processes on this machine can write."""
_SECRETS = ("env:PROXYFAB_*", "env:REDIS*", "file:/run/secrets/*")
_KEYS = ("env:PROXYFAB_KEY_*", "env:PROXYFAB_SIGN_*", "env:PROXYFAB_CURVE_*")
_PATHS = frozenset({"ca", "cert", "dir", "directory", "path", "root", "socket"})


class Policy(NamedTuple):
    """One set of rules; None stands for no rule."""

    schemes: frozenset[str] | None = None
    hosts: tuple[str, ...] | None = None
    directories: tuple[str, ...] | None = None
    serializers: frozenset[str] | None = None
    require_seal: bool | frozenset[str] = False
    unsealed_pickle: bool = True
    secrets: tuple[str, ...] = ()


_policies: list[Policy] = []
_received: ContextVar[bool] = ContextVar("proxyfab_received", default=False)


def restrict(
    *,
    schemes: Iterable[str] | None = None,
    hosts: Iterable[str] | None = None,
    directories: Iterable[str | os.PathLike[str]] | None = None,
    serializers: Iterable[str] | None = None,
    require_seal: bool | Iterable[str] = False,
    unsealed_pickle: bool = True,
    secrets: Iterable[str] = (),
) -> Policy:
    """Narrow what received references may open, from now on and in this process and its forks.

    Args:
        schemes: Names of connectors, children included: `{"shm", "redis"}`.
        hosts: Names, patterns (`*.lab.org`), networks (`10.1.0.0/16`), each with or without a port.
        directories: Where files and sockets may lie.
        serializers: `{"safe"}` lets only stores through that never unpickle.
        require_seal: True, or the ids of keys: only sealed stores are opened.
        unsealed_pickle: False: what is neither sealed nor in this machine's memory is never unpickled, in stores that
            this process's own code opens neither. Set it before stores are made.
        secrets: Patterns of `env:NAME` and `file:/path` that a received URL may name as its password.

    Raises:
        ConfigurationError: A rule makes no sense.
    """
    for rule in (schemes, hosts, directories, serializers, secrets):
        if isinstance(rule, str):
            raise ConfigurationError(f"A policy takes lists; write [{rule!r}].")
    if not isinstance(unsealed_pickle, bool):
        raise ConfigurationError(f"unsealed_pickle={unsealed_pickle!r} is neither true nor false.")
    policy = Policy(
        None if schemes is None else frozenset(schemes),
        None if hosts is None else tuple(map(_pattern, hosts)),
        None if directories is None else tuple(os.path.realpath(os.path.expanduser(path)) for path in directories),
        None if serializers is None else frozenset(serializers),
        require_seal if isinstance(require_seal, bool) else _ids(require_seal),
        unsealed_pickle,
        tuple(secrets),
    )
    _policies.append(policy)  # one step: no lock that a fork, or a finalizer, could find taken
    return policy


def _pattern(host: str) -> str:
    """A rule for hosts as `fnmatch` reads it, to which the brackets of an IPv6 address would be a choice of letters."""
    host = host.lower()
    if not host.startswith("[") or ":" not in host.partition("]")[0]:
        return host
    return f"[{host[0]}]{host[1:]}" if "]:" in host else host.strip("[]")


def _ids(require_seal: Iterable[str]) -> frozenset[str]:
    if isinstance(require_seal, str):
        raise ConfigurationError(f"A policy takes lists; write require_seal=[{require_seal!r}].")
    return frozenset(require_seal)


def lift() -> None:
    """Forget all policies of this process, that of the environment too; for tests."""
    _policies.clear()


def load(path: str) -> Policy:
    """`restrict` by a TOML file.

    Raises:
        ConfigurationError: It cannot be read, or holds a rule that this version does not know.
    """
    import tomllib

    try:
        with open(path, "rb") as file:
            rules = tomllib.load(file)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"The policy {path} cannot be read: {error}.") from error
    unknown = sorted(set(rules) - set(Policy._fields))
    if unknown:
        raise ConfigurationError(f"The policy {path} has no rule {unknown[0]!r}; it knows {', '.join(Policy._fields)}.")
    try:
        return restrict(**rules)
    except (AttributeError, TypeError) as error:
        raise ConfigurationError(f"The policy {path} does not hold lists of texts: {error}.") from error


def active() -> bool:
    """Whether there is any policy."""
    return bool(_policies)


class received:  # noqa: N801 - used as a function, and contextlib is not worth its time in every process
    """What is opened inside `with received():` was asked for by a reference from elsewhere."""

    __slots__ = ("_before",)
    _before: Token[bool]

    def __enter__(self) -> None:
        self._before = _received.set(True)

    def __exit__(self, *_: object) -> None:
        _received.reset(self._before)


def is_received() -> bool:
    """Whether what is opened just now was asked for by a reference from elsewhere."""
    return _received.get()


def check_store(url: str) -> None:
    """Refuse a received store's URL whose seal or serializer a policy does not allow, be the store open here or not.

    Raises:
        AccessDenied: It is not allowed.
    """
    if not _policies:
        return
    spec = StoreSpec.parse(url)
    _, _, key_id = spec.seal.partition(":")
    for policy in _policies:
        if policy.serializers is not None and spec.serializer not in policy.serializers:
            raise _denied("serializers", f"the serializer {spec.serializer!r}", spec.connector)
        if policy.require_seal and not spec.seal:
            raise _denied("require_seal", "a store without a seal", spec.connector)
        if isinstance(policy.require_seal, frozenset) and key_id not in policy.require_seal:
            raise _denied("require_seal", f"a store sealed with the key {key_id!r}", spec.connector)


def check_opening(url: str) -> None:
    """`check_connector` if this happens on behalf of a received reference."""
    if is_received():
        check_connector(url)


def check_connector(url: str, *, secrets: bool = True) -> None:
    """Refuse a connector's URL that a policy does not allow in a received reference; `secrets`: also those it names.

    Raises:
        AccessDenied: It is not allowed.
    """
    spec = ConnectorSpec.parse(url)
    for name, value in spec.options if secrets else ():
        _check_secret(name, value, url)
    for policy in _policies:
        if policy.schemes is not None and spec.scheme not in policy.schemes:
            raise _denied("schemes", f"the scheme {spec.scheme!r}", url)
        _check_paths(policy, spec, url)
        if policy.hosts is not None and spec.host and spec.scheme not in LOCAL:
            for host in spec.host.rpartition("@")[2].split(","):
                _check_host(policy.hosts, host, url)


def check_address(scheme: str, address: str) -> None:
    """Refuse to connect to an address (`host:port`, or a socket's path) that stands in a key.

    Raises:
        AccessDenied: A policy does not allow it.
    """
    for policy in _policies:
        if policy.schemes is not None and scheme not in policy.schemes:
            raise _denied("schemes", f"the scheme {scheme!r}", f"{scheme}://{address}")
        if address.startswith("/"):
            _check_directory(policy, address, f"{scheme}://{address}")
        elif policy.hosts is not None:
            _check_host(policy.hosts, address, f"{scheme}://{address}")


def checked_way(scheme: str) -> Callable[[tuple[str, int]], None] | None:
    """What refuses a host and port that a server sends this process on to; None where this process's own code asks.

    Asked where something is opened: who was let in by a policy does not choose where else it leads.
    """
    if not is_received():
        return None

    def check(address: tuple[str, int]) -> None:
        host, port = address
        check_address(scheme, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    return check


def may_unpickle(url: str) -> bool:
    """Whether objects of a store may be unpickled (`unsealed_pickle`)."""
    if all(policy.unsealed_pickle for policy in _policies):
        return True
    spec = StoreSpec.parse(url)
    return bool(spec.seal) or ConnectorSpec.parse(spec.connector).scheme in LOCAL


# -- rules -----------------------------------------------------------------------------------------------------------


def _matches(text: str, pattern: str) -> bool:
    from fnmatch import fnmatchcase  # for those who have a policy

    return fnmatchcase(text, pattern)


def _check_secret(name: str, value: str, url: str) -> None:
    child = value.startswith("file://") and name != "password"
    if child or not value.startswith(("env:", "file:")):
        return
    allowed = [*_SECRETS, *(pattern for policy in _policies for pattern in policy.secrets)]
    if value.startswith("file:"):
        value = f"file:{os.path.realpath(os.path.expanduser(value[5:]))}"
    is_key = any(_matches(value, pattern) for pattern in _KEYS)
    if is_key or not any(_matches(value, pattern) for pattern in allowed):
        raise _denied("secrets", f"the secret {value!r} of this process", url)


def _check_paths(policy: Policy, spec: ConnectorSpec, url: str) -> None:
    if policy.directories is None:
        return
    paths = [value for name, value in spec.options if value and (name in _PATHS or value.startswith("/"))]
    if spec.path and spec.scheme not in LOCAL and spec.host in ("", "localhost"):
        paths += [spec.path] if not spec.host or spec.scheme == "file" else []
    for path in paths:
        _check_directory(policy, path, url)


def _check_directory(policy: Policy, path: str, url: str) -> None:
    if policy.directories is None:
        return
    path = os.path.expanduser(path)
    for real in {os.path.realpath(path), os.path.realpath(os.path.abspath(path))}:  # `link/..` has two meanings
        if not any(real == allowed or real.startswith(allowed.rstrip("/") + "/") for allowed in policy.directories):
            raise _denied("directories", f"the path {real}", url)


def _check_host(patterns: tuple[str, ...], address: str, url: str) -> None:
    address = address.lower()
    host = address[1 : address.index("]")] if address.startswith("[") and "]" in address else address.partition(":")[0]
    if not any(_matches(address, pattern) or _names(pattern, host) for pattern in patterns):
        raise _denied("hosts", f"the host {host!r}", url)


def _names(pattern: str, host: str) -> bool:
    if "/" not in pattern:
        return _matches(host, pattern)
    import ipaddress

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(pattern)
    except ValueError:
        return False


def _denied(rule: str, what: str, url: str) -> AccessDenied:
    return AccessDenied(
        f"A reference from elsewhere asks for {what} ({url.partition('?')[0][:200]!r}), and this process's policy does "
        f"not allow it. Allow it by {rule}= of proxyfab.policy.restrict(), or in the file $PROXYFAB_POLICY; or open "
        f"the store here, by Store(...), before the reference is used."
    )


def _from_environment(read: Callable[[str], Policy] = load) -> None:
    path = os.environ.get("PROXYFAB_POLICY")
    if path:
        read(path)


_from_environment()
