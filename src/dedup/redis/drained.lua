-- A spooled event is now in Kafka.
--
-- KEYS: the id (or the id of a conflict); if the event became the current value of an occupancy,
--       also that value and the hold on it
-- ARGV: token; reading; the id under which it was published; the id of a current value that the
--       same replica drains after it (may be empty)
-- Layouts: see claim.lua.
--
-- The event lies behind everything in Kafka. If another reading is the current value, or another
-- replica is about to store one, it is unknown which of them Kafka has last, so neither is trusted.
local none = string.rep('\0', 8)
local call, sub = redis.call, string.sub
local known = call('GET', KEYS[1])
if known == '1s' .. ARGV[2] then
  call('SETRANGE', KEYS[1], 1, 'p')
end
if KEYS[2] then
  local current, hold = unpack(call('MGET', KEYS[2], KEYS[3]))
  if current and sub(current, 1, 1) == '1' then
    local id = sub(current, 30)
    if id ~= ARGV[3] and id ~= ARGV[4] and sub(current, 2, 9) ~= ARGV[2] then
      call('SETRANGE', KEYS[2], 21, none)
    end
  end
  if hold and sub(hold, 1, 8) ~= sub(ARGV[1], 1, 8) then
    call('SETRANGE', KEYS[3], 16, none .. none)
  end
end
return 1
