"""What the Redis store does in one step on the server.

    {ns}:lease:<scope>          token (20 digits), a space, owner; expires
    {ns}:fence:<scope>          the last token
    {ns}:blob:<instance>        sequence (20 digits), token (20 digits), blob; expires
    {ns}:instances              hash: instance -> sequence; expires when nobody publishes
    {ns}:retired                version (20 digits), token (20 digits), record
    {ns}:tomb:<instance>:<seq>  blob

Numbers are compared as text of equal length: a sequence has more digits than a number of Lua keeps. Values that guard
something begin with 40 digits, read by GETRANGE, so that no script copies a blob to look at it.

A script writes what needs memory first: Redis refuses it under `maxmemory` only while nothing else was written.
"""

from __future__ import annotations

import hashlib

__all__ = ["ACQUIRE", "COMMIT_FOLD", "HEAD", "PUBLISH", "RELEASE", "RENEW", "RESTORE", "Script", "digits"]

DIGITS = 20
HEAD = 2 * DIGITS


def digits(number: int) -> bytes:
    """A u64 as text that compares as the number does."""
    return b"%020d" % number


class Script:
    """Lua and its name on the server."""

    def __init__(self, text: str) -> None:
        self.text = text.encode()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


# KEYS lease, fence, what the scope guards; ARGV owner, lease in ms, fence in ms -> {granted, token or ms left}
ACQUIRE = Script("""
local held = redis.call('GET', KEYS[1])
if held then
  if held:sub(22) ~= ARGV[1] then return {0, redis.call('PTTL', KEYS[1])} end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {1, held:sub(1, 20)}
end
local clock = redis.call('TIME')
local token = clock[1] * 1000000 + clock[2]
token = math.max(token, (tonumber(redis.call('GET', KEYS[2]) or 0) or 0) + 1)
token = math.max(token, (tonumber(redis.call('GETRANGE', KEYS[3], 20, 39)) or 0) + 1)
local text = string.format('%020.0f', token)
redis.call('SET', KEYS[1], text .. ' ' .. ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], text, 'PX', ARGV[3])
return {1, text}
""")

# KEYS lease; ARGV holder, lease in ms
RENEW = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
""")

# KEYS lease; ARGV holder
RELEASE = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
""")

# KEYS lease, blob, instances; ARGV holder, lease in ms, instance, sequence, token, blob, blob in ms
# -> 'done', 'lost', 'fenced' or the sequence that is there and newer
PUBLISH = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'lost' end
local head = redis.call('GETRANGE', KEYS[2], 0, 39)
local sequence = head:sub(1, 20)
if head ~= '' then
  if head:sub(21) > ARGV[5] then return 'fenced' end
  if sequence > ARGV[4] then return sequence end
end
if sequence ~= ARGV[4] then
  redis.call('SET', KEYS[2], ARGV[4] .. ARGV[5] .. ARGV[6], 'PX', ARGV[7])
end
redis.call('HSET', KEYS[3], ARGV[3], ARGV[4])
redis.call('PEXPIRE', KEYS[3], ARGV[7])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 'done'
""")

# KEYS lease, retired, instances, then the tombstones to write, the tombstones to forget, the blobs that are gone
# ARGV holder, expected version, version, token, record, how many tombstones to write, how many to forget,
#      the tombstones, then instance and sequence of each that is gone
# -> 'done', 'lost', 'fenced' or 'other'
COMMIT_FOLD = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'lost' end
local head = redis.call('GETRANGE', KEYS[2], 0, 39)
local version = head ~= '' and head:sub(1, 20) or string.rep('0', 20)
if head ~= '' then
  if version == ARGV[3] and head:sub(21) == ARGV[4] then return 'done' end
  if head:sub(21) > ARGV[4] then return 'fenced' end
end
if version ~= ARGV[2] then return 'other' end
local written, forgotten = tonumber(ARGV[6]), tonumber(ARGV[7])
redis.call('SET', KEYS[2], ARGV[3] .. ARGV[4] .. ARGV[5])
for i = 1, forgotten do redis.call('DEL', KEYS[3 + written + i]) end
for i = 1, written do redis.call('SET', KEYS[3 + i], ARGV[7 + i]) end
local key, told = 3 + written + forgotten, 7 + written
while KEYS[key + 1] do
  key, told = key + 1, told + 2
  local instance, folded = ARGV[told - 1], ARGV[told]
  local there = redis.call('GETRANGE', KEYS[key], 0, 19)
  if there == '' then there = redis.call('HGET', KEYS[3], instance) or '' end
  if there <= folded then
    redis.call('DEL', KEYS[key])
    redis.call('HDEL', KEYS[3], instance)
  end
end
return 'done'
""")

# KEYS retired, then tombstones; ARGV version, record, the tombstones
RESTORE = Script("""
local head = redis.call('GETRANGE', KEYS[1], 0, 39)
if head == '' or head:sub(1, 20) < ARGV[1] then
  local token = head ~= '' and head:sub(21) or string.rep('0', 20)
  redis.call('SET', KEYS[1], ARGV[1] .. token .. ARGV[2])
end
for i = 2, #KEYS do redis.call('SET', KEYS[i], ARGV[1 + i]) end
return 1
""")
