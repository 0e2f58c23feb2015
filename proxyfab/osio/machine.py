"""Whether two processes see the same directory of shared memory: by boot, device, inode and user, not by host name.

Containers share host names and kernels, and may share shared memory or not; what counts is that both see one directory.
"""

from __future__ import annotations

import os
from hashlib import blake2b


def sight_of(root: str) -> str:
    """What two processes must both have to share the objects in `root`; `""` where there is no such directory."""
    try:
        status = os.stat(root)
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            boot = file.read()
    except OSError:
        return ""
    text = f"{status.st_dev}:{status.st_ino}:{os.geteuid()}".encode()
    return blake2b(boot + text, digest_size=8).hexdigest()
