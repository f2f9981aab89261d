-- Decides what an event is to what is stored, and holds what its commit will change. The rules are those of `memory`.
--
-- KEYS: the id; the id of a conflict; the source's newest time; for an occupancy its current value and the hold on it
-- ARGV: token, lease in ms, reading, redelivery (drop|tag|off), repeat (drop|tag|off), id window in ms, time of the event,
--       second of its id (-1: none), conflict ('1': another event is known to be stored under the id), current value as
--       the asking replica knows it (may be empty)
-- Returns 'w' (another is undecided), 'd' (redelivery), 'r' (repeat), 'p' (published; held from now on) or 'a' (a redelivery,
--       published again; nothing is held). After p and a come the marks: duplicate d, r or -; conflict c or -; cell first f,
--       revision v, same value kept k, stale s or -; out of order o or -; after v and k the current value that is replaced.
local token, lease, reading = ARGV[1], ARGV[2], ARGV[3]
local held, stored = '1u', '1p' .. reading
local call, sub = redis.call, string.sub
local values = call('MGET', unpack(KEYS))

local function state(place)
  local value = values[place]
  return value and sub(value, 1, 1) == '1' and value
end

local function redelivery(conflict)
  if ARGV[4] == 'drop' then
    return 'd'
  end
  return 'a' .. (ARGV[4] == 'tag' and 'd' or '-') .. conflict .. '--'
end

local id, known, conflict = KEYS[1], state(1), '-'
if known and sub(known, 1, 2) == held then
  return 'w'
elseif known == stored then
  return redelivery(conflict)
elseif known or ARGV[9] == '1' then
  id, known, conflict = KEYS[2], state(2), 'c'
  if known == stored then
    return redelivery(conflict)
  elseif known then
    return 'w'
  end
end

local new, duplicate, mark, current = true, '-', '-', nil
if KEYS[4] then
  if values[5] then
    return 'w'
  end
  local shared = state(4)
  current = shared or (ARGV[10] ~= '' and ARGV[10])
  if not current then
    mark = 'f'
  else
    local seconds = struct.unpack('<d', current, 14)
    local mine = tonumber(ARGV[8])
    local older = mine >= 0 and seconds >= 0 and mine < seconds
    if sub(current, 2, 9) ~= reading then
      new, mark = false, older and 's' or 'v'
    elseif conflict == '-' then
      new = false
      -- By what one replica alone knows nothing is a repeat: another may have stored a later value.
      if shared and ARGV[5] == 'drop' then
        call('SET', id, stored, 'PX', ARGV[6])
        return 'r'
      elseif shared and ARGV[5] == 'tag' then
        duplicate = 'r'
      elseif not older then
        mark = 'k'
      end
    end
  end
end

local order = '-'
if new then
  local last = values[3]
  if last and tonumber(last) > tonumber(ARGV[7]) then
    order = 'o'
  end
end

call('SET', id, held .. token, 'PX', lease)
if mark == 'f' or mark == 'v' or mark == 'k' then
  call('SET', KEYS[5], token, 'PX', lease)
end
if mark == 'v' or mark == 'k' then
  return 'p' .. duplicate .. conflict .. mark .. order .. current
end
return 'p' .. duplicate .. conflict .. mark .. order
