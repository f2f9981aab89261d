-- An event is still undecided: its keys stay held.
--
-- KEYS: the id (or the id of a conflict); for an occupancy also the hold on its current value
-- ARGV: token; lease in ms; ms for which a hold is remembered
-- Layouts: see claim.lua.
local call = redis.call
local mine, value = '1u' .. ARGV[1], call('GET', KEYS[1])
-- If Redis has lost the id and it is free, take it again, so that copies wait.
if not value or value == mine then
  call('SET', KEYS[1], mine, 'PX', ARGV[2])
end
-- A lost hold is not taken again: another value may have been stored meanwhile.
local hold = KEYS[2] and call('GET', KEYS[2])
if hold and string.sub(hold, 1, 16) == ARGV[1] then
  local time = call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  call('SETRANGE', KEYS[2], 32, struct.pack('<d', now + ARGV[2]))
  call('PEXPIRE', KEYS[2], ARGV[3])
end
return 1
