"""Writes initramfs archives (cpio "newc") without needing root.

What is in the archive belongs to root whoever runs this, and device nodes
can be put in it without making them on the host.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import gzip
import os
import stat


class Initramfs:
    """Collects files; write() makes the compressed archive of them."""

    def __init__(self):
        self._entries = {}

    def directory(self, path):
        """Also makes the directories above it."""
        parent = os.path.dirname(path)
        if parent:
            self.directory(parent)
        self._entries.setdefault(path, (stat.S_IFDIR | 0o755, b'', (0, 0)))

    def data(self, path, content, mode=0o644):
        """A file of these bytes."""
        self.directory(os.path.dirname(path))
        self._entries[path] = (stat.S_IFREG | mode, content, (0, 0))

    def file(self, path, source):
        """A copy of the file @source, executable if that is."""
        with open(source, 'rb') as f:
            content = f.read()
        mode = 0o755 if os.access(source, os.X_OK) else 0o644
        self.data(path, content, mode)

    def character_device(self, path, major, minor):
        """A device node."""
        self.directory(os.path.dirname(path))
        self._entries[path] = (stat.S_IFCHR | 0o600, b'', (major, minor))

    def write(self, path):
        """Makes the archive; the same files always give the same bytes."""
        part = path + '.part'
        with open(part, 'wb') as raw, \
                gzip.GzipFile('', 'wb', 6, raw, mtime=0) as out:
            inode = 0
            for name, entry in self._entries.items():
                inode += 1
                self._write_entry(out, inode, name, *entry)
            self._write_entry(out, 0, 'TRAILER!!!', 0, b'', (0, 0))
        os.replace(part, path)

    @staticmethod
    def _write_entry(out, inode, name, mode, content, device):
        name = name.encode() + b'\0'
        fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device,
                  len(name), 0)
        head = b'070701' + b''.join(b'%08X' % f for f in fields) + name
        out.write(head + bytes(-len(head) % 4))
        out.write(content + bytes(-len(content) % 4))
