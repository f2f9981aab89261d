-- Decides how an event relates to what is stored, and holds the keys that its commit will change.
-- The rules are those of `dedup::rules`.
--
-- KEYS: the id; the id of a conflict; the source's newest time; for an occupancy also its current
--       value, the hold on it, and the epoch
-- ARGV: token; lease in ms; reading; redelivery (drop|tag|off); repeat (drop|tag|off); id window in
--       ms; the event's time; the second of its id (-1: none); conflict ('1': another event is
--       known to be stored under the id); the current value as the asking replica knows it (may be
--       empty); recovering ('1': no value is trusted); ms for which a hold is remembered
-- Returns 'w' (another event is undecided), 'd' (redelivery; 'ds' if that is on a replica's disk),
--       'r' (repeat), 'p' (publish; held from now on) or 'a' (redelivery, published again; nothing
--       is held). The marks follow p and a: duplicate d, r or -; conflict c or -; value first f,
--       revision v, same value kept k, stale s or -; out of order o or -. The replaced current
--       value follows v and k.
--
-- Id: '1u' token (undecided), '1p' reading (published), '1s' reading (spooled).
-- Current value: version, 2 reading, 10 revision, 14 second of its id, 22 the epoch in which it is
--       trusted, 30 id.
-- Hold: 1 token, 17 the epoch in which it was granted (none: its value will not be trusted), 25 the
--       epoch that the current value had before, 33 end of the lease.
local token, lease, reading = ARGV[1], ARGV[2], ARGV[3]
local undecided, published, spooled = '1u', '1p' .. reading, '1s' .. reading
local none = string.rep('\0', 8)
local call, sub = redis.call, string.sub
local values = call('MGET', unpack(KEYS))

local function state(index)
  local value = values[index]
  return value and sub(value, 1, 1) == '1' and value
end

local function second(value)
  return (struct.unpack('<d', value, 14))
end

local function is_stored(known)
  return known == published or known == spooled
end

local function redelivery(known, conflict)
  if ARGV[4] == 'drop' then
    return known == spooled and 'ds' or 'd'
  end
  return 'a' .. (ARGV[4] == 'tag' and 'd' or '-') .. conflict .. '--'
end

local id, known, conflict = KEYS[1], state(1), '-'
if known and sub(known, 1, 2) == undecided then
  return 'w'
elseif is_stored(known) then
  return redelivery(known, conflict)
elseif known or ARGV[9] == '1' then
  id, known, conflict = KEYS[2], state(2), 'c'
  if is_stored(known) then
    return redelivery(known, conflict)
  elseif known then
    return 'w'
  end
end

local new, duplicate, change, current = true, '-', '-', nil
if KEYS[4] then
  local time = call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local shared, hold, epoch = state(4), values[5], values[6]
  if hold and struct.unpack('<d', hold, 33) > now then
    return 'w'
  end
  local trusted = shared and epoch and sub(shared, 22, 29) == epoch and ARGV[11] ~= '1'
  current = shared
  -- Without a trusted value, use the later of Redis' and the asking replica's.
  if not trusted and ARGV[10] ~= '' and not (shared and second(shared) >= second(ARGV[10])) then
    current = ARGV[10]
  end
  if not current then
    change = 'f'
  else
    local current_second, event_second = second(current), tonumber(ARGV[8])
    local older = event_second >= 0 and current_second >= 0 and event_second < current_second
    if not trusted or sub(current, 2, 9) ~= reading then
      new, change = false, older and 's' or 'v'
    elseif conflict == '-' then
      new = false
      if ARGV[5] == 'drop' then
        call('SET', id, published, 'PX', ARGV[6])
        return 'r'
      elseif ARGV[5] == 'tag' then
        duplicate = 'r'
      elseif not older then
        change = 'k'
      end
    end
  end
  -- Under a hold, the current value is unknown, and stays so if the holder dies. If an earlier
  -- holder died, or ended in doubt, its event may still be stored after this one.
  local before = shared and sub(shared, 22, 29) or none
  if before ~= none then
    call('SETRANGE', KEYS[4], 21, none)
  end
  local granted = not hold and epoch or none
  call('SET', KEYS[5], token .. granted .. before .. struct.pack('<d', now + lease), 'PX', ARGV[12])
end

local order = '-'
if new then
  local newest = values[3]
  if newest and tonumber(newest) > tonumber(ARGV[7]) then
    order = 'o'
  end
end

call('SET', id, undecided .. token, 'PX', lease)
if change == 'v' or change == 'k' then
  return 'p' .. duplicate .. conflict .. change .. order .. current
end
return 'p' .. duplicate .. conflict .. change .. order
