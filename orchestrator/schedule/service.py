"""What the scheduler reports to systemd, where systemd runs it."""

import contextlib
import os
import socket


def notify_service(state: str) -> None:
    """Sends a state, such as `READY=1` or `WATCHDOG=1`; does nothing where nobody asks for it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # in Linux's abstract name space
        address = "\0" + address[1:]
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        sender.setblocking(False)
        sender.sendto(state.encode(), address)
