-- An event is stored: what was held for it becomes what later events are compared with.
--
-- KEYS: the id (of a conflict, its own one); the source's newest time; for an occupancy its current value and the hold on it
-- ARGV: token, reading, ms the id is remembered (0: not at all), time of the event (empty: it cannot be the newest), ms
--       that is remembered, the new current value (empty: it stays), ms that is remembered (0: not at all)
-- Returns 1, or 0 where another replica took over meanwhile; what that one holds or stored stays.
local token, held = ARGV[1], '1u' .. ARGV[1]
local call = redis.call
local known, last, current, holder = unpack(call('MGET', unpack(KEYS)))
local mine = 1

if known and known ~= held and string.sub(known, 1, 1) == '1' then
  mine = 0
elseif tonumber(ARGV[3]) > 0 then
  call('SET', KEYS[1], '1p' .. ARGV[2], 'PX', ARGV[3])
elseif known == held then
  call('DEL', KEYS[1])
end

if ARGV[6] ~= '' then
  local lasts = tonumber(ARGV[7]) > 0
  if holder == token then
    call('DEL', KEYS[4])
    if lasts then
      call('SET', KEYS[3], ARGV[6], 'PX', ARGV[7])
    end
  elseif holder then
    mine = 0
  elseif not current then
    if lasts then
      call('SET', KEYS[3], ARGV[6], 'PX', ARGV[7])
    end
  elseif string.sub(current, 1, 9) ~= string.sub(ARGV[6], 1, 9) then
    -- Published without a hold. Which of the two values Kafka has last nobody knows: none is current, so none a repeat.
    call('DEL', KEYS[3])
    mine = 0
  end
end

if ARGV[4] ~= '' then
  if not last or tonumber(last) < tonumber(ARGV[4]) then
    call('SET', KEYS[2], ARGV[4], 'PX', ARGV[5])
  end
end
return mine
