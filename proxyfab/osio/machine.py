"""Which boot of a machine this is, and whether two processes see the same directory of shared memory.

By boot, device, inode and user, not by host name: containers share host names and kernels, and may share shared memory
or not; what counts is that both see one directory.
"""

from __future__ import annotations

import os
from hashlib import blake2b


def boot() -> bytes:
    """What the kernel drew as it was started, a line of hexadecimal digits; nothing where it does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read()
    except OSError:
        return b""


def sight_of(root: str) -> str:
    """What two processes must both have to share the objects in `root`; `""` where there is no such directory."""
    started = boot()
    try:
        status = os.stat(root)
    except OSError:
        return ""
    if not started:
        return ""
    text = f"{status.st_dev}:{status.st_ino}:{os.geteuid()}".encode()
    return blake2b(started + text, digest_size=8).hexdigest()
