"""Faults on a real socket: what the network does to a client, and what stays open after it."""

from __future__ import annotations

import contextlib
import gzip
import os
import signal
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from dagster_dbtcloud.clock import ManualClock
from dagster_dbtcloud.cloud import TriggerRun
from dagster_dbtcloud.errors import (
    ApiConnectionError,
    ApiError,
    ApiResponseError,
    ConfigError,
    ServerError,
)
from dagster_dbtcloud_tests.cloud.conftest import MakeClient
from dagster_dbtcloud_tests.cloud.fakes import (
    TOKEN,
    Behaviour,
    Wire,
    raw,
    reply,
    reset,
    silence,
)

ACCOUNT = b'{"status": {"is_success": true}, "data": {"id": 4242}}'
RUN = b'{"status": {"is_success": true}, "data": {"id": 900123}}'
HTML = b"<html><body>Sign in</body></html>"
TRIGGER = TriggerRun(cause="x")


def chunked(body: bytes, *, whole: bool) -> Behaviour:
    chunk = b"%x\r\n%s\r\n" % (len(body), body)
    end = b"0\r\n\r\n" if whole else b""
    return raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + end)


FAULTS: list[tuple[str, Behaviour, type[ApiError]]] = [
    ("reset", reset, ApiConnectionError),
    ("hang up", raw(b""), ApiConnectionError),
    ("half a head", raw(b"HTTP/1.1 200 OK\r\nContent-"), ApiConnectionError),
    ("not HTTP", raw(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"), ApiConnectionError),
    ("cut body", reply(ACCOUNT[:20], announced=len(ACCOUNT)), ApiConnectionError),
    ("cut chunks", chunked(ACCOUNT[:20], whole=False), ApiConnectionError),
    ("silence", silence, ApiConnectionError),
    ("HTML", reply(HTML), ApiResponseError),
    ("cut JSON", raw(b"HTTP/1.0 200 OK\r\n\r\n" + ACCOUNT[:20]), ApiResponseError),
    ("empty", reply(b""), ApiResponseError),
    ("HTML error", reply(HTML, status="502 Bad Gateway"), ServerError),
]
NAMES = [name for name, _, _ in FAULTS]


@pytest.mark.parametrize("fault", [fault for _, fault, _ in FAULTS], ids=NAMES)
def test_reading_goes_on_after_a_fault(make_client: MakeClient, fault: Behaviour) -> None:
    """The second try is answered; afterwards no connection is left open."""
    with Wire(fault, reply(ACCOUNT)) as wire:
        client = make_client(access_url=wire.url, timeout=0.1)
        assert client.account().id == 4242
        assert client.requests_made == 2
        client.close()
        assert wire.drained()


@pytest.mark.parametrize(("fault", "kind"), [row[1:] for row in FAULTS], ids=NAMES)
def test_a_trigger_is_sent_once_whatever_happens(
    make_client: MakeClient, fault: Behaviour, kind: type[ApiError]
) -> None:
    """It may have been carried out: the error is raised at once, and says so."""
    with Wire(fault, reply(RUN)) as wire:
        client = make_client(access_url=wire.url, timeout=0.1)
        with pytest.raises(kind, match="may have been carried out") as caught:
            client.trigger_run(77, TRIGGER)
        if isinstance(caught.value, ApiConnectionError):
            assert caught.value.sent
        assert len(wire.heads) == 1
        client.close()
        assert wire.drained()


def test_nobody_there_is_never_sent(make_client: MakeClient, clock: ManualClock) -> None:
    """A refused connection is tried again within the budget, for a trigger too."""
    with Wire(reply(RUN)) as wire:
        pass
    client = make_client(access_url=wire.url, retry_for=10.0)
    with pytest.raises(ApiConnectionError, match="Gave up after 6 tries in 10 s") as caught:
        client.trigger_run(77, TRIGGER)
    assert not caught.value.sent
    assert clock.monotonic() == 10.0


def test_connections_are_used_again(make_client: MakeClient) -> None:
    """Twenty requests, one connection; also after an error status."""
    with Wire(reply(b"{}", status="404 Not Found"), reply(ACCOUNT)) as wire:
        client = make_client(access_url=wire.url)
        with pytest.raises(ApiError):
            client.account()
        for _ in range(20):
            client.account()
        assert wire.connections == 1


def test_faults_do_not_use_up_the_pool(make_client: MakeClient) -> None:
    """More of them than the pool has places: each gives its place back."""
    faults = [reply(b"{", announced=9), reply(HTML), raw(b""), reset] * 30
    with Wire(*faults, reply(ACCOUNT)) as wire:
        client = make_client(access_url=wire.url, retry_for=1e9)
        assert client.account().id == 4242
        assert client.requests_made == len(faults) + 1
        client.close()
        assert wire.drained()


def test_a_client_is_shared_by_threads(make_client: MakeClient) -> None:
    """All are answered, and each request is counted once."""
    with Wire(reply(ACCOUNT)) as wire:
        client = make_client(access_url=wire.url)
        found: list[int] = []

        def ask() -> None:
            found.extend(client.account().id for _ in range(5))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [4242] * 40
        assert client.requests_made == len(wire.heads) == 40
        assert wire.connections <= 8


def test_a_large_artifact_comes_whole(make_client: MakeClient) -> None:
    """Eight million bytes, packed or not; a cut one is fetched again, never returned."""
    body = b'{"nodes": "' + os.urandom(4_000_000).hex().encode() + b'"}'
    packed = gzip.compress(body, compresslevel=1)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    with Wire(
        reply(body[:5_000_000], announced=len(body)),
        reply(body),
        raw(head % len(packed) + packed[:1_000_000]),
        raw(head % len(packed) + packed),
    ) as wire:
        client = make_client(access_url=wire.url)
        assert client.artifact(5, "manifest.json") == body
        assert client.requests_made == 2
        assert client.artifact(5, "manifest.json") == body
        assert client.requests_made == 4


def test_a_body_without_length_that_ends_early_is_noticed(make_client: MakeClient) -> None:
    """A proxy that drops the length hides the cut from HTTP, not from a look at the JSON."""
    whole = b'{"nodes": {"a": {}}}'
    with Wire(
        raw(b"HTTP/1.0 200 OK\r\n\r\n" + whole[:12]),
        raw(b"HTTP/1.0 200 OK\r\n\r\n" + whole),
    ) as wire:
        assert make_client(access_url=wire.url).artifact(5, "manifest.json") == whole


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own(make_client: MakeClient) -> None:
    """The parent's connection is neither used nor closed by it."""
    with Wire(reply(ACCOUNT)) as wire:
        client = make_client(access_url=wire.url)
        client.account()
        child = os.fork()
        if child == 0:
            answered = client.account().id == 4242
            client.close()
            os._exit(0 if answered else 1)
        _, status = os.waitpid(child, 0)
        assert status == 0
        assert client.account().id == 4242
        assert wire.connections == 2


# the environment


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.usefixtures("no_proxies")
def test_the_proxy_of_the_environment_is_used(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for a tunnel, and does not get the token; its refusal means never sent."""
    with Wire(reply(HTML, status="503 Service Unavailable")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:s3cr3t@127.0.0.1:{proxy.port}")
        client = make_client(retry_for=0)
        with pytest.raises(ApiConnectionError, match=r"ProxyError.*HTTPS_PROXY") as caught:
            client.account()
        assert not caught.value.sent
        assert "s3cr3t" not in str(caught.value)
        assert proxy.heads[0].startswith(b"CONNECT ab123.us1.dbt.com:443 HTTP/1.1\r\n")
        assert TOKEN.encode() not in proxy.heads[0]


@pytest.mark.usefixtures("no_proxies")
def test_a_proxy_is_not_asked_for_this_machine(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sandbox on loopback is reached although a proxy is set."""
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with Wire(reply(ACCOUNT)) as wire:
        assert make_client(access_url=wire.url, retry_for=0).account().id == 4242


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSL_CERT_FILE", __file__),
        ("HTTPS_PROXY", "gopher://me:s3cr3t@proxy.example.com"),
        ("HTTPS_PROXY", "http://me:s3cr3t@proxy.example.com:s3cr3t"),
    ],
)
@pytest.mark.usefixtures("no_proxies")
def test_a_broken_environment_is_named(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """The variables to look at, without a proxy's password."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name) as caught:
        make_client().account()
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that only itself vouches for."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-keyout", str(key), "-out", str(cert), "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return key, cert


@pytest.mark.parametrize("trusted", [True, False])
def test_the_ca_bundle_of_the_environment_is_used(
    make_client: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
    certificate: tuple[Path, Path],
    trusted: bool,
) -> None:
    """SSL_CERT_FILE decides whom to trust; an untrusted certificate is told at once."""
    key, cert = certificate
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    with Wire(reply(ACCOUNT), tls=tls) as wire:
        if trusted:
            monkeypatch.setenv("SSL_CERT_FILE", str(cert))
            assert make_client(access_url=wire.url).account().id == 4242
            return
        client = make_client(access_url=wire.url)
        with pytest.raises(ApiConnectionError, match="SSL_CERT_FILE") as caught:
            client.account()
        assert not caught.value.sent
        assert client.requests_made == 1


def test_an_answer_that_drips_is_given_up(make_client: MakeClient, clock: ManualClock) -> None:
    """A byte now and then never times out by itself; below 1,000 a second it is no answer."""

    def drip(connection: socket.socket) -> bool:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        connection.settimeout(0.005)
        for _ in range(1000):
            clock.advance(5.0)
            with contextlib.suppress(TimeoutError):
                connection.sendall(b" " * 10)
                return bool(connection.recv(1))
        return False

    with Wire(drip, reply(ACCOUNT)) as wire:
        client = make_client(access_url=wire.url, timeout=30.0)
        assert client.account().id == 4242
        assert len(wire.heads) == 2
        client.close()
        assert wire.drained()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers on this system")
def test_an_interrupt_passes_through(make_client: MakeClient) -> None:
    """Ctrl-C, or Dagster's end of a step, while waiting for an answer; nothing stays open."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with Wire(silence, reply(ACCOUNT)) as wire:
        client = make_client(access_url=wire.url)
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(KeyboardInterrupt) as caught:
                client.account()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert not [entry for entry in caught.traceback if "httpcore" in str(entry.path)]
        assert client.account().id == 4242
        client.close()
        assert wire.drained()
