"""Phase 4 settings of this bot. All settings are listed; a commented line shows the default.

Environment variables of the same name win over this file, and the dict given to
``initialize_phase4_services`` wins over both. This file wins over the bot's ``config.py`` and
``config/main_config.py``. The minimal profile is on: query optimizer and rate limiter.
"""

# Services

# switch the query optimizer on (True or False)
ENABLE_QUERY_OPTIMIZER = True
# switch the cache manager on (True or False)
ENABLE_CACHE_MANAGER = False
# switch the connection pool manager on (True or False)
ENABLE_CONNECTION_POOLING = False
# switch the rate limiter on (True or False)
ENABLE_RATE_LIMITER = True
# switch the batch processor on (True or False)
ENABLE_BATCH_PROCESSOR = False
# switch the load balancer on (True or False)
ENABLE_LOAD_BALANCER = False
# switch flood control for messages to Telegram on (True or False)
ENABLE_OUTBOUND = False

# Query optimizer

# seconds a query result stays cached (a number > 0 and <= 31_536_000)
# QUERY_OPTIMIZER_CACHE_TTL = 300
# MB of memory for cached query results (a number > 0 and <= 1_000_000)
# QUERY_OPTIMIZER_CACHE_MAX_SIZE_MB = 50
# the most query results that are cached (a whole number >= 1 and <= 100_000_000)
# QUERY_OPTIMIZER_CACHE_MAX_ENTRIES = 10000
# an execution that takes this many seconds or more counts as slow (a number > 0 and <= 31_536_000)
# QUERY_OPTIMIZER_SLOW_QUERY_THRESHOLD = 1
# seconds after which a shared read is given up; 0: never (a number >= 0 and <= 31_536_000)
# QUERY_OPTIMIZER_QUERY_TIMEOUT = 120
# detect N+1 queries (True or False)
# QUERY_OPTIMIZER_DETECT_N_PLUS_ONE = True
# SQL dialect of the queries; empty: generic (one of '', 'postgres', 'mysql', 'sqlite')
# QUERY_OPTIMIZER_DIALECT = ""
# executions of one query with different values, in one request, that count as N+1 (a whole number >= 2
# and <= 10_000)
# QUERY_OPTIMIZER_N_PLUS_ONE_THRESHOLD = 10
# seconds within which these executions must happen (a number > 0 and <= 31_536_000)
# QUERY_OPTIMIZER_N_PLUS_ONE_WINDOW = 2
# seconds that as many executions in one request, however far apart, must take together (a number > 0
# and <= 31_536_000)
# QUERY_OPTIMIZER_N_PLUS_ONE_TOTAL = 2
# views: name -> tables that it reads (a dict)
# QUERY_OPTIMIZER_VIEWS = {}
# table -> tables that a write to it also changes (trigger, foreign key, partition) (a dict)
# QUERY_OPTIMIZER_CASCADES = {}
# your database functions that change nothing and depend only on their arguments (a list)
# QUERY_OPTIMIZER_PURE_FUNCTIONS = []
# name of a pool in DATABASE_POOLS that runs EXPLAIN for advice; empty: none (a string)
# QUERY_OPTIMIZER_EXPLAIN_POOL = ""
# seconds that the analysis of a new query waits for its plan (a number > 0 and <= 31_536_000)
# QUERY_OPTIMIZER_EXPLAIN_TIMEOUT = 2
# seconds for which the catalog of that pool's database counts; read again at half of it (a number > 0
# and <= 31_536_000)
# QUERY_OPTIMIZER_CATALOG_MAX_AGE = 300
# see every statement on the pools but Redis: counts, times, N+1, what writes drop (True or False)
# QUERY_OPTIMIZER_INSTRUMENT = False
# with QUERY_OPTIMIZER_INSTRUMENT: also answer their reads from the cache, where certain (True or False)
# QUERY_OPTIMIZER_INSTRUMENT_CACHE = False
# drop results of MongoDB by writes of other programs, too, if the server has change streams (True or
# False)
# QUERY_OPTIMIZER_MONGODB_CHANGE_STREAMS = False
# make OpenTelemetry spans of queries; needs opentelemetry-api (extra: opentelemetry) (True or False)
# QUERY_OPTIMIZER_TRACING = False
# the greatest depth of a GraphQL operation, in fields (a whole number >= 1 and <= 1_000)
# QUERY_OPTIMIZER_GRAPHQL_MAX_DEPTH = 50
# the most fields in a GraphQL operation, each multiplied by its page sizes (a whole number >= 1 and <=
# 100_000_000)
# QUERY_OPTIMIZER_GRAPHQL_MAX_COMPLEXITY = 10000

# Cache manager

# MB of memory for the first tier (a number > 0 and <= 1_000_000)
# CACHE_L1_MAX_SIZE_MB = 100
# the most entries in the first tier (a whole number >= 1 and <= 100_000_000)
# CACHE_L1_MAX_ENTRIES = 10000
# eviction policy of a full first tier (one of 's3fifo', 'lru')
# CACHE_EVICTION_POLICY = "s3fifo"
# TTL in seconds of an entry without its own (a number > 0 and <= 31_536_000)
# CACHE_DEFAULT_TTL = 300
# seconds a load may take; 0: no limit (a number >= 0 and <= 31_536_000)
# CACHE_LOAD_TIMEOUT = 120
# one instance loads a missing key for all (True or False)
# CACHE_LOAD_LOCK = False
# compress large values in Redis (True or False)
# CACHE_COMPRESSION_ENABLED = True
# how; zstd is faster and smaller, and needs Python 3.14 or the extra zstd (one of 'zlib', 'zstd')
# CACHE_COMPRESSION_FORMAT = "zlib"
# Redis URL of the second tier, also redis+cluster:// or redis+sentinel://; empty: first tier only (a
# string)
# CACHE_L2_REDIS_URL = ""
# refresh warmed keys in the background (True or False)
# ENABLE_CACHE_WARMING = False
# seconds between refreshes of a warmed key without its own interval (a number > 0 and <= 31_536_000)
# CACHE_WARMING_INTERVAL = 600

# Connection pools

# connections kept open (a whole number >= 0 and <= 10_000)
# POOL_MIN_SIZE = 5
# the most connections of a pool (a whole number >= 1 and <= 10_000)
# POOL_MAX_SIZE = 20
# seconds to wait for a connection (a number > 0 and <= 31_536_000)
# POOL_ACQUIRE_TIMEOUT = 10
# seconds after which an idle connection above the minimum is closed (a number > 0 and <= 31_536_000)
# POOL_IDLE_TIMEOUT = 600
# seconds after which a connection is replaced (a number > 0 and <= 31_536_000)
# POOL_MAX_LIFETIME = 3600
# seconds that opening a connection may take (a number > 0 and <= 31_536_000)
# POOL_CONNECT_TIMEOUT = 10
# seconds between pings of an idle connection (a number > 0 and <= 31_536_000)
# POOL_KEEPALIVE_INTERVAL = 120
# seconds after which a connection on loan is reported as leaked; 0: never (a number >= 0 and <=
# 31_536_000)
# POOL_LEAK_THRESHOLD = 60
# seconds after which a call without an answer has failed; 0: never (a number >= 0 and <= 31_536_000)
# POOL_QUERY_TIMEOUT = 60
# MongoDB URL of pools without their own (a string)
# MONGODB_URL = ""
# postgresql://, mysql:// or sqlite:// URL of pools without their own (a string)
# DATABASE_URL = ""
# Redis URL of pools without their own, and of the cache's second tier (a string)
# REDIS_URL = ""
# pools created at startup: name -> {backend, url, min_size, max_size, options, tenant} (a dict)
# DATABASE_POOLS = {}

# Rate limiter

# requests per second of each client (a number >= 0.000000001 and <= 1_000_000_000_000)
# RATE_LIMIT_DEFAULT_RPS = 10
# requests a client may make at once (a whole number >= 1 and <= 1_000_000_000)
# RATE_LIMIT_BURST_SIZE = 50
# limits by tier: name -> "10/second;100/hour", {requests_per_second, burst_size, backoff}, or
# {max_requests, window, backoff} (a dict)
# RATE_LIMITS = {}
# make clients that retry too early, again and again, wait longer (True or False)
# RATE_LIMIT_BACKOFF = True
# seconds after its first refusal in which no retry of a client counts as too early (a number >= 0 and
# <= 31_536_000)
# RATE_LIMIT_BACKOFF_GRACE = 1
# first wait, in seconds, of a client that retries too early; doubled each time (a number >= 0.000001
# and <= 31_536_000)
# RATE_LIMIT_BACKOFF_BASE = 2
# the longest such wait, in seconds (a number >= 0.000001 and <= 31_536_000)
# RATE_LIMIT_BACKOFF_MAX = 3600
# seconds after which the shared slots of a process that died are free (ConcurrencyLimit) (a number >= 1
# and <= 300)
# RATE_LIMIT_SLOT_LEASE = 15
# Redis URL for limits that instances share; empty: not shared (a string)
# RATE_LIMIT_REDIS_URL = ""
# ids of clients that are never limited, such as admins (a list)
# RATE_LIMIT_EXEMPT_CLIENTS = []

# Batch processor

# the most items in a batch (a whole number >= 1 and <= 1_000_000)
# BATCH_MAX_SIZE = 100
# seconds a batch waits for more items (a number > 0 and <= 31_536_000)
# BATCH_TIMEOUT = 5
# the most bytes of a batch; a larger item is in one of its own; 0: no limit (a whole number >= 0 and <=
# 1_099_511_627_776)
# BATCH_MAX_BYTES = 0
# batches handled at once (a whole number >= 1 and <= 10_000)
# BATCH_MAX_CONCURRENT = 10
# the most unfinished items (a whole number >= 1 and <= 100_000_000)
# BATCH_MAX_PENDING = 10000
# seconds a handler may take for a batch; 0: no limit (a number >= 0 and <= 31_536_000)
# BATCH_HANDLER_TIMEOUT = 21600
# how often a failed batch is retried (a whole number >= 0 and <= 1_000)
# BATCH_MAX_RETRIES = 3
# the longest wait before the first retry, in seconds; doubled for each one after (a number > 0 and <=
# 31_536_000)
# BATCH_RETRY_BASE = 0.5
# the longest wait before any retry, in seconds (a number > 0 and <= 31_536_000)
# BATCH_RETRY_MAX = 30
# the longest wait that the retry_after of a handler's error gets, in seconds (a number > 0 and <=
# 31_536_000)
# BATCH_RETRY_AFTER_MAX = 3600
# after the last retry, halve a failed batch until only the failing items are given up (True or False)
# BATCH_ISOLATE_FAILURES = False
# search for the batch size with the shortest handler time per item (True or False)
# BATCH_ADAPTIVE = False
# seconds a stop waits for items to be handled (a number >= 0 and <= 31_536_000)
# BATCH_DRAIN_TIMEOUT = 10
# how long get_result can return a result, in seconds (a number > 0 and <= 31_536_000)
# BATCH_RESULT_TTL = 300
# the most results that are kept in memory (a whole number >= 1 and <= 100_000_000)
# BATCH_MAX_RESULTS = 10000
# the most dead letters that are kept (a whole number >= 1 and <= 100_000_000)
# BATCH_MAX_DEAD_LETTERS = 10000
# Redis URL for durable items that instances share; empty: items in memory (a string)
# BATCH_REDIS_URL = ""
# the queue in that Redis; instances with the same name share the work (1 to 100 letters, digits and _ .
# : -)
# BATCH_QUEUE_NAME = "default"
# seconds after which others take over the items of an instance that stopped (a number > 0 and <=
# 31_536_000)
# BATCH_LEASE = 30
# deliveries after which an item that crashes its process is given up (a whole number >= 1 and <=
# 1_000_000)
# BATCH_MAX_DELIVERIES = 5
# the most bytes of an item, or of a result, in Redis (a whole number >= 100 and <= 67_108_864)
# BATCH_MAX_ITEM_BYTES = 1048576

# Load balancer

# seconds between health checks; 0: none (a number >= 0 and <= 31_536_000)
# LOAD_BALANCER_CHECK_INTERVAL = 10
# seconds a health check may take (a number > 0 and <= 31_536_000)
# LOAD_BALANCER_CHECK_TIMEOUT = 2
# path that answers a health check with 2xx, such as /health; empty: TCP only (a path that begins with /
# and has no spaces, or an empty string)
# LOAD_BALANCER_CHECK_PATH = ""
# failed checks in a row after which an instance is unhealthy (a whole number >= 1 and <= 1_000)
# LOAD_BALANCER_FAILURE_THRESHOLD = 3
# successful checks in a row after which an instance is healthy again (a whole number >= 1 and <= 1_000)
# LOAD_BALANCER_RECOVERY_THRESHOLD = 5
# seconds one instance may take to answer a request (a number > 0 and <= 31_536_000)
# LOAD_BALANCER_REQUEST_TIMEOUT = 30
# seconds a request may take in total, with all failovers (a number > 0 and <= 31_536_000)
# LOAD_BALANCER_TOTAL_TIMEOUT = 60
# the most requests in progress at one instance; 0: no limit (a whole number >= 0 and <= 1_000_000)
# LOAD_BALANCER_MAX_CONCURRENT = 0
# failovers allowed, in percent of the requests of the last 10 to 20 seconds (a number >= 0 and <= 100)
# LOAD_BALANCER_RETRY_BUDGET_PERCENT = 20
# failovers per second that are allowed in addition (a number >= 0 and <= 1_000_000)
# LOAD_BALANCER_RETRY_BUDGET_MIN_PER_SECOND = 10
# failed requests in a row after which an instance is ejected (a whole number >= 1 and <= 100_000)
# LOAD_BALANCER_OUTLIER_FAILURES = 5
# percent of failed requests that ejects an instance, if twice the others' share (a number > 0 and <=
# 100)
# LOAD_BALANCER_OUTLIER_FAILURE_PERCENT = 30
# the fewest requests in the window for that percentage to count (a whole number >= 1 and <= 1_000_000)
# LOAD_BALANCER_OUTLIER_MIN_REQUESTS = 20
# window for that percentage: at least this many seconds, at most twice as many (a number > 0 and <=
# 31_536_000)
# LOAD_BALANCER_OUTLIER_WINDOW = 10
# duration of the first ejection in seconds; each further one is twice as long (a number > 0 and <=
# 31_536_000)
# LOAD_BALANCER_EJECTION_TIME = 30
# the longest ejection, in seconds (a number > 0 and <= 31_536_000)
# LOAD_BALANCER_EJECTION_MAX_TIME = 300
# the most instances ejected at a time, in percent; always at least one, never all (a number >= 0 and <=
# 100)
# LOAD_BALANCER_MAX_EJECTED_PERCENT = 50
# percent of healthy instances below which requests go to all instances (a number >= 0 and <= 100)
# LOAD_BALANCER_PANIC_PERCENT = 30
# seconds until a recovered instance gets its full share of requests; 0: at once (a number >= 0 and <=
# 31_536_000)
# LOAD_BALANCER_SLOW_START = 10
# send an idempotent request to a second instance too if it is slower than 95 % of all (True or False)
# LOAD_BALANCER_HEDGING = False
# how an instance is selected (one of 'round_robin', 'least_connections', 'weighted',
# 'weighted_round_robin', 'random', 'least_loaded')
# LOAD_BALANCER_STRATEGY = "round_robin"
# instances added at startup: [{id, address, port, weight, scheme}] (a list)
# LOAD_BALANCER_INSTANCES = []

# Outbound

# messages to a group or channel within its window (a whole number >= 1 and <= 100_000)
# OUTBOUND_GROUP_LIMIT = 20
# window of a group or channel in seconds (a number >= 0.001 and <= 86_400)
# OUTBOUND_GROUP_WINDOW = 60
# messages per second in a private chat after its burst (a number >= 0.001 and <= 1_000)
# OUTBOUND_CHAT_RATE = 1
# messages that may go to a private chat at once (a whole number >= 1 and <= 1_000)
# OUTBOUND_CHAT_BURST = 3
# messages to all chats within a second; answers do not wait (a whole number >= 1 and <= 100_000)
# OUTBOUND_BULK_LIMIT = 30
# messages of OUTBOUND_BULK_LIMIT that are reserved for answers; None: a tenth of them (a whole number
# >= 0 and <= 100_000 or None)
# OUTBOUND_BULK_RESERVE = None
# paid broadcasts to all chats within a second (a whole number >= 1 and <= 100_000)
# OUTBOUND_PAID_LIMIT = 1000
# limits of chat actions in a chat: a list of [number, seconds]; all of them apply (a list)
# OUTBOUND_TYPING_LIMITS = ((20, 5.0), (40, 30.0))
# do not send an edit if it is certain that it would not change the message (True or False)
# OUTBOUND_SKIP_EQUAL_EDITS = True
# whether edits share their chat's message limits or have separate ones of the same size (one of
# 'shared', 'separate')
# OUTBOUND_EDITS = "shared"
# Redis URL for limits that the instances of one bot share; empty: not shared (a string)
# OUTBOUND_REDIS_URL = ""
# the bot's id; instances with the same id share a budget in OUTBOUND_REDIS_URL (a string)
# OUTBOUND_BOT_ID = "default"
# the most waiting requests; a tenth more for answers (a whole number >= 1 and <= 100_000_000)
# OUTBOUND_MAX_PENDING = 10000
# the most requests in flight; a tenth is reserved for answers (a whole number >= 1 and <= 1_000_000)
# OUTBOUND_MAX_IN_FLIGHT = 100
# the longest flood wait to wait for, in seconds; a longer one raises an error at once (a number >= 0
# and <= 31_536_000)
# OUTBOUND_MAX_WAIT = 600
# seconds in which a stop still sends waiting requests (a number >= 0 and <= 31_536_000)
# OUTBOUND_DRAIN_TIMEOUT = 10
# where the progress of broadcasts is kept: an SQLite file, or a Redis URL; "": memory (a string)
# OUTBOUND_BROADCAST_STORE = "broadcasts.sqlite3"

# Redis, for all services

# what every key and channel in Redis begins with, for several bots on one Redis (1 to 64 of A-Z a-z 0-9
# . _ -, beginning with a letter or digit (a colon is put after it))
# PHASE4_KEY_PREFIX = ""
# seconds that one call to Redis may take before Redis counts as away (a number >= 0.5 and <= 60.0)
# PHASE4_REDIS_TIMEOUT = 1

# Dashboard

# port of the dashboard, /health and /metrics; 0: not served (a whole number >= 0 and <= 65_535)
# PHASE4_DASHBOARD_PORT = 0
# address to listen on; one that other machines can reach needs the token (an address such as 127.0.0.1,
# 0.0.0.0 or ::)
# PHASE4_DASHBOARD_HOST = "127.0.0.1"
# token for the dashboard and /metrics, at least 16 characters; empty: this machine only (a string)
# PHASE4_DASHBOARD_TOKEN = ""
# name of this bot on the dashboard; empty: the folder that it runs in (a string)
# PHASE4_DASHBOARD_NAME = ""
