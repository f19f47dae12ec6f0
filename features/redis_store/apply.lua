-- One micro-batch on one shard: guard, compact, append, move the markers. The logs are read right after it.
-- Redis does not roll a script back: everything is checked before the first write, or taken back.
--
-- KEYS[1]   hash: epoch, seq, and by source m:<source> (marker), f:<source> (committed floor), r:<source> (runs,
--           MessagePack {start, end, sequence, epoch, ...}), i:<source> (its source id)
-- KEYS[2..] entity logs; the last ARGV[8] of them get no records: they are only compacted or refreshed
-- ARGV      1 epoch; 2 spans, MessagePack {{name, source id, start, end, floor}, ...}; 3 records per key, MessagePack;
--           4 records, in key order; 5 seconds that a log lives after its last record; 6 replacements, MessagePack
--           {{key, bytes to cut}, ...}; 7 keys to refresh, MessagePack; 8 see KEYS; 9 whether to return all floors;
--           10.. first unit and summary of each replacement (Redis' MessagePack knows no bytes). A key is its place
--           in KEYS.
local UNIT = 48
local sub, call, number, whole = string.sub, redis.call, tonumber, '%.0f'

local meta, epoch = KEYS[1], ARGV[1]
local spans, counts, records = cmsgpack.unpack(ARGV[2]), cmsgpack.unpack(ARGV[3]), ARGV[4]
local life, replacements = ARGV[5], cmsgpack.unpack(ARGV[6])
local keys = #KEYS - number(ARGV[8])

local fields = {'epoch', 'seq'}
for _, span in ipairs(spans) do
  fields[#fields + 1] = 'm:' .. span[1]
  fields[#fields + 1] = 'f:' .. span[1]
  fields[#fields + 1] = 'r:' .. span[1]
end
local known = call('HMGET', meta, unpack(fields))
if known[1] ~= epoch then
  return {'epoch', known[1] or ''}
end
local markers, floors, fresh, partial = {}, {}, {}, false
for i, span in ipairs(spans) do
  local marker = number(known[3 * i] or -1)
  if marker < span[3] then
    return {'behind', span[1], marker, span[3]}
  end
  partial = partial or marker > span[3]
  markers[i], fresh[span[2]] = marker, marker
  floors[i] = math.max(number(known[3 * i + 1] or 0), span[5])
end

local function is_log(place)
  return call('STRLEN', KEYS[place]) % UNIT == 0  -- an error where the key is of another type
end
for place = partial and 2 or keys + 1, keys do  -- else appending tells, see below
  if not is_log(place) then
    return {'corrupt', KEYS[place]}
  end
end
for _, each in ipairs(replacements) do
  if not is_log(each[1]) then
    return {'corrupt', KEYS[each[1]]}
  end
end

local appended = {}
local function take_back()
  for place, bytes in pairs(appended) do
    local log = call('GET', KEYS[place])
    if #log == bytes then
      call('DEL', KEYS[place])
    else
      call('SET', KEYS[place], sub(log, 1, #log - bytes), 'KEEPTTL')
    end
  end
end

local at = 1
for k = 1, #counts do
  local bytes = counts[k] * UNIT
  local new = bytes > 0 and sub(records, at, at + bytes - 1) or ''
  at = at + bytes
  if partial and bytes > 0 then
    local parts = {}
    for start = 1, bytes, UNIT do
      local offset, source = struct.unpack('<I6I2', new, start + 16)
      if offset >= fresh[source] then
        parts[#parts + 1] = sub(new, start, start + UNIT - 1)
      end
    end
    new = table.concat(parts)
  end
  if #new > 0 then
    -- to ask each key for its type first would cost more than all the rest; a key that is no log is found out here
    local length = redis.pcall('APPEND', KEYS[k + 1], new)
    if type(length) ~= 'number' then
      take_back()
      return length  -- the error
    end
    appended[k + 1] = #new
    if length % UNIT ~= 0 then
      take_back()
      return {'corrupt', KEYS[k + 1]}
    end
    if length == #new then
      call('EXPIRE', KEYS[k + 1], life)
    end
  end
end

for i, each in ipairs(replacements) do
  local place, cut, first, summary = each[1], each[2], ARGV[8 + 2 * i], ARGV[9 + 2 * i]
  local log = call('GET', KEYS[place])
  if log and #log - (appended[place] or 0) >= cut and sub(log, 1, UNIT) == first then
    call('SET', KEYS[place], summary .. sub(log, cut + 1), 'EX', life)
  end
end
for _, place in ipairs(cmsgpack.unpack(ARGV[7])) do
  call('EXPIRE', KEYS[place], life)
end

local sequence, runs, values = number(known[2] or 0), {}, {}
for i, span in ipairs(spans) do
  local old, kept = known[3 * i + 2] and cmsgpack.unpack(known[3 * i + 2]) or {}, {}
  local done = math.min(floors[i], span[3])
  for j = 1, #old, 4 do
    if old[j + 1] > done then
      for field = 0, 3 do
        kept[#kept + 1] = old[j + field]
      end
    end
  end
  if span[4] > markers[i] then
    kept[#kept + 1] = markers[i]
    kept[#kept + 1] = span[4]
    kept[#kept + 1] = sequence
    kept[#kept + 1] = number(epoch)
    sequence = sequence + span[4] - markers[i]
  end
  runs[i] = cmsgpack.pack(kept)
  local name = span[1]
  for _, value in ipairs({
    'm:' .. name, string.format(whole, math.max(markers[i], span[4])),
    'f:' .. name, string.format(whole, floors[i]), 'r:' .. name, runs[i], 'i:' .. name, span[2],
  }) do
    values[#values + 1] = value
  end
end
if #values > 0 then
  call('HSET', meta, 'seq', string.format(whole, sequence), unpack(values))
end

local all = ARGV[9] == '1' and call('HGETALL', meta) or {}
return {'ok', partial and 1 or 0, markers, floors, runs, all}
