"""A TCP proxy on loopback whose connections can be cut: what a client meets when a network goes and comes back."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a close is a reset, and what was not sent yet is lost


@dataclass
class TcpProxy:
    """Carries bytes between whoever connects to `port` and a server on loopback."""

    server: int
    port: int = 0
    out: bool = False
    pairs: list[tuple[socket.socket, socket.socket]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def cut(self) -> None:
        """Reset every connection; until `mend` new ones are reset at once."""
        with self.lock:
            self.out = True
            for pair in self.pairs:
                _reset(*pair)
            self.pairs.clear()

    def mend(self) -> None:
        self.out = False

    def carry(self, client: socket.socket) -> None:
        """From now on, until one side closes."""
        try:
            server = socket.create_connection(("127.0.0.1", self.server), timeout=10)
        except OSError:
            _reset(client)
            return
        server.settimeout(None)
        with self.lock:
            if self.out:
                _reset(client, server)
                return
            self.pairs.append((client, server))
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


@contextlib.contextmanager
def tcp_proxy(server: int) -> Iterator[TcpProxy]:
    """A running proxy in front of a port of loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = TcpProxy(server, listener.getsockname()[1])
        threading.Thread(target=_accept, args=(listener, proxy), daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.cut()
            listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, proxy: TcpProxy) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # the listener is closed
        proxy.carry(client)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):  # one of them was reset
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def _reset(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):  # it may have gone
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.shutdown(socket.SHUT_RD)  # wakes its pump
        end.close()
