-- An event is in doubt: it may be stored, now or later. Its id is released, and no current value is
-- trusted.
--
-- KEYS: the id; the id of a conflict; the current value and the hold on it
-- ARGV: token; ms for which a hold is remembered
-- Layouts: see claim.lua.
local none = string.rep('\0', 8)
local call, sub = redis.call, string.sub
for index = 1, 2 do
  if call('GET', KEYS[index]) == '1u' .. ARGV[1] then
    call('DEL', KEYS[index])
  end
end
local current, hold = unpack(call('MGET', KEYS[3], KEYS[4]))
if current and sub(current, 1, 1) == '1' then
  call('SETRANGE', KEYS[3], 21, none)
end
if hold and sub(hold, 1, 16) ~= ARGV[1] then
  call('SETRANGE', KEYS[4], 16, none .. none)
else
  -- The hold is over but remembered: this event may still be stored after the next one.
  call('SET', KEYS[4], ARGV[1] .. none .. none .. none, 'PX', ARGV[2])
end
return 1
