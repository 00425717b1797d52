"""The HTTP client against a server on loopback: what it asks, and what it does not put up with."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trustme
from aiohttp import web
from tests.unit.relays.test_smtp_relay import on_a_loop

from dispatch.ports import HttpAnswer
from dispatch.relays.http import AiohttpClient
from dispatch.security.tls import client_context

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The address of a server that answers all requests with `handler`."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"{'http' if context is None else 'https'}://127.0.0.1:{port}/token"
    finally:
        await runner.cleanup()


async def post(url: str, client: AiohttpClient | None = None, timeout_s: float = 10.0) -> HttpAnswer:
    return await (client or AiohttpClient()).post(
        url, b"a=b", {"Content-Type": "text/x"}, timeout_s=timeout_s, answer_bytes_max=1000
    )


@on_a_loop
async def test_what_is_asked_arrives_and_the_answer_comes_back_with_its_status() -> None:
    seen: list[tuple[bytes, str, str | None]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((await request.read(), request.content_type, request.headers.get("Cookie")))
        return web.Response(status=418, body=b"x" * 1000, headers={"Retry-After": "7", "Set-Cookie": "a=b"})

    async with serving(handler) as url:
        client = AiohttpClient()
        answer = await post(url, client)
        await post(url, client)
    assert (answer.status, answer.body, answer.headers["retry-after"]) == (418, b"x" * 1000, "7")
    assert seen == [(b"a=b", "text/x", None)] * 2


@on_a_loop
async def test_a_redirect_is_not_followed() -> None:
    paths: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    async with serving(handler) as url:
        assert (await post(url)).status == 307
    assert paths == ["/token"]


@on_a_loop
async def test_an_answer_that_is_too_long_is_not_read_to_its_end() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            while True:
                await answer.write(b"x" * 500)
        except ConnectionError:
            return answer

    async with serving(endless) as url:
        with pytest.raises(OSError, match="more than 1000 octets"):
            await post(url)


@on_a_loop
async def test_an_answer_is_not_decompressed() -> None:
    packed = gzip.compress(b"x" * 100_000)

    async def handler(request: web.Request) -> web.Response:
        assert request.headers["Accept-Encoding"] == "identity"
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    async with serving(handler) as url:
        assert (await post(url)).body == packed


@on_a_loop
async def test_a_server_that_says_nothing_is_given_up() -> None:
    over = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        await over.wait()
        return web.Response()

    async with serving(handler) as url:
        with pytest.raises(TimeoutError, match=r"no answer within 0\.2 s"):
            await post(url, timeout_s=0.2)
        over.set()


@on_a_loop
async def test_whatever_goes_wrong_on_the_way_is_an_os_error() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\ncut")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(OSError):
        await post(f"http://127.0.0.1:{port}/")
    server.close()
    await server.wait_closed()
    with pytest.raises(OSError):
        await post(f"http://127.0.0.1:{port}/")
    with pytest.raises(OSError):
        await post("http://")


@on_a_loop
async def test_a_certificate_must_be_trusted_and_name_the_host() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=b"secret")

    authority = trustme.CA()
    trusted = client_context(ca_pem=authority.cert_pem.bytes())
    for name, context, reached in (
        ("127.0.0.1", trusted, True),
        ("127.0.0.1", None, False),
        ("other.example", trusted, False),
    ):
        serve = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(serve)
        async with serving(handler, serve) as url:
            if reached:
                assert (await post(url, AiohttpClient(context))).body == b"secret"
            else:
                with pytest.raises(OSError):
                    await post(url, AiohttpClient(context))


@on_a_loop
async def test_proxies_of_the_environment_are_not_used() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=204)

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("http_proxy", "http://127.0.0.1:1")
        environment.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        async with serving(handler) as url:
            assert (await post(url)).status == 204


@on_a_loop
async def test_a_page_comes_from_the_addresses_that_were_given_and_its_certificate_names_the_host() -> None:
    hosts: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        assert (request.method, request.path, await request.read()) == ("GET", "/page", b"")
        hosts.append(request.host.partition(":")[0])
        return web.Response(body=b"a page")

    authority = trustme.CA()
    client = AiohttpClient(client_context(ca_pem=authority.cert_pem.bytes()))
    serve = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("known.example").configure_cert(serve)
    async with serving(handler, serve) as url:
        port = url.rpartition(":")[2].partition("/")[0]
        for name, reached in (("known.example", True), ("other.example", False)):
            asking = client.get(
                f"https://{name}:{port}/page",
                ["127.0.0.9", "127.0.0.1"],
                timeout_s=10.0,
                answer_bytes_max=100,
            )
            if reached:
                answer = await asking
                assert (answer.status, answer.body) == (200, b"a page")
            else:
                with pytest.raises(OSError):
                    await asking
    assert hosts == ["known.example"]
