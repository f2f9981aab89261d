-- An event is still undecided: what is held for it stays so. What was lost meanwhile is taken again where it is free.
--
-- KEYS: the id (of a conflict, its own one); the hold on the current value, where its commit will change that
-- ARGV: token, lease in ms
for place, key in ipairs(KEYS) do
  local mine = place == 1 and '1u' .. ARGV[1] or ARGV[1]
  local value = redis.call('GET', key)
  if not value or value == mine then
    redis.call('SET', key, mine, 'PX', ARGV[2])
  end
end
return 1
