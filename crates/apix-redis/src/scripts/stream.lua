-- What every script begins with. KEYS[1..6] are the stream and what belongs to it, ARGV[1] is the
-- epoch to give it if it has none. STREAM_DEFAULTS is defined above.
local stream, state, groups, channels = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local idem, idemlog = KEYS[5], KEYS[6]
local prefix = string.sub(state, 1, -string.len('state') - 1)
local PARKED = 'apix:parked'

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Ids as text that sorts as they do.
local function sortable(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return string.rep('0', 20 - #ms) .. ms .. '-' .. string.rep('0', 20 - #seq) .. seq
end

local function ms_of(id)
  return tonumber(string.match(id, '^%d+'))
end

-- The largest id below this one; a lower one where a double can't tell them apart.
local function before(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  if seq ~= '0' and tonumber(seq) < 2 ^ 53 then
    return string.format('%s-%.0f', ms, tonumber(seq) - 1)
  elseif ms == '0' then
    return '0-0'
  end
  return string.format('%.0f-18446744073709551615', tonumber(ms) - 1)
end

-- A list of strings as one string, each with its length before it.
local function packed(list)
  local parts = {}
  for i, text in ipairs(list) do
    text = tostring(text)
    parts[i] = #text .. ':' .. text
  end
  return table.concat(parts)
end

local function unpacked(text)
  local list, at = {}, 1
  while at <= #text do
    local colon = string.find(text, ':', at, true)
    local length = tonumber(string.sub(text, at, colon - 1))
    list[#list + 1] = string.sub(text, colon + 1, colon + length)
    at = colon + length + 1
  end
  return list
end

local function field(row, name)
  for i = 1, #row, 2 do
    if row[i] == name then return row[i + 1] end
  end
end

local function stream_settings()
  return cjson.decode(redis.call('HGET', state, 'settings') or STREAM_DEFAULTS)
end

local function last_id()
  return field(redis.call('XINFO', 'STREAM', stream), 'last-generated-id')
end

-- The body of an entry; nothing if it is gone.
local function body_of(id)
  local found = redis.call('XRANGE', stream, id, id)
  return found[1] and found[1][2]
end

-- Begins a new life of the stream where there is none. What is left of an earlier one, which
-- another service deleted, would be taken for part of this one; dead letters are copies and stay.
local function ensure_stream()
  if redis.call('EXISTS', stream) == 1 then
    redis.call('HSETNX', state, 'epoch', ARGV[1])
    return false
  end
  for _, name in ipairs(redis.call('SMEMBERS', groups)) do
    for _, kind in ipairs({ 'due:', 'side:', 'sideix:', 'out:', 'attempts:', 'held:' }) do
      redis.call('UNLINK', prefix .. kind .. name)
    end
    redis.call('HDEL', prefix .. 'group:' .. name, 'floor', 'marks')
  end
  for _, name in ipairs(redis.call('SMEMBERS', channels)) do
    redis.call('UNLINK', prefix .. 'at:' .. name)
  end
  redis.call('UNLINK', channels, idem, idemlog)
  redis.call('HDEL', state, 'trimmedTo', 'hardDropped')
  redis.call('XGROUP', 'CREATE', stream, PARKED, '0', 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', stream, PARKED)
  redis.call('HSET', state, 'epoch', ARGV[1])
  return true
end

-- Forgets idempotency keys that are too old or too many, at most `most` of them.
local function forget_keys(window, most)
  local now = clock()
  local surplus = redis.call('LLEN', idemlog) - window.maxKeys
  for _ = 1, most do
    local oldest = redis.call('LINDEX', idemlog, 0)
    if not oldest then return end
    local space = string.find(oldest, ' ', 1, true)
    local ms = string.sub(oldest, 1, space - 1)
    if tonumber(ms) + window.maxAgeMs >= now and surplus <= 0 then return end
    redis.call('LPOP', idemlog)
    surplus = surplus - 1
    local key = string.sub(oldest, space + 1)
    local known = redis.call('HGET', idem, key)
    -- A key that was given again since then has a younger record.
    if known and string.match(known, '^%d+') == ms then redis.call('HDEL', idem, key) end
  end
end

-- The id that an idempotency key stands for, and whether it had this digest.
local function known_key(window, key, digest)
  local known = redis.call('HGET', idem, key)
  if not known then return end
  local space = string.find(known, ' ', 1, true)
  local id = string.sub(known, 1, space - 1)
  if ms_of(id) + window.maxAgeMs < clock() then return end
  return id, string.sub(known, space + 1) == digest
end

local function remember_key(key, digest, id)
  redis.call('HSET', idem, key, id .. ' ' .. digest)
  redis.call('RPUSH', idemlog, string.match(id, '^%d+') .. ' ' .. key)
end

-- Bytes of what producers sent, with 16 for each id: their sum, and the average of an entry. Beyond
-- 16 entries by the oldest and newest 8.
local function stored_bytes()
  local length, sum, seen = redis.call('XLEN', stream), 0, 0
  if length == 0 then return 0, 1 end
  local function add(entries)
    for _, entry in ipairs(entries) do
      sum, seen = sum + 16, seen + 1
      for i = 2, #entry[2], 2 do sum = sum + #entry[2][i] end
    end
  end
  if length <= 16 then
    add(redis.call('XRANGE', stream, '-', '+'))
  else
    add(redis.call('XRANGE', stream, '-', '+', 'COUNT', 8))
    add(redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 8))
  end
  local average = math.max(1, sum / seen)
  return math.floor(average * length), average
end
