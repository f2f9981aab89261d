-- An event was not stored: its keys are released, and the current value is trusted as before.
--
-- KEYS: the id; the id of a conflict; for an occupancy also its current value and the hold on it
-- ARGV: token
-- Layouts: see claim.lua.
local none = string.rep('\0', 8)
local call, sub = redis.call, string.sub
for index = 1, 2 do
  if call('GET', KEYS[index]) == '1u' .. ARGV[1] then
    call('DEL', KEYS[index])
  end
end
local hold = KEYS[3] and call('GET', KEYS[4])
if hold and sub(hold, 1, 16) == ARGV[1] then
  if sub(hold, 17, 24) == none then
    call('SETRANGE', KEYS[4], 32, none)
  else
    call('DEL', KEYS[4])
    local current = call('GET', KEYS[3])
    if current and sub(current, 1, 1) == '1' then
      call('SETRANGE', KEYS[3], 21, sub(hold, 25, 32))
    end
  end
end
return 1
