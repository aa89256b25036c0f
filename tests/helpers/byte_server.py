"""A server on loopback that sends given bytes in small pieces, or nothing, to everyone who connects."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import NamedTuple

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n"
# Seconds between two bytes of a server that drips.
DRIP_SECONDS = 0.01


class ByteServer(NamedTuple):
    """The address of the server, and a semaphore that is released for each request that has arrived."""

    url: str
    arrived: threading.Semaphore


@contextlib.contextmanager
def dripping(head: bytes = HEAD, drip: bytes = b" ") -> Iterator[ByteServer]:
    """Serve `head` at once and then `drip` byte by byte, for ever; nothing more if `drip` is empty."""
    ended, arrived = threading.Event(), threading.Semaphore(0)
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.recv(2**16)
            arrived.release()
            connection.sendall(head)
            while not ended.wait(DRIP_SECONDS if drip else None):
                connection.sendall(drip)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield ByteServer(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", arrived)
    finally:
        ended.set()
        # Wakes the thread that accepts connections.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
