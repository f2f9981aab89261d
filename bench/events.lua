-- Script for wrk: posts unique events that are cheap to make, and copies of them.
--
--   wrk -t THREADS … -s bench/events.lua URL -- EVENTS PREFIX MS THREADS BATCH COPIES [PREFIX_BEFORE MS_BEFORE]
--
--   EVENTS   file with 1,000 events of the simulator, one per line, each of another room
--   PREFIX   first 16 characters (base 62) of each id; unique to the run
--   MS       time of the first events, ms since 1970: now
--   THREADS  same as wrk's -t
--   BATCH    1: one event per request; more: a JSON array of this many
--   COPIES   percentage of requests (0 to 50) that repeat an earlier event byte for byte; needs
--            BATCH 1
--   PREFIX_BEFORE, MS_BEFORE
--            PREFIX and MS of the previous run, whose events are copied first; without them the first
--            pass has no copies
--
-- Only ids and times change. An id is event_ and 27 characters: the prefix, one digit for the thread
-- and ten for the count. Each thread has its own rooms and sends them in turn; one turn of all its
-- rooms is a pass. The event time grows by 1 ms with each pass, so no two events share room and time,
-- and a room's events come in order of time: the bridge finds no repeats and nothing out of order. The
-- event time starts now and stays behind the clock below 1,000,000 events/s.
--
-- A copy repeats what its thread sent one pass before: hundreds of requests ago, so it is answered.
--
-- wrk shares the machine with the measured program. Work is done once per pass where possible; an
-- event is the concatenation of a few prepared strings.

local ROOMS = 1000

local all_threads = {}

function setup(thread)
  thread:set("thread_number", #all_threads)
  table.insert(all_threads, thread)
end

-- By room: the last three digits of the id, the head of the request, the event after its time.
local counts, heads, tails = {}, {}, {}
local before_id, after_id -- text around the id, the same in all events
local threads, batch, base_ms
local head_start -- of the request, up to the length
local this_pass, last_pass -- see `pass_texts`
local prefix, pass, room = nil, -1, nil
local parts = {}

-- Texts that all events of a pass share: before the count, and between the count and the tail.
local function pass_texts(prefix, base_ms, pass)
  return {
    before_id .. prefix .. thread_number .. string.format("%07d", pass),
    after_id .. string.format("%.0f", base_ms + pass),
  }
end

local function next_room()
  room = room + threads
  if room > ROOMS then
    pass = pass + 1
    room = thread_number + 1
    last_pass, this_pass = this_pass or last_pass, pass_texts(prefix, base_ms, pass)
  end
end

local function request_of(texts)
  return heads[room] .. texts[1] .. counts[room] .. texts[2] .. tails[room]
end

local function new_event()
  next_room()
  return request_of(this_pass)
end

-- Spreads copies evenly among new events.
local copies, owed = 0, 0
copied = 0 -- global, because `done` reads it

local function new_event_or_copy()
  if last_pass then owed = owed + copies end
  if owed < 100 then return new_event() end
  owed = owed - 100
  copied = copied + 1
  return request_of(last_pass)
end

local function new_batch()
  local at = 1
  for n = 1, batch do
    next_room()
    parts[at] = n > 1 and "," or "["
    parts[at + 1] = this_pass[1]
    parts[at + 2] = counts[room]
    parts[at + 3] = this_pass[2]
    parts[at + 4] = tails[room]
    at = at + 5
  end
  parts[at] = "]"
  local body = table.concat(parts)
  return head_start .. #body .. "\r\n\r\n" .. body
end

function init(args)
  prefix = args[2]
  assert(#prefix == 16, "PREFIX must have 16 characters")
  base_ms = tonumber(args[3])
  threads = tonumber(args[4])
  batch = tonumber(args[5])
  copies = tonumber(args[6])
  assert(thread_number < 10, "at most ten threads")
  assert(copies >= 0 and copies <= 50, "0 to 50 percent copies")
  head_start = string.format(
    "POST %s HTTP/1.1\r\nHost: %s:%s\r\nContent-Type: application/json\r\nContent-Length: ",
    wrk.path or "/", wrk.host, wrk.port)

  local n = 0
  for event in io.lines(args[1]) do
    n = n + 1
    local start, id, middle, time, tail = event:match('^({"id":"event_)(%w+)(".-"timestamp":)(%d+)(.*)$')
    assert(start and #id == 27 and #time == 13, "not an event of the simulator: " .. event)
    before_id, after_id = start, middle
    counts[n] = string.format("%03d", n - 1)
    heads[n] = head_start .. #event .. "\r\n\r\n"
    tails[n] = tail
  end
  assert(n == ROOMS, n .. " events, not " .. ROOMS)
  room = ROOMS -- so that the first event begins a pass
  if args[8] then last_pass = pass_texts(args[7], tonumber(args[8]), 0) end
  request = batch > 1 and new_batch or copies > 0 and new_event_or_copy or new_event
end

-- Prints one line for bench/harness.py, times in µs. wrk counts a request once it is answered, within
-- the duration; copies are counted when they are made, so a few of them may not be sent.
function done(summary, latency, requests)
  local errors, all_copied = summary.errors, 0
  for _, thread in ipairs(all_threads) do all_copied = all_copied + thread:get("copied") end
  io.write(string.format(
    'BENCH {"requests":%d,"copies":%d,"duration_us":%d,"p50_us":%.0f,"p99_us":%.0f,"max_us":%.0f,' ..
    '"errors":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\n',
    summary.requests, all_copied, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
