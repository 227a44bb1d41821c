"""A TCP proxy before a database server, which breaks connections when it is told to."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType

_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: closed with a reset, and what is unsent is lost


class CuttingProxy:
    """Stands before a server on this machine; clients that connect to `port` speak with it."""

    def __init__(self, server_port: int) -> None:
        self._server = ("127.0.0.1", server_port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.refusing = False
        self._refuse_at: tuple[bytes, bool] | None = None
        self._bytes_left: int | None = None  # of answers, before everything is cut

    def __enter__(self) -> CuttingProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.close()
        self.cut()

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        with self._lock:
            return len(self._open) // 2

    def cut(self) -> None:
        """Resets every connection, in whatever it is doing."""
        with self._lock:
            for end in self._open:
                with suppress(OSError):  # closed meanwhile
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
                    end.shutdown(socket.SHUT_RDWR)

    def cut_in_answer(self, after_bytes: int) -> None:
        """Cuts everything once the server has answered this many bytes more."""
        self._bytes_left = after_bytes

    def refuse(self) -> None:
        """From now on nobody is let through."""
        self.refusing = True
        self.cut()

    def refuse_at(self, words: bytes, *, reached: bool) -> None:
        """Refuses as soon as a client says this, or, if it `reached` the server, at the answer."""
        self._refuse_at = words, reached

    def let_through(self) -> None:
        """Ends `refuse`."""
        self.refusing = False

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if self.refusing:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
                return
            with socket.create_connection(self._server) as server:
                ends = {client, server}
                with self._lock:
                    self._open |= ends
                try:
                    self._pass_on(client, server)
                finally:
                    with self._lock:
                        self._open -= ends

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        other = {client: server, server: client}
        answer_is_lost = False
        with selectors.DefaultSelector() as selector:
            for end in other:
                selector.register(end, selectors.EVENT_READ, end)
            while True:
                for key, _ in selector.select():
                    speaker: socket.socket = key.data
                    said = speaker.recv(1 << 16)
                    if not said:
                        return
                    if speaker is server:
                        if answer_is_lost:
                            self.refuse()
                            return
                        said = self._until_the_cut(said)
                    elif self._refuse_at is not None and self._refuse_at[0] in said:
                        _, answer_is_lost = self._refuse_at
                        self._refuse_at = None
                        if not answer_is_lost:
                            self.refuse()
                            return
                    other[speaker].sendall(said)
                    if self._bytes_left == 0:
                        self._bytes_left = None
                        self.cut()

    def _until_the_cut(self, said: bytes) -> bytes:
        if self._bytes_left is None:
            return said
        said = said[: self._bytes_left]
        self._bytes_left -= len(said)
        return said
