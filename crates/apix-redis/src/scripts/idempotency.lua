-- Idempotency keys: what scripts that append or trim begin with, after stream.lua. KEY_AGE and
-- MAX_KEYS are defined above.
local function ms_of(id)
  return tonumber(string.match(id, '^%d+'))
end

-- How long and how many idempotency keys are known: numbers, as appends should not parse JSON.
local function key_window()
  local found = redis.call('HMGET', state, 'keyAge', 'maxKeys')
  return { maxAgeMs = tonumber(found[1] or KEY_AGE), maxKeys = tonumber(found[2] or MAX_KEYS) }
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

-- Every so often, as many are looked at as were added since.
local function remember_key(window, key, digest, id)
  redis.call('HSET', idem, key, id .. ' ' .. digest)
  local count = redis.call('RPUSH', idemlog, string.match(id, '^%d+') .. ' ' .. key)
  if count % 16 == 0 or count > window.maxKeys then forget_keys(window, 40) end
end
