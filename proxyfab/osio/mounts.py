"""What kind of file system a path lies on, because a network changes what a mapping, a lock and a notice are worth."""

from __future__ import annotations

import os

_LOCAL = frozenset(
    {
        *(
            "ext2",
            "ext3",
            "ext4",
            "xfs",
            "btrfs",
            "zfs",
            "f2fs",
            "bcachefs",
            "jfs",
            "reiserfs",
            "vfat",
            "exfat",
            "ntfs3",
        ),
        *("tmpfs", "ramfs", "rootfs", "overlay", "overlayfs", "squashfs", "erofs", "fuse.fuse-overlayfs"),
    }
)


def kind(path: str) -> str:
    """The file system's type as the kernel calls it (`ext4`, `nfs4`, `fuse.sshfs`), `""` when it cannot be told.

    Args:
        path: Need not exist; then its nearest existing parent counts.
    """
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            mounts = file.read()
    except OSError:
        return ""
    device = _device(path)
    real = os.fsencode(os.path.realpath(path)) + b"/"
    best, found = -1, b""
    for line in mounts.splitlines():
        fields = line.split(b" ")
        where = _unescape(fields[4])
        under = real.startswith(where.rstrip(b"/") + b"/")
        score = len(where) + (1 << 20 if fields[2] == device else 0)  # the device decides, among binds the deepest
        if under and score >= best:
            best, found = score, fields[fields.index(b"-", 6) + 1]
    return found.decode()


def is_network(kind: str) -> bool:
    """Whether other machines may see, or serve, such a file system; what is not known to be local counts as one."""
    return kind not in _LOCAL


def _device(path: str) -> bytes:
    while True:
        try:
            number = os.stat(path).st_dev
        except OSError:
            parent = os.path.dirname(path)
            if parent == path:
                return b""
            path = parent
        else:
            return f"{os.major(number)}:{os.minor(number)}".encode()


def _unescape(text: bytes) -> bytes:
    for code, char in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        text = text.replace(code, char)
    return text
