-- Replaces the stream's settings by ARGV[2], and makes the stream where there is none.
ensure_stream()
local window = cjson.decode(ARGV[2]).idempotency
local age, most = string.format('%.0f', window.maxAgeMs), string.format('%.0f', window.maxKeys)
redis.call('HSET', state, 'settings', ARGV[2], 'keyAge', age, 'maxKeys', most)
return 1
