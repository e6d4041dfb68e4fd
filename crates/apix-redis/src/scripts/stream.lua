-- What every script begins with. KEYS[1..6] are the stream and what belongs to it, ARGV[1] is the
-- epoch to give it if it has none.
local stream, state, groups, channels = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local idem, idemlog = KEYS[5], KEYS[6]
local prefix = string.sub(state, 1, -string.len('state') - 1)
local PARKED = 'apix:parked'

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
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
    redis.call('HDEL', prefix .. 'group:' .. name, 'floor', 'marks', 'remade')
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
