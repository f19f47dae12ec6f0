-- One micro-batch on one shard: guard, read, append, move the markers, return the logs as they were.
-- Everything is read and checked before the first write, since Redis does not roll a script back.
--
-- KEYS[1]   hash: epoch, seq, and by source m:<source> (marker), f:<source> (committed floor), r:<source> (runs,
--           MessagePack {start, end, sequence, epoch, ...}), i:<source> (its source id)
-- KEYS[2..] entity logs; the last ARGV[8] of them get no records: they are only compacted or refreshed
-- ARGV      1 epoch; 2 spans, MessagePack {{name, source id, start, end, floor}, ...}; 3 records per key, MessagePack;
--           4 records, in key order; 5 seconds that a log lives after its last record; 6 replacements, MessagePack
--           {{key, bytes to cut}, ...}; 7 keys to refresh, MessagePack; 8 see KEYS; 9 whether to return all floors;
--           10.. first unit and summary of each replacement (Redis' MessagePack knows no bytes). A key is its place
--           in KEYS.
local UNIT, CHUNK = 48, 4000
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

local function fetch()
  local logs, absent = {}, {}
  for first = 2, keys, CHUNK do
    local last = math.min(keys, first + CHUNK - 1)
    local some = call('MGET', unpack(KEYS, first, last))
    for i = 1, #some do
      local log = some[i]
      if not log then
        absent[#absent + 1] = KEYS[first + i - 1]
      end
      logs[first + i - 2] = log or ''
    end
  end
  return logs, absent
end

local before, absent = fetch()
for first = 1, #absent, CHUNK do
  -- MGET says nothing of a key of another type
  if call('EXISTS', unpack(absent, first, math.min(#absent, first + CHUNK - 1))) > 0 then
    return {'corrupt', absent[first]}
  end
end
for k = 1, #before do
  if #before[k] % UNIT ~= 0 then
    return {'corrupt', KEYS[k + 1]}
  end
end
local replaced = {}
for i, each in ipairs(replacements) do
  local place, cut, first, summary = each[1], each[2], ARGV[8 + 2 * i], ARGV[9 + 2 * i]
  local log = place <= keys and before[place - 1] or call('GET', KEYS[place])
  if log and #log >= cut and sub(log, 1, UNIT) == first then
    log = summary .. sub(log, cut + 1)
    replaced[place] = log
    if place <= keys then
      before[place - 1] = log
    end
  end
end

for place, log in pairs(replaced) do
  call('SET', KEYS[place], log, 'EX', life)
end
for _, place in ipairs(cmsgpack.unpack(ARGV[7])) do
  call('EXPIRE', KEYS[place], life)
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
    if before[k] == '' then
      call('SET', KEYS[k + 1], new, 'EX', life)
    else
      call('APPEND', KEYS[k + 1], new)
    end
  end
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
return {'ok', partial and 1 or 0, markers, floors, runs, partial and fetch() or before, all}
