"""The scripts: `apply.lua`, and the small ones on a shard's meta hash, KEYS[1].

Most of its fields are described in `apply.lua`. Besides there are owner and shape (what the namespace belongs to, and
was made with), server (the run id of the Redis that held it when it was last opened), parent and since (the epoch
before the last renewal, and the sequence number at which it was given up), and by source b:<source> (where its state
begins). While the shard is being emptied its hash has emptying (ms since the epoch of the last sign of it), and nothing
else counts.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

APPLY: Final = files("features.redis_store").joinpath("apply.lua").read_text("utf-8")

ADOPT: Final = b"""
for i = 2, #ARGV, 2 do
  local known = tonumber(redis.call('HGET', KEYS[1], ARGV[i]))
  if not known or (ARGV[1] == '1' and known < tonumber(ARGV[i + 1])) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1], 'b' .. string.sub(ARGV[i], 2), ARGV[i + 1])
  end
end
"""
"""Set missing markers, and note that state begins there. ARGV: 1 to raise lower ones too, then fields and values."""

_RENEW: Final = b"""
local function renew(epoch)
  local held = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'since')
  local sequence = held[2] or '0'
  if held[3] ~= sequence then  -- else nothing was recorded in the epoch: its parent is the new one's parent
    redis.call('HSET', KEYS[1], 'parent', held[1], 'since', sequence)
  end
  redis.call('HSET', KEYS[1], 'epoch', epoch)
end
"""

RENEW: Final = (
    _RENEW
    + b"""
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then
  renew(ARGV[2])
end
"""
)
"""Draw a new epoch, ARGV[2], if the epoch is still ARGV[1]."""

OPEN: Final = (
    _RENEW
    + b"""
local emptying = redis.call('HGET', KEYS[1], 'emptying')
if emptying then
  return {'emptying', string.format('%d', redis.call('TIME')[1] * 1000 - emptying)}
end
for i, name in ipairs({'epoch', 'owner', 'shape'}) do
  redis.call('HSETNX', KEYS[1], name, ARGV[i])
end
local held = redis.call('HMGET', KEYS[1], 'owner', 'shape', 'server')
if held[1] == ARGV[2] and held[2] == ARGV[3] then
  local server = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or ''
  if held[3] and held[3] ~= server then  -- loaded from a file, or another primary: it may have gone back in time
    renew(ARGV[1])
  end
  redis.call('HSET', KEYS[1], 'server', server)
end
return redis.call('HGETALL', KEYS[1])
"""
)
"""Create what is missing and return the hash. ARGV: an epoch to use if one is needed, owner, shape.

A shard that is being emptied is left alone: then only `emptying`, and for how many ms there was no sign of it.
"""

EMPTY: Final = b"""
local owner = redis.call('HGET', KEYS[1], 'owner')
if owner and owner ~= ARGV[1] then
  return owner
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'emptying', string.format('%d', redis.call('TIME')[1] * 1000))
return ARGV[1]
"""
"""Begin to empty a shard, or give a sign of it, unless it is not of the owner, ARGV[1]. Returns whose it is."""

BEGIN: Final = b"""
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], unpack(ARGV))
"""
"""Begin anew in an empty shard. ARGV: fields and values."""
