"""A TCP proxy that counts requests: a client that speaks after the server has spoken."""

from __future__ import annotations

import selectors
import socket
import threading
from types import TracebackType
from urllib.parse import urlsplit

from hpoctl.study.location import Location


class CountingProxy:
    """Stands before a database server; `location` leads through it."""

    def __init__(self, behind: Location) -> None:
        port = urlsplit(behind.url).port
        self._server = ("127.0.0.1", port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        own = self._listener.getsockname()[1]
        url = behind.url.replace(f":{port}/", f":{own}/")
        self.location = Location(kind=behind.kind, url=url)
        self.requests = 0

    def __enter__(self) -> CountingProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        server = socket.create_connection(self._server)
        other = {client: server, server: client}
        for end in other:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        last = server
        with client, server, selectors.DefaultSelector() as selector:
            for end in other:
                selector.register(end, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    speaker = client if key.fileobj is client else server
                    said = speaker.recv(1 << 16)
                    if not said:
                        return
                    self.requests += speaker is client and last is server
                    last = speaker
                    other[speaker].sendall(said)
