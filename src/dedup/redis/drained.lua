-- An event that was on a replica's disk is in Kafka.
--
-- KEYS: the id (of a conflict, its own one); where it became the current value of an occupancy that value and the hold on it
-- ARGV: token, reading, the id under which it was published, the id of a current value that the same replica gets into Kafka
--       after it (may be empty)
-- Layouts: see claim.lua.
--
-- It lies behind all that is in Kafka. So where another reading is the current one, or where another replica is about to store
-- one, nobody knows which of them Kafka has last, and neither is relied on.
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
