-- Decides what an event is to what is stored, and holds what its commit will change. The rules are those of `memory`.
--
-- KEYS: the id; the id of a conflict; the source's newest time; for an occupancy its current value, the hold on it, and the
--       epoch
-- ARGV: token, lease in ms, reading, redelivery (drop|tag|off), repeat (drop|tag|off), id window in ms, time of the event,
--       second of its id (-1: none), conflict ('1': another event is known to be stored under the id), current value as
--       the asking replica knows it (may be empty), doubt ('1': no value is relied on), ms a hold is remembered
-- Returns 'w' (another is undecided), 'd' (redelivery; 'ds' where it is on a replica's disk), 'r' (repeat), 'p' (published; held from now on) or 'a' (a redelivery,
--       published again; nothing is held). After p and a come the marks: duplicate d, r or -; conflict c or -; cell first f,
--       revision v, same value kept k, stale s or -; out of order o or -; after v and k the current value that is replaced.
--
-- Id: '1u' token (undecided), '1p' reading (published), '1s' reading (spooled).
-- Current value: version, 2 reading, 10 revision, 14 second of its id, 22 the epoch in which it can be relied on, 30 id.
-- Hold: 1 token, 17 the epoch in which it was granted (none: what it stores cannot be relied on), 25 the epoch that the
--       current value had before, 33 the end of the lease.
local token, lease, reading = ARGV[1], ARGV[2], ARGV[3]
local held, stored, spooled, none = '1u', '1p' .. reading, '1s' .. reading, string.rep('\0', 8)
local call, sub = redis.call, string.sub
local values = call('MGET', unpack(KEYS))

local function state(place)
  local value = values[place]
  return value and sub(value, 1, 1) == '1' and value
end

local function second(value)
  return (struct.unpack('<d', value, 14))
end

local function is_stored(known)
  return known == stored or known == spooled
end

local function redelivery(known, conflict)
  if ARGV[4] == 'drop' then
    return known == spooled and 'ds' or 'd'
  end
  return 'a' .. (ARGV[4] == 'tag' and 'd' or '-') .. conflict .. '--'
end

local id, known, conflict = KEYS[1], state(1), '-'
if known and sub(known, 1, 2) == held then
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

local new, duplicate, mark, current = true, '-', '-', nil
if KEYS[4] then
  local time = call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local shared, hold, epoch = state(4), values[5], values[6]
  if hold and struct.unpack('<d', hold, 33) > now then
    return 'w'
  end
  local trusted = shared and epoch and sub(shared, 22, 29) == epoch and ARGV[11] ~= '1'
  current = shared
  -- What can be relied on less than all replicas' word: the later of what Redis and the asking replica know.
  if not trusted and ARGV[10] ~= '' and not (shared and second(shared) >= second(ARGV[10])) then
    current = ARGV[10]
  end
  if not current then
    mark = 'f'
  else
    local seconds, mine = second(current), tonumber(ARGV[8])
    local older = mine >= 0 and seconds >= 0 and mine < seconds
    if not trusted or sub(current, 2, 9) ~= reading then
      new, mark = false, older and 's' or 'v'
    elseif conflict == '-' then
      new = false
      if ARGV[5] == 'drop' then
        call('SET', id, stored, 'PX', ARGV[6])
        return 'r'
      elseif ARGV[5] == 'tag' then
        duplicate = 'r'
      elseif not older then
        mark = 'k'
      end
    end
  end
  -- While it is held nobody knows which value is current; nor ever, should the holder die. Where one died already, or does
  -- not know what became of its event, that event may still be stored after this one.
  local before = shared and sub(shared, 22, 29) or none
  if before ~= none then
    call('SETRANGE', KEYS[4], 21, none)
  end
  local granted = not hold and epoch or none
  call('SET', KEYS[5], token .. granted .. before .. struct.pack('<d', now + lease), 'PX', ARGV[12])
end

local order = '-'
if new then
  local last = values[3]
  if last and tonumber(last) > tonumber(ARGV[7]) then
    order = 'o'
  end
end

call('SET', id, held .. token, 'PX', lease)
if mark == 'v' or mark == 'k' then
  return 'p' .. duplicate .. conflict .. mark .. order .. current
end
return 'p' .. duplicate .. conflict .. mark .. order
