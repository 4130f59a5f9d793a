"""Phase 4 settings of this bot. Every setting is listed; a commented one has the default shown.

The environment variable of the same name wins over this file, and the dict given to
``initialize_phase4_services`` over both; this file wins over the bot's ``config.py`` and
``config/main_config.py``. On is the minimal profile: optimizer and limiter.
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
# switch flood control of what is sent to Telegram on (True or False)
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
# seconds after which a read that callers share is given up; 0: never (a number >= 0 and <= 31_536_000)
# QUERY_OPTIMIZER_QUERY_TIMEOUT = 120
# watch for the N+1 query pattern (True or False)
# QUERY_OPTIMIZER_DETECT_N_PLUS_ONE = True
# SQL dialect of analysed queries; empty: generic (one of '', 'postgres', 'mysql', 'sqlite')
# QUERY_OPTIMIZER_DIALECT = ""
# how many different values of one query in a request are an N+1 pattern (a whole number >= 2 and <=
# 10_000)
# QUERY_OPTIMIZER_N_PLUS_ONE_THRESHOLD = 10
# seconds within which those queries must run (a number > 0 and <= 31_536_000)
# QUERY_OPTIMIZER_N_PLUS_ONE_WINDOW = 2
# views: name -> tables whose writes change it (a dict)
# QUERY_OPTIMIZER_VIEWS = {}
# table -> tables that a write to it changes too, by trigger, foreign key or partition (a dict)
# QUERY_OPTIMIZER_CASCADES = {}
# the database's own functions that change nothing and depend on their arguments alone (a list)
# QUERY_OPTIMIZER_PURE_FUNCTIONS = []
# name of the pool in DATABASE_POOLS that explains analysed SELECTs; empty: none (a string)
# QUERY_OPTIMIZER_EXPLAIN_POOL = ""
# the longest that the analysis of a new query waits for its plan, in seconds (a number > 0 and <=
# 31_536_000)
# QUERY_OPTIMIZER_EXPLAIN_TIMEOUT = 2
# the most fields from the root of a GraphQL operation down (a whole number >= 1 and <= 1_000)
# QUERY_OPTIMIZER_GRAPHQL_MAX_DEPTH = 50
# the most fields that a GraphQL operation may ask for, lists counted by their page size (a whole number
# >= 1 and <= 100_000_000)
# QUERY_OPTIMIZER_GRAPHQL_MAX_COMPLEXITY = 10000

# Cache manager

# MB of memory for the first tier (a number > 0 and <= 1_000_000)
# CACHE_L1_MAX_SIZE_MB = 100
# the most entries in the first tier (a whole number >= 1 and <= 100_000_000)
# CACHE_L1_MAX_ENTRIES = 10000
# how a full first tier chooses which entry it evicts (one of 's3fifo', 'lru')
# CACHE_EVICTION_POLICY = "s3fifo"
# seconds an entry lives when no ttl is given (a number > 0 and <= 31_536_000)
# CACHE_DEFAULT_TTL = 300
# seconds a load may take; 0: any time (a number >= 0 and <= 31_536_000)
# CACHE_LOAD_TIMEOUT = 120
# compress large values in Redis (True or False)
# CACHE_COMPRESSION_ENABLED = True
# Redis of the second tier, also redis+cluster://; empty: first tier only (a string)
# CACHE_L2_REDIS_URL = ""
# refresh warmed keys in the background (True or False)
# ENABLE_CACHE_WARMING = False
# seconds between refreshes of a warmed key when none is given (a number > 0 and <= 31_536_000)
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
# the longest that opening a connection takes, in seconds (a number > 0 and <= 31_536_000)
# POOL_CONNECT_TIMEOUT = 10
# seconds of quiet after which an idle connection is pinged (a number > 0 and <= 31_536_000)
# POOL_KEEPALIVE_INTERVAL = 120
# seconds after which a connection on loan is reported as leaked; 0: never (a number >= 0 and <=
# 31_536_000)
# POOL_LEAK_THRESHOLD = 60
# seconds after which a call on a connection has failed, as on a silent one; 0: never (a number >= 0 and
# <= 31_536_000)
# POOL_QUERY_TIMEOUT = 60
# MongoDB of pools that name no url (a string)
# MONGODB_URL = ""
# postgresql://, mysql:// or sqlite:// database of pools that name no url (a string)
# DATABASE_URL = ""
# Redis of pools that name no url, and of the cache's second tier (a string)
# REDIS_URL = ""
# pools created at startup: name -> {backend, url, min_size, max_size, options} (a dict)
# DATABASE_POOLS = {}

# Rate limiter

# requests per second of a client (a number >= 0.000000001 and <= 1_000_000_000_000)
# RATE_LIMIT_DEFAULT_RPS = 10
# requests a client may make at once (a whole number >= 1 and <= 1_000_000_000)
# RATE_LIMIT_BURST_SIZE = 50
# limits by tier: name -> {requests_per_second, burst_size, backoff} (a dict)
# RATE_LIMITS = {}
# make clients that retry too early, again and again, wait longer (True or False)
# RATE_LIMIT_BACKOFF = True
# seconds since its first refusal in which a client cannot retry too early (a number >= 0 and <=
# 31_536_000)
# RATE_LIMIT_BACKOFF_GRACE = 1
# seconds a client waits that retried too early; doubled each time (a number >= 0.000001 and <=
# 31_536_000)
# RATE_LIMIT_BACKOFF_BASE = 2
# the longest such a wait grows to, in seconds (a number >= 0.000001 and <= 31_536_000)
# RATE_LIMIT_BACKOFF_MAX = 3600
# Redis that shares limits between instances; empty: local (a string)
# RATE_LIMIT_REDIS_URL = ""

# Batch processor

# the most items in a batch (a whole number >= 1 and <= 1_000_000)
# BATCH_MAX_SIZE = 100
# seconds a batch waits for more items (a number > 0 and <= 31_536_000)
# BATCH_TIMEOUT = 5
# batches handled at once (a whole number >= 1 and <= 10_000)
# BATCH_MAX_CONCURRENT = 10
# the most items that have not ended (a whole number >= 1 and <= 100_000_000)
# BATCH_MAX_PENDING = 10000
# seconds a handler may take for a batch; 0: any time (a number >= 0 and <= 31_536_000)
# BATCH_HANDLER_TIMEOUT = 21600
# how often a batch is retried whose handler failed (a whole number >= 0 and <= 1_000)
# BATCH_MAX_RETRIES = 3
# the longest wait before the first retry, in seconds; doubled for each one after (a number > 0 and <=
# 31_536_000)
# BATCH_RETRY_BASE = 0.5
# the longest wait before any retry, in seconds (a number > 0 and <= 31_536_000)
# BATCH_RETRY_MAX = 30
# halve a batch that has no tries left until only the items that make it fail are given up (True or
# False)
# BATCH_ISOLATE_FAILURES = False
# search for the batch size at which an item takes the handler the least time (True or False)
# BATCH_ADAPTIVE = False
# seconds a stop waits for items to be handled (a number >= 0 and <= 31_536_000)
# BATCH_DRAIN_TIMEOUT = 10
# how long get_result can return a result, in seconds (a number > 0 and <= 31_536_000)
# BATCH_RESULT_TTL = 300
# the most results that are kept in memory (a whole number >= 1 and <= 100_000_000)
# BATCH_MAX_RESULTS = 10000
# the most items given up that are kept (a whole number >= 1 and <= 100_000_000)
# BATCH_MAX_DEAD_LETTERS = 10000
# Redis that keeps items until they have ended, for all instances; empty: in memory (a string)
# BATCH_REDIS_URL = ""
# the queue in that Redis; instances with the same name share the work (1 to 100 letters, digits and _ .
# : -)
# BATCH_QUEUE_NAME = "default"
# seconds after which other instances take over the items of a silent one (a number > 0 and <=
# 31_536_000)
# BATCH_LEASE = 30
# how many instances may end while they have an item before it is given up (a whole number >= 1 and <=
# 1_000_000)
# BATCH_MAX_DELIVERIES = 5
# the most bytes of an item, or of a result, in Redis (a whole number >= 100 and <= 67_108_864)
# BATCH_MAX_ITEM_BYTES = 1048576

# Load balancer

# seconds between health checks; 0: none (a number >= 0 and <= 31_536_000)
# LOAD_BALANCER_CHECK_INTERVAL = 10
# seconds a health check may take (a number > 0 and <= 31_536_000)
# LOAD_BALANCER_CHECK_TIMEOUT = 2
# path that answers a health check with 2xx, such as /health; empty: a TCP connect (a path that begins
# with / and has no spaces, or an empty string)
# LOAD_BALANCER_CHECK_PATH = ""
# failed checks in a row that take an instance out (a whole number >= 1 and <= 1_000)
# LOAD_BALANCER_FAILURE_THRESHOLD = 3
# good checks in a row that bring an instance back (a whole number >= 1 and <= 1_000)
# LOAD_BALANCER_RECOVERY_THRESHOLD = 5
# seconds one instance may take to answer a request (a number > 0 and <= 31_536_000)
# LOAD_BALANCER_REQUEST_TIMEOUT = 30
# seconds a request may take in all, failovers included (a number > 0 and <= 31_536_000)
# LOAD_BALANCER_TOTAL_TIMEOUT = 60
# the most requests in progress at one instance; 0: no limit (a whole number >= 0 and <= 1_000_000)
# LOAD_BALANCER_MAX_CONCURRENT = 0
# failovers allowed, in percent of the requests of the last 10 to 20 seconds (a number >= 0 and <= 100)
# LOAD_BALANCER_RETRY_BUDGET_PERCENT = 20
# failovers per second allowed besides that share (a number >= 0 and <= 1_000_000)
# LOAD_BALANCER_RETRY_BUDGET_MIN_PER_SECOND = 10
# failed requests in a row that eject an instance (a whole number >= 1 and <= 100_000)
# LOAD_BALANCER_OUTLIER_FAILURES = 5
# percent of failed requests that ejects an instance, if at least twice the others' (a number > 0 and <=
# 100)
# LOAD_BALANCER_OUTLIER_FAILURE_PERCENT = 30
# requests an instance must have had for that percentage (a whole number >= 1 and <= 1_000_000)
# LOAD_BALANCER_OUTLIER_MIN_REQUESTS = 20
# seconds of requests that the percentage is taken from: at least these, at most twice as many (a number
# > 0 and <= 31_536_000)
# LOAD_BALANCER_OUTLIER_WINDOW = 10
# seconds of the first ejection; each further one is twice as long (a number > 0 and <= 31_536_000)
# LOAD_BALANCER_EJECTION_TIME = 30
# the longest ejection, in seconds (a number > 0 and <= 31_536_000)
# LOAD_BALANCER_EJECTION_MAX_TIME = 300
# the most instances ejected at a time, in percent; one may always be, all of them never (a number >= 0
# and <= 100)
# LOAD_BALANCER_MAX_EJECTED_PERCENT = 50
# percent of healthy instances below which requests go to all of them (a number >= 0 and <= 100)
# LOAD_BALANCER_PANIC_PERCENT = 30
# seconds in which an instance that is back grows to its full share of requests; 0: at once (a number >=
# 0 and <= 31_536_000)
# LOAD_BALANCER_SLOW_START = 10
# send an idempotent request to a second instance when it takes longer than 95 % do (True or False)
# LOAD_BALANCER_HEDGING = False
# how an instance is chosen (one of 'round_robin', 'least_connections', 'weighted',
# 'weighted_round_robin', 'random', 'least_loaded')
# LOAD_BALANCER_STRATEGY = "round_robin"
# instances added at startup: [{id, address, port, weight, scheme}] (a list)
# LOAD_BALANCER_INSTANCES = []

# Outbound

# messages in a group or channel within its window (a whole number >= 1 and <= 100_000)
# OUTBOUND_GROUP_LIMIT = 20
# seconds of a group's window (a number >= 0.001 and <= 86_400)
# OUTBOUND_GROUP_WINDOW = 60
# messages per second in a private chat after its burst (a number >= 0.001 and <= 1_000)
# OUTBOUND_CHAT_RATE = 1
# messages that may go to a private chat at once (a whole number >= 1 and <= 1_000)
# OUTBOUND_CHAT_BURST = 3
# messages to all chats within a second; answers do not wait (a whole number >= 1 and <= 100_000)
# OUTBOUND_BULK_LIMIT = 30
# messages of OUTBOUND_BULK_LIMIT that are kept for answers; None: a tenth of them (a whole number >= 0
# and <= 100_000 or None)
# OUTBOUND_BULK_RESERVE = None
# paid broadcasts to all chats within a second (a whole number >= 1 and <= 100_000)
# OUTBOUND_PAID_LIMIT = 1000
# chat actions in a chat: a list of [number, seconds], which hold all at once (a list)
# OUTBOUND_TYPING_LIMITS = ((20, 5.0), (40, 30.0))
# leave out an edit when this process is sure that the message shows that content already (True or
# False)
# OUTBOUND_SKIP_EQUAL_EDITS = True
# whether edits count with their chat's messages or have the same limits for themselves (one of
# 'shared', 'separate')
# OUTBOUND_EDITS = "shared"
# Redis through which instances of one bot keep the limits together; empty: each its own (a string)
# OUTBOUND_REDIS_URL = ""
# the bot's id; instances with the same one share a budget in OUTBOUND_REDIS_URL (a string)
# OUTBOUND_BOT_ID = "default"
# the most requests that wait; a tenth more for answers (a whole number >= 1 and <= 100_000_000)
# OUTBOUND_MAX_PENDING = 10000
# the most requests sent at once; a tenth is kept for answers (a whole number >= 1 and <= 1_000_000)
# OUTBOUND_MAX_IN_FLIGHT = 100
# the longest penalty that is waited for, in seconds; a longer one raises at once (a number >= 0 and <=
# 31_536_000)
# OUTBOUND_MAX_WAIT = 600
# seconds a stop waits for requests that wait (a number >= 0 and <= 31_536_000)
# OUTBOUND_DRAIN_TIMEOUT = 10
# progress of broadcasts: an SQLite file (made by the first one) or a Redis; "": in memory (a string)
# OUTBOUND_BROADCAST_STORE = "broadcasts.sqlite3"

# Dashboard

# port of the dashboard, /health and /metrics; 0: they are not served (a whole number >= 0 and <=
# 65_535)
# PHASE4_DASHBOARD_PORT = 0
# address it is served on; one that other machines reach needs the token (an address such as 127.0.0.1,
# 0.0.0.0 or ::)
# PHASE4_DASHBOARD_HOST = "127.0.0.1"
# what the dashboard and /metrics ask for, at least 16 characters; empty: this machine only (a string)
# PHASE4_DASHBOARD_TOKEN = ""
# what the dashboard calls this bot; empty: the folder that it runs in (a string)
# PHASE4_DASHBOARD_NAME = ""
