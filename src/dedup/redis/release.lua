-- An event was not stored: what is held for it is free.
--
-- KEYS: the id; the id of a conflict; for an occupancy the hold on its current value
-- ARGV: token
for place = 1, 2 do
  if redis.call('GET', KEYS[place]) == '1u' .. ARGV[1] then
    redis.call('DEL', KEYS[place])
  end
end
if KEYS[3] and redis.call('GET', KEYS[3]) == ARGV[1] then
  redis.call('DEL', KEYS[3])
end
return 1
