-- Load for wrk: POST with events that are unique and cheap to make, and with copies of them.
--
--   wrk -t THREADS … -s bench/events.lua URL -- EVENTS TOKEN MS THREADS EVENTS_PER_REQUEST COPIES [TOKEN_BEFORE MS_BEFORE]
--
--   EVENTS              1,000 events of the simulator, one a line, each of another room
--   TOKEN               16 base-62 characters that no other run uses: the beginning of each id
--   MS                  the first event time, ms since 1970: now
--   THREADS             what wrk has as -t
--   EVENTS_PER_REQUEST  1: one event; more: a JSON array of so many
--   COPIES              of 100 requests so many (0 to 50) are an event sent before, byte for byte; only with one event a request
--   TOKEN_BEFORE, MS_BEFORE  TOKEN and MS of the run before this one, of whose events the first copies are; without them there
--                       are no copies in the first time round
--
-- Only ids and times are replaced. An id is event_ and 27 characters: the token, one digit for the thread, ten for the count.
-- A thread has rooms of its own and sends them in turn. Each time round, the event time moves on by one ms: no two events
-- share both room and time, and those of a room come in order of time, so a bridge that looks for repeats or for what is out
-- of order finds none. That clock starts with the real one and stays behind it below 1,000,000 events/s.
--
-- A copy is of what the same thread sent one time round before: hundreds of requests ago, so that the first is answered.
--
-- wrk runs on the machine that is being measured, so what can be done once a time round is not done for each: an event
-- is the concatenation of a few ready strings.

local ROOMS = 1000

local threads_set_up = {}

function setup(thread)
  thread:set("thread_number", #threads_set_up)
  table.insert(threads_set_up, thread)
end

local counts, heads, tails = {}, {}, {} -- by room: the last three digits of the id; the request's head; the event from behind the time on
local to_id, after_id -- what all events have around their ids
local threads, events_per_request, base_ms
local head_start -- up to the length
local now, before -- for `event`: what the events of this time round and of the one before have around their count
local token, round, room = nil, -1, nil
local parts = {}

-- What each event of one time round has before its count, and between it and its tail.
local function around(its_token, base_ms, its_round)
  return {
    to_id .. its_token .. thread_number .. string.format("%07d", its_round),
    after_id .. string.format("%.0f", base_ms + its_round),
  }
end

local function next_room()
  room = room + threads
  if room > ROOMS then
    round = round + 1
    room = thread_number + 1
    before, now = now or before, around(token, base_ms, round)
  end
end

local function event(of)
  return heads[room] .. of[1] .. counts[room] .. of[2] .. tails[room]
end

local function one()
  next_room()
  return event(now)
end

-- In turn with events that are new, so that both kinds are spread evenly.
local copies, owed = 0, 0
copied = 0 -- read in `done`

local function one_or_a_copy()
  if before then owed = owed + copies end
  if owed < 100 then return one() end
  owed = owed - 100
  copied = copied + 1
  return event(before)
end

local function many()
  local at = 1
  for n = 1, events_per_request do
    next_room()
    parts[at] = n > 1 and "," or "["
    parts[at + 1] = now[1]
    parts[at + 2] = counts[room]
    parts[at + 3] = now[2]
    parts[at + 4] = tails[room]
    at = at + 5
  end
  parts[at] = "]"
  local body = table.concat(parts)
  return head_start .. #body .. "\r\n\r\n" .. body
end

function init(args)
  token = args[2]
  assert(#token == 16, "the token must have 16 characters")
  base_ms = tonumber(args[3])
  threads = tonumber(args[4])
  events_per_request = tonumber(args[5])
  copies = tonumber(args[6])
  assert(thread_number < 10, "at most ten threads")
  assert(copies >= 0 and copies <= 50, "0 to 50 copies")
  head_start = string.format(
    "POST %s HTTP/1.1\r\nHost: %s:%s\r\nContent-Type: application/json\r\nContent-Length: ",
    wrk.path or "/", wrk.host, wrk.port)

  local n = 0
  for event in io.lines(args[1]) do
    n = n + 1
    local start, id, middle, time, tail = event:match('^({"id":"event_)(%w+)(".-"timestamp":)(%d+)(.*)$')
    assert(start and #id == 27 and #time == 13, "not an event of the simulator: " .. event)
    to_id, after_id = start, middle
    counts[n] = string.format("%03d", n - 1)
    heads[n] = head_start .. #event .. "\r\n\r\n"
    tails[n] = tail
  end
  assert(n == ROOMS, n .. " events, not " .. ROOMS)
  room = ROOMS -- the end of no time round
  if args[8] then before = around(args[7], tonumber(args[8]), 0) end
  request = events_per_request > 1 and many or copies > 0 and one_or_a_copy or one
end

-- One line that bench/run.py reads. Times in µs. wrk counts a request when its answer has come, within the duration only;
-- copies are counted when they are made, a few more than are sent.
function done(summary, latency, requests)
  local errors, all_copied = summary.errors, 0
  for _, thread in ipairs(threads_set_up) do all_copied = all_copied + thread:get("copied") end
  io.write(string.format(
    'BENCH {"requests":%d,"copies":%d,"duration_us":%d,"p50_us":%.0f,"p99_us":%.0f,"max_us":%.0f,' ..
    '"errors":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\n',
    summary.requests, all_copied, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
