"""A web application whose lifespan owns a pool; its requests share the connections.

``pip install starlette uvicorn``, start ``examples/echo_server.py``, then run
``uvicorn --app-dir examples starlette_app:app`` and open http://127.0.0.1:8000/ask/hello. FastAPI
takes the same ``lifespan``.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from anyconnpool import ConnectionPool, PooledConnection, PoolFull

ADDRESS = ("127.0.0.1", 8999)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None]:
    """Open the pool when the application starts, and close it when the application ends."""
    # With 100 requests waiting, it is kinder to refuse the next one at once.
    async with ConnectionPool(ADDRESS, max_size=20, max_waiting=100) as pool:
        app.state.pool = pool
        yield


async def echo(connection: PooledConnection, text: str) -> bytes:
    """Exchange a message for what the echo server makes of it."""
    await connection.send(text.encode())
    return await connection.receive_available()


async def ask(request: Request) -> Response:
    """Pass the text on to the echo server, and its reply back."""
    pool: ConnectionPool = request.app.state.pool
    try:
        reply = await pool.run(echo, request.path_params["text"], timeout=2)
    except (PoolFull, TimeoutError, anyio.ConnectionFailed):
        return PlainTextResponse("try again later", status_code=503)
    return PlainTextResponse(reply)


async def health(request: Request) -> Response:
    """Return what the pool is doing."""
    pool: ConnectionPool = request.app.state.pool
    now = pool.statistics()
    return JSONResponse({"size": now.size, "in_use": now.in_use, "waiting": now.tasks_waiting})


app = Starlette(routes=[Route("/ask/{text}", ask), Route("/health", health)], lifespan=lifespan)
