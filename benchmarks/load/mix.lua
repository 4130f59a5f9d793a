-- The load of benchmarks.load.wrk: requests of a file, in turn, and what the service says of their data.
-- LuaJIT inside wrk: one copy of this file's state in each thread.

local threads = {}
local count, requests, place = 0, {}, 0

-- Milliseconds in classes of 2 %, so that percentiles of millions of answers take a small table.
local STEP = math.log(1.02)
classes, data_count, data_sum, hits, misses, statuses = {}, 0, 0, 0, 0, {}

function setup(thread)
  thread:set("first", #threads)
  table.insert(threads, thread)
end

function init(args)
  local file = assert(io.open(args[1], "rb"))
  while true do
    local length = file:read("*n")
    if not length then break end
    file:read(1)
    count = count + 1
    requests[count] = file:read(length)
  end
  file:close()
  assert(count > 0, "no requests in " .. args[1])
  -- Threads begin at different places, so that they do not ask the same at the same time.
  place = math.floor(first * count / tonumber(args[2]))
end

function request()
  place = place % count + 1
  return requests[place]
end

function response(status, headers, body)
  statuses[status] = (statuses[status] or 0) + 1
  local timing = headers["Server-Timing"]
  local ms = timing and tonumber(timing:match("data;dur=([%d.]+)"))
  if not ms or status >= 300 then return end
  data_count, data_sum = data_count + 1, data_sum + ms
  local class = math.floor(math.log(math.max(ms, 0.001) * 1000) / STEP)
  classes[class] = (classes[class] or 0) + 1
  local cache = headers["X-Cache"]
  if cache == "hit" then hits = hits + 1 elseif cache == "miss" then misses = misses + 1 end
end

local function percentile(merged, total, share)
  local order, seen = {}, 0
  for class in pairs(merged) do table.insert(order, class) end
  table.sort(order)
  for _, class in ipairs(order) do
    seen = seen + merged[class]
    if seen > total * share then return math.exp((class + 0.5) * STEP) / 1000 end
  end
  return 0
end

function done(summary, latency, _)
  local merged, total, sum, all_hits, all_misses, by_status = {}, 0, 0, 0, 0, {}
  for _, thread in ipairs(threads) do
    for class, n in pairs(thread:get("classes")) do merged[class] = (merged[class] or 0) + n end
    for status, n in pairs(thread:get("statuses")) do by_status[status] = (by_status[status] or 0) + n end
    total, sum = total + thread:get("data_count"), sum + thread:get("data_sum")
    all_hits, all_misses = all_hits + thread:get("hits"), all_misses + thread:get("misses")
  end
  local shown = {}
  for status, n in pairs(by_status) do table.insert(shown, string.format('"%d": %d', status, n)) end
  local errors = summary.errors
  print(string.format(
    '\n{"seconds": %.6f, "answered": %d, "statuses": {%s}, "cache": {"hit": %d, "miss": %d}, '
      .. '"broken": %d, "unanswered": %d, '
      .. '"response_ms": {"count": %d, "mean": %.6f, "p50": %.6f, "p99": %.6f}, '
      .. '"query_ms": {"count": %d, "mean": %.6f, "p50": %.6f, "p99": %.6f}}',
    summary.duration / 1e6, summary.requests, table.concat(shown, ", "), all_hits, all_misses,
    errors.connect + errors.read + errors.write, errors.timeout,
    summary.requests, latency.mean / 1e3, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    total, total > 0 and sum / total or 0, percentile(merged, total, 0.5), percentile(merged, total, 0.99)))
end
