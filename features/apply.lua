-- One micro-batch on one shard: guard, read, append, move the markers, return the logs.
-- Everything is read and checked before the first write, since Redis does not roll a script back.
--
-- KEYS[1]   hash: epoch, seq, m:<source> (marker), f:<source> (committed floor)
-- KEYS[2..] entity logs, card logs first
-- ARGV      1 epoch; 2 spans, MessagePack {{name, partition, start, end, floor}, ...}; 3 records per key, MessagePack;
--           4 record heads, in key order; 5 number of card logs; 6 payments in the batch; 7 records to keep
local HEAD, RECORD = 53, 64
local sub, find, byte = string.sub, string.find, string.byte
local call, unpack_int, pack = redis.call, struct.unpack, struct.pack

local meta, epoch = KEYS[1], ARGV[1]
local spans, counts, heads = cmsgpack.unpack(ARGV[2]), cmsgpack.unpack(ARGV[3]), ARGV[4]
local cards, size, keep = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local tail = keep * RECORD

local fields = {'epoch', 'seq'}
for _, span in ipairs(spans) do
  fields[#fields + 1] = 'm:' .. span[1]
  fields[#fields + 1] = 'f:' .. span[1]
end
local known = call('HMGET', meta, unpack(fields))
if known[1] ~= epoch then
  return {'epoch', known[1] or ''}
end
local markers, floors, fresh, partial = {}, {}, {}, false
for i, span in ipairs(spans) do
  local marker = tonumber(known[1 + 2 * i] or -1)
  if marker < span[3] then
    return {'behind', span[1], marker, span[3]}
  end
  partial = partial or marker > span[3]
  markers[i], fresh[span[2]] = marker, marker
  floors[i] = math.max(tonumber(known[2 + 2 * i] or 0), span[5])
end

local before = {}
for k = 2, #KEYS do
  local log
  if partial then
    log = call('GET', KEYS[k]) or ''
  else
    log = call('GETRANGE', KEYS[k], -tail, -1)
  end
  if #log % RECORD ~= 0 then
    return {'corrupt', KEYS[k]}
  end
  before[k - 1] = log
end

local function is_repeated(log, event_hash, records)
  if records <= 0 then
    return false
  end
  local at = find(log, event_hash, math.max(1, #log - records * RECORD + 1), true)
  while at do
    -- a match counts only where a record has its hash, and only against a payment
    if (at - 25) % RECORD == 0 and byte(log, at + 28) % 16 == 1 then
      return true
    end
    at = find(log, event_hash, at + 1, true)
  end
  return false
end

local base = tonumber(known[2] or 0)
local plain, duplicate = pack('<BI4I6', 0, tonumber(epoch), base), pack('<BI4I6', 1, tonumber(epoch), base)
local repeated, any_repeated = {}, false
local logs, payloads, appended = {}, {}, false
local at = 1
for k = 1, #counts do
  local log, parts = before[k], {}
  local ordinal, newest = 0, {} -- of this batch's records in this log, and of the last one with each event hash
  for _ = 1, counts[k] do
    local head = sub(heads, at, at + HEAD - 1)
    at = at + HEAD
    local skip = false
    if partial then
      skip = unpack_int('<i8', head, 17) < fresh[unpack_int('<I2', head, 45)]
    end
    if not skip then
      local stamp = plain
      if k <= cards then
        local event_hash = sub(head, 25, 32)
        local twin = newest[event_hash]
        if (twin and ordinal - twin <= keep) or is_repeated(log, event_hash, keep - ordinal) then
          repeated[sub(head, 47, 48)], any_repeated = true, true
        end
        newest[event_hash], ordinal = ordinal, ordinal + 1
      end
      if any_repeated and repeated[sub(head, 47, 48)] then
        stamp = duplicate
      end
      parts[#parts + 1] = head
      parts[#parts + 1] = stamp
    end
  end
  if #parts > 0 then
    appended = true
    payloads[k] = table.concat(parts)
    logs[k] = log .. payloads[k]
  else
    logs[k] = log
  end
end

local function trim(key, log)
  local floor_of = {}
  local all = call('HGETALL', meta)
  for i = 1, #all, 2 do
    local partition = string.match(all[i], '^f:.*:(%d+)$')
    if partition then
      floor_of[tonumber(partition)] = tonumber(all[i + 1])
    end
  end
  local total, committed = #log / RECORD, 0
  while committed < total do
    local start = committed * RECORD
    if unpack_int('<i8', log, start + 17) >= (floor_of[unpack_int('<I2', log, start + 45)] or 0) then
      break
    end
    committed = committed + 1
  end
  if committed > keep then
    call('SET', key, sub(log, (committed - keep) * RECORD + 1))
  end
end

for i, span in ipairs(spans) do
  call('HSET', meta, 'm:' .. span[1], string.format('%.0f', math.max(markers[i], span[4])),
    'f:' .. span[1], string.format('%.0f', floors[i]))
end
if appended then
  call('HSET', meta, 'seq', string.format('%.0f', base + size))
  for k = 1, #counts do
    if payloads[k] and call('APPEND', KEYS[k + 1], payloads[k]) >= 2 * tail then
      trim(KEYS[k + 1], call('GET', KEYS[k + 1]))
    end
  end
end
return {'ok', markers, floors, logs}
