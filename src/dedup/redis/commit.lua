-- An event is stored: its held keys now hold the values with which later events are compared.
--
-- KEYS: the id (or the id of a conflict); the source's newest time; for an occupancy also its
--       current value, the hold on it, and the epoch
-- ARGV: token; reading; ms for which the id is remembered (0: not at all); time of the event
--       (empty: it cannot be the newest); ms for which that is remembered; the new current value
--       (empty: it stays); ms for which that is remembered (0: not at all); granted ('1': by Redis,
--       before the event was published); state ('p': published, 's': spooled)
-- Returns 1, or 0 if another replica took over meanwhile; that one's keys stay as they are.
--
-- The new value is trusted if the key was held from the grant on, in this epoch, and nobody stored
-- anything meanwhile. Layouts: see claim.lua.
local token, held, none = ARGV[1], '1u' .. ARGV[1], string.rep('\0', 8)
local call, sub = redis.call, string.sub
local known, newest, current, hold, epoch = unpack(call('MGET', unpack(KEYS)))
local mine = 1

if known and known ~= held and sub(known, 1, 1) == '1' then
  mine = 0
elseif tonumber(ARGV[3]) > 0 then
  call('SET', KEYS[1], '1' .. ARGV[9] .. ARGV[2], 'PX', ARGV[3])
elseif known == held then
  call('DEL', KEYS[1])
end

if KEYS[3] then
  local value, remembered = ARGV[6], tonumber(ARGV[7]) > 0
  local granted = hold and sub(hold, 1, 16) == token and sub(hold, 17, 24)
  local clean = granted and granted == epoch and ARGV[8] == '1'
  current = current and sub(current, 1, 1) == '1' and current
  if granted == none then
    call('SETRANGE', KEYS[4], 32, none)
  elseif granted then
    call('DEL', KEYS[4])
  elseif value ~= '' then
    if hold then
      call('SETRANGE', KEYS[4], 16, none .. none)
    end
    if hold or current and sub(current, 2, 9) ~= sub(value, 2, 9) then
      mine = 0
    end
  end
  if clean and value == '' then
    if current then
      call('SETRANGE', KEYS[3], 21, sub(hold, 25, 32))
    end
  elseif clean and remembered then
    call('SET', KEYS[3], sub(value, 1, 21) .. epoch .. sub(value, 30), 'PX', ARGV[7])
  elseif value ~= '' then
    -- It is unknown which value Kafka has last. The later id stays, for comparison with later
    -- events.
    local stays = current and struct.unpack('<d', current, 14) > struct.unpack('<d', value, 14)
    if remembered and not stays then
      call('SET', KEYS[3], value, 'PX', ARGV[7])
    elseif current then
      call('SETRANGE', KEYS[3], 21, none)
    end
  end
end

if ARGV[4] ~= '' then
  if not newest or tonumber(newest) < tonumber(ARGV[4]) then
    call('SET', KEYS[2], ARGV[4], 'PX', ARGV[5])
  end
end
return mine
