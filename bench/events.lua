-- Load for wrk: POST with events that are unique, cheap to make and all of one length.
--
--   wrk -t THREADS … -s bench/events.lua URL -- TEMPLATE TOKEN THREADS EVENTS_PER_REQUEST
--
--   TEMPLATE            bench/event.template
--   TOKEN               16 base-62 characters that no other run uses: the beginning of each id
--   THREADS             what wrk has as -t
--   EVENTS_PER_REQUEST  1: one event; more: a JSON array of so many
--
-- An id is event_ and 27 characters: the token, one digit for the thread, ten for the count. A thread sends rooms 0 to 999 in turn.
-- Each time round, the event time moves on by one ms per thread, so that no two events share both room and time: a bridge that looks
-- for repeats finds none. That clock starts with the real one and stays behind it below 1,000,000 events/s.
--
-- wrk runs on the machine that is being measured, so what can be done once per thousand events is not done for each: an event
-- is the concatenation of four ready strings.

local ROOMS = 1000

local threads_set_up = 0

function setup(thread)
  thread:set("thread_number", threads_set_up)
  threads_set_up = threads_set_up + 1
end

local counts, tails = {}, {} -- by room: the last three digits of the id; the event from behind the time on
local id_start, id_end -- what an event has around its id
local base_ms, threads, events_per_request
local head -- of the request
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
  return head .. before .. counts[room] .. between .. tails[room]
end

local function many()
  parts[1] = head .. "["
  local at = 2
  for n = 1, events_per_request do
    if room == ROOMS then next_thousand() end
    room = room + 1
    parts[at] = before
    parts[at + 1] = counts[room]
    parts[at + 2] = between
    parts[at + 3] = tails[room]
    parts[at + 4] = n < events_per_request and "," or "]"
    at = at + 5
  end
  return table.concat(parts)
end

function init(args)
  local file = assert(io.open(args[1], "r"))
  local template = file:read("*l")
  file:close()
  local token = args[2]
  assert(#token == 16, "the token must have 16 characters")
  threads = tonumber(args[3])
  events_per_request = tonumber(args[4])
  assert(thread_number < 10, "at most ten threads")
  base_ms = os.time() * 1000

  local to_id, after_id, tail = template:match("^(.*){id}(.*){timestamp}(.*)$")
  id_start = to_id .. token .. thread_number
  id_end = after_id
  for n = 1, ROOMS do
    counts[n] = string.format("%03d", n - 1)
    tails[n] = tail:gsub("{room}", string.format("%04d", n - 1)):gsub("{data}", tostring(n % 10))
  end

  local event_length = #to_id + 27 + #after_id + 13 + #tails[1]
  local length = event_length
  if events_per_request > 1 then length = events_per_request * (event_length + 1) + 1 end
  local path = wrk.path or "/"
  head = string.format(
    "POST %s HTTP/1.1\r\nHost: %s:%s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n",
    path, wrk.host, wrk.port, length)
  request = events_per_request > 1 and many or one

  local sample = request()
  assert(#sample == #head + length, "events differ in length from what Content-Length says")
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
