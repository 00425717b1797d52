"""What a machine may lack for a moment: descriptors, memory, room for a process.

A call that fails for want of these says nothing about what it was asked for: a port is not taken, a user is
not unfit, a program is not broken. So nobody concludes anything from it but to try again.
"""

from __future__ import annotations

import errno

SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN})
