"""Two bots with the layouts of well-known mirror bots, and what collides with Phase 4 in each.

Nothing is copied from them. ``ORIGINAL``: a bot that has a Phase 4 of its own, with all the names of this
one. ``MIRROR``: a bot whose settings are a class, loaded from a module and then from MongoDB. Both note in a
file that their package was imported.
"""

from __future__ import annotations

STARTS = """
import logging, os, sys
from asyncio import Lock, new_event_loop, set_event_loop
from pathlib import Path

Path("started").touch()
if os.environ.get("HOST_LOOP") == "uvloop":
    import uvloop
    uvloop.install()
bot_loop = new_event_loop()
set_event_loop(bot_loop)
logging.basicConfig(handlers=[logging.FileHandler("log.txt"), logging.StreamHandler()], level=logging.INFO)
LOGGER = logging.getLogger(__name__)
task_dict = {}
task_dict_lock = Lock()
"""
"""What such a package does when it is imported: a loop, a log file, clients."""

USES_EACH_SERVICE = """
import asyncio, json

from bot.core.batch_processor import BatchProcessor
from bot.core.cache_manager import CacheManager
from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.enhanced_startup_phase4 import (
    get_phase4_status, initialize_phase4_services, shutdown_phase4_services,
)
from bot.core.load_balancer import LoadBalancer
from bot.core.outbound import Outbound, Request
from bot.core.query_optimizer import QueryOptimizer
from bot.core.rate_limiter import RateLimiter


async def use_phase4(**where):
    report = await initialize_phase4_services(**where)
    used = {"loop": type(asyncio.get_running_loop()).__module__, "errors": report["errors"]}
    used["started"] = report["services_initialized"]

    pools = ConnectionPoolManager.get_instance()
    async with pools.connection("files") as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS files (id INTEGER PRIMARY KEY, name TEXT)")
        await connection.execute("INSERT OR REPLACE INTO files VALUES (1, 'debian.iso')")
        await connection.commit()

    async def run(query, params):
        async with pools.connection("files") as connection:
            return await (await connection.execute(query, params)).fetchall()

    optimizer = QueryOptimizer.get_instance()
    for _ in range(2):
        used["query"] = await optimizer.execute("SELECT name FROM files WHERE id = ?", (1,), run)

    cache = CacheManager.get_instance()
    await cache.set("file:1", {"name": "debian.iso"}, namespace="files")
    used["cached"] = await cache.get("file:1", namespace="files")

    limiter = RateLimiter.get_instance()
    used["allowed"] = [(await limiter.is_allowed(7, tier="upload"))[0] for _ in range(3)]

    async def handle(items):
        return [item.data * 2 for item in items]

    batches = BatchProcessor.get_instance()
    await batches.enable(handle)
    used["batch"] = await batches.submit_and_wait(21)

    balancer = LoadBalancer.get_instance()

    async def forward(instance, data):
        return f"{instance.id} did {data}"

    balancer.request_handler = forward
    await balancer.add_instance("bot-1", "127.0.0.1", 8001)
    used["routed"] = (await balancer.route_request("work")).result

    async def send():
        return "sent"

    used["sent"] = await Outbound.get_instance().call(send, Request("sendMessage", 5))
    used["hits"] = (await get_phase4_status())["query_optimizer"]["cache_hits"]
    used["stopped"] = await shutdown_phase4_services()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    used["tasks"] = [task.get_name() for task in left]
    print("USED", json.dumps(used), flush=True)
"""
"""What the bot's author writes after embedding: every service started, used once, stopped.

``where``: where the settings are, if not in files that are found."""

SETTINGS = {
    "ENABLE_QUERY_OPTIMIZER": True,
    "ENABLE_CACHE_MANAGER": True,
    "ENABLE_CONNECTION_POOLING": True,
    "ENABLE_RATE_LIMITER": True,
    "ENABLE_BATCH_PROCESSOR": True,
    "ENABLE_LOAD_BALANCER": True,
    "ENABLE_OUTBOUND": True,
    "LOAD_BALANCER_CHECK_INTERVAL": 0,
    "BATCH_TIMEOUT": 0.01,
    "RATE_LIMITS": {"upload": {"requests_per_second": 0.01, "burst_size": 2}},
    "DATABASE_POOLS": {
        "files": {"backend": "sqlite", "url": "sqlite:///files.db", "min_size": 1, "max_size": 2}
    },
}

_OWN_SERVICE = '''
"""The bot's own."""


class {name}:
    enabled = False

    @classmethod
    def get_instance(cls):
        return cls()
'''

OWN_SERVICES = {
    "query_optimizer": "QueryOptimizer",
    "cache_manager": "CacheManager",
    "connection_pool_manager": "ConnectionPoolManager",
    "rate_limiter": "RateLimiter",
    "batch_processor": "BatchProcessor",
    "load_balancer": "LoadBalancer",
}

ORIGINAL = {
    "bot/__init__.py": STARTS,
    "bot/__main__.py": """
from . import LOGGER, bot_loop
from .core.config_manager import Config

Config.load()


async def main():
    from .core.metrics import metrics
    from .core.startup import start

    metrics.enable()
    await start()
    LOGGER.info("Bot Started!")


bot_loop.run_until_complete(main())
bot_loop.close()
""",
    "bot/core/__init__.py": '''
"""Imports of the core in one place."""

from bot.core.config_manager import Config

__all__ = ["Config"]
''',
    "bot/core/config_manager.py": """
from importlib import import_module


class Config:
    BOT_TOKEN = ""
    OWNER_ID = 0
    DATABASE_URL = ""

    @classmethod
    def load(cls):
        settings = import_module("config.main_config")
        for name in vars(cls).copy():
            if name.isupper():
                setattr(cls, name, getattr(settings, name))
""",
    **{f"bot/core/{module}.py": _OWN_SERVICE.format(name=name) for module, name in OWN_SERVICES.items()},
    "bot/core/batch_processor_models.py": "class Batch: ...\n",
    "bot/core/query_optimizer_models.py": "class QueryType: ...\n",
    "bot/core/enhanced_startup.py": "async def start_phase1(): ...\n",
    "bot/core/enhanced_startup_phase3.py": "async def start_phase3(): ...\n",
    "bot/core/enhanced_startup_phase4.py": """
from bot.core.cache_manager import CacheManager
from bot.core.connection_pool_manager import BackendType, ConnectionPoolManager
from bot.core.rate_limiter import RateLimiter


async def initialize_phase4_services(config=None):
    return {"success": True, "errors": [], "services_initialized": [], "summary": ""}
""",
    "bot/core/metrics.py": """
class Metrics:
    enabled = False

    def enable(self):
        self.enabled = True


metrics = Metrics()
""",
    "bot/core/redis_manager.py": "redis_client = None\n",
    "bot/core/startup.py": """async def start():
    from bot.core.enhanced_startup_phase4 import initialize_phase4_services
""",
    "bot/core/performance_optimizer.py": """from .cache_manager import CacheManager
from . import rate_limiter
""",
    "bot/helper/__init__.py": "",
    "bot/helper/ext_utils/__init__.py": "",
    "bot/helper/ext_utils/status_utils.py": """from ...core.query_optimizer import (
    QueryOptimizer, QueryHistory
)
""",
    "bot/modules/__init__.py": "",
    "bot/modules/settings_ui.py": """import importlib
balancing = importlib.import_module("bot.core.load_balancer")
""",
    "config/__init__.py": "",
    "config/main_config.py": """
BOT_TOKEN = "1:a"
OWNER_ID = 1
DATABASE_URL = ""
ENABLE_RATE_LIMITING = False
DB_POOL_SIZE = 10
""",
    "config/requirements.txt": "aiofiles\npsutil\nredis\nuvloop\nprometheus-client\n",
    "config_enhancements_phase4.py": """
ENABLE_QUERY_OPTIMIZER = False
CACHE_L1_STRATEGY = "lru"
RATE_LIMIT_STRATEGY = "token_bucket"
ENABLE_BATCH_DOWNLOADS = False
assert not ENABLE_QUERY_OPTIMIZER
""",
    "requirements-phase4.txt": "psutil\nsqlparse\n",
    "tests/conftest.py": "import sys\n",
    "tests/test_phase4_integration.py": "def test_phase4(): ...\n",
    "update.py": "from subprocess import run\nrun('git reset --hard origin/master -q', shell=True)\n",
    "Dockerfile": 'FROM anasty17/mltb:latest\nCOPY . .\nCMD ["python3", "-m", "bot"]\n',
    ".gitignore": "config.py\nlog.txt\nrequirements-phase*.txt\n__pycache__/\n",
}

MIRROR = {
    "bot/__init__.py": STARTS,
    "bot/__main__.py": """
from . import LOGGER, bot_loop
from .core.config_manager import Config

Config.load()


async def main():
    from .core.startup import load_settings

    await load_settings()
    LOGGER.info("Bot Started!")


bot_loop.run_until_complete(main())
bot_loop.close()
""",
    "bot/core/config_manager.py": """
from importlib import import_module


class Config:
    AUTHORIZED_CHATS = ""
    BOT_TOKEN = ""
    DATABASE_URL = ""
    LEECH_SPLIT_SIZE = 0
    STATUS_LIMIT = 10

    @classmethod
    def load(cls):
        settings = import_module("config")
        for name in vars(cls).copy():
            if name.isupper() and hasattr(settings, name):
                setattr(cls, name, getattr(settings, name))

    @classmethod
    def load_dict(cls, values):
        for name, value in values.items():
            setattr(cls, name, value)
""",
    "bot/core/handlers.py": "def add_handlers(): ...\n",
    "bot/core/mltb_client.py": "class TgClient: ...\n",
    "bot/core/torrent_manager.py": "class TorrentManager: ...\n",
    "bot/core/startup.py": """
from .config_manager import Config
from ..helper.ext_utils.db_handler import database


async def load_settings():
    if Config.DATABASE_URL:
        await database.connect()
        Config.load_dict(await database.settings())
        await database.disconnect()
""",
    "bot/helper/__init__.py": "",
    "bot/helper/ext_utils/__init__.py": "",
    "bot/helper/ext_utils/db_handler.py": """
from motor.motor_asyncio import AsyncIOMotorClient

from ...core.config_manager import Config


class DbManager:
    async def connect(self):
        self._client = AsyncIOMotorClient(Config.DATABASE_URL)
        self.db = self._client.mltb

    async def settings(self):
        return await self.db.settings.find_one({"_id": "1"}, {"_id": 0}) or {}

    async def disconnect(self):
        self._client.close()


database = DbManager()
""",
    "bot/modules/__init__.py": "",
    "bot/modules/mirror_leech.py": "async def mirror(client, message): ...\n",
    "config.py": "BOT_TOKEN = '1:a'\nSTATUS_LIMIT = 4\n",
    "requirements.txt": "aiofiles\nmotor\npsutil\npymongo\nuvloop\n",
    "update.py": "from subprocess import run\nrun('git reset --hard origin/master -q', shell=True)\n",
    "Dockerfile": 'FROM anasty17/mltb:latest\nCOPY requirements.txt .\nCOPY . .\nCMD ["bash", "start.sh"]\n',
    ".gitignore": "config.py\nlog.txt\n",
}
