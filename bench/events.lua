-- Load for wrk: POST with events that are unique and cheap to make.
--
--   wrk -t THREADS … -s bench/events.lua URL -- EVENTS TOKEN THREADS EVENTS_PER_REQUEST
--
--   EVENTS              1,000 events of the simulator, one a line, each of another room
--   TOKEN               16 base-62 characters that no other run uses: the beginning of each id
--   THREADS             what wrk has as -t
--   EVENTS_PER_REQUEST  1: one event; more: a JSON array of so many
--
-- Only ids and times are replaced. An id is event_ and 27 characters: the token, one digit for the thread, ten for the count. A thread
-- sends the rooms in turn. Each time round, the event time moves on by one ms per thread, so that no two events share both room and time: a bridge that looks
-- for repeats finds none. That clock starts with the real one and stays behind it below 1,000,000 events/s.
--
-- wrk runs on the machine that is being measured, so what can be done once per thousand events is not done for each: an event
-- is the concatenation of a few ready strings.

local ROOMS = 1000

local threads_set_up = 0

function setup(thread)
  thread:set("thread_number", threads_set_up)
  threads_set_up = threads_set_up + 1
end

local counts, heads, tails = {}, {}, {} -- by room: the last three digits of the id; the request's head; the event from behind the time on
local id_start, id_end -- what an event has around its id
local base_ms, threads, events_per_request
local head_start -- up to the length
local before, between -- what the events of the current thousand have before their count, and between it and their tail
local thousand, room = -1, ROOMS
local parts = {}

local function next_thousand()
  thousand = thousand + 1
  room = 0
  before = id_start .. string.format("%07d", thousand)
  between = id_end .. string.format("%.0f", base_ms + thousand * threads + thread_number)
end

local function one()
  if room == ROOMS then next_thousand() end
  room = room + 1
  return heads[room] .. before .. counts[room] .. between .. tails[room]
end

local function many()
  local at = 1
  for n = 1, events_per_request do
    if room == ROOMS then next_thousand() end
    room = room + 1
    parts[at] = n > 1 and "," or "["
    parts[at + 1] = before
    parts[at + 2] = counts[room]
    parts[at + 3] = between
    parts[at + 4] = tails[room]
    at = at + 5
  end
  parts[at] = "]"
  local body = table.concat(parts)
  return head_start .. #body .. "\r\n\r\n" .. body
end

function init(args)
  local token = args[2]
  assert(#token == 16, "the token must have 16 characters")
  threads = tonumber(args[3])
  events_per_request = tonumber(args[4])
  assert(thread_number < 10, "at most ten threads")
  base_ms = os.time() * 1000
  head_start = string.format(
    "POST %s HTTP/1.1\r\nHost: %s:%s\r\nContent-Type: application/json\r\nContent-Length: ",
    wrk.path or "/", wrk.host, wrk.port)

  local n = 0
  for event in io.lines(args[1]) do
    n = n + 1
    local to_id, id, after_id, time, tail = event:match('^({"id":"event_)(%w+)(".-"timestamp":)(%d+)(.*)$')
    assert(to_id and #id == 27 and #time == 13, "not an event of the simulator: " .. event)
    id_start = to_id .. token .. thread_number
    id_end = after_id
    counts[n] = string.format("%03d", n - 1)
    heads[n] = head_start .. #event .. "\r\n\r\n"
    tails[n] = tail
  end
  assert(n == ROOMS, n .. " events, not " .. ROOMS)
  request = events_per_request > 1 and many or one
end

-- One line that bench/run.py reads. Times in µs. wrk counts a request when its answer has come, within the duration only.
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'BENCH {"requests":%d,"duration_us":%d,"p50_us":%.0f,"p99_us":%.0f,"max_us":%.0f,' ..
    '"errors":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
