"""What may stand before a Redis: TLS, and proxies that know fewer commands."""

import asyncio
import contextlib
import ssl
import subprocess

from tests.support.proxy import Proxy


class TlsFront(Proxy):
    """TLS before a server that speaks none, as stunnel does it."""

    def __init__(self, port, authority, *, wants_client_certificate=False):
        super().__init__(port=port)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(authority.path("server.pem"), authority.path("server.key"))
        if wants_client_certificate:
            self.context.load_verify_locations(authority.path("ca.pem"))
            self.context.verify_mode = ssl.CERT_REQUIRED

    async def listen(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.context)
        self.port = self._server.sockets[0].getsockname()[1]


class WithoutHello(Proxy):
    """A proxy, or an old server, that does not know HELLO: it answers with an error, or hangs up."""

    def __init__(self, port, answer):
        super().__init__(port=port)
        self.answer = answer
        self.asked = 0

    async def _pass(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if b"\r\nHELLO\r\n" in data[:30]:
                    self.asked += 1
                    mine = next(one for one in self._writers if one.transport is reader._transport)
                    if not self.answer:
                        break
                    mine.write(self.answer)
                    continue
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


class Authority:
    """A certificate authority of the test's own, in a folder; made by openssl."""

    def __init__(self, folder):
        self.folder = folder
        self._run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem",
                  "-days", "2", "-subj", "/CN=test authority",
                  "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
        self.issue("server", "subjectAltName=DNS:localhost")
        self.issue("client", "extendedKeyUsage=clientAuth")

    def path(self, name):
        return str(self.folder / name)

    def issue(self, name, extension):
        (self.folder / f"{name}.ext").write_text(extension)
        self._run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr",
                  "-subj", f"/CN={name}")  # fmt: skip
        self._run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                  "-CAcreateserial", "-out", f"{name}.pem", "-days", "2",
                  "-extfile", f"{name}.ext")  # fmt: skip

    def _run(self, *arguments):
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)
