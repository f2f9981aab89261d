-- Nobody knows whether an event is stored, or will be: it is free for others, and no current value is relied on.
--
-- KEYS: the id; the id of a conflict; its current value and the hold on it
-- ARGV: token, ms a hold is remembered
-- Layouts: see claim.lua.
local none = string.rep('\0', 8)
local call, sub = redis.call, string.sub
for place = 1, 2 do
  if call('GET', KEYS[place]) == '1u' .. ARGV[1] then
    call('DEL', KEYS[place])
  end
end
local current, hold = unpack(call('MGET', KEYS[3], KEYS[4]))
if current and sub(current, 1, 1) == '1' then
  call('SETRANGE', KEYS[3], 21, none)
end
if hold and sub(hold, 1, 16) ~= ARGV[1] then
  call('SETRANGE', KEYS[4], 16, none .. none)
else
  -- Over, but remembered: whoever is next may be overtaken by it.
  call('SET', KEYS[4], ARGV[1] .. none .. none .. none, 'PX', ARGV[2])
end
return 1
