"""A TCP proxy between a replica and its authority, which can cut, refuse and swallow."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Passes bytes on, unless told otherwise. `accepted` counts the connections that came."""

    def __init__(self, port: int) -> None:
        self.url = ""
        self.accepted = 0
        self._port = port
        self._connections: set[asyncio.Task[None]] = set()
        self._refuses = False
        self._flows = asyncio.Event()
        self._flows.set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Proxy"]:
        """Serve on a free port, until the block ends."""
        listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            listener.close()
            await self.cut()

    async def cut(self) -> None:
        """Break every connection, wherever it stands, and take no other until `mend`."""
        self._refuses = True
        broken, self._connections = self._connections, set()
        for connection in broken:
            connection.cancel()
        await asyncio.gather(*broken, return_exceptions=True)

    def swallow(self) -> None:
        """Let nothing more through, and let nobody notice, until `mend`."""
        self._flows.clear()

    def mend(self) -> None:
        """Pass everything on."""
        self._refuses = False
        self._flows.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._refuses:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._connect(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                await asyncio.gather(self._pass_on(reader, server_writer), self._pass_on(server_reader, writer))
            finally:
                server_writer.transport.abort()
        finally:
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(4_096):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        writer.close()
