-- Replaces the stream's settings by ARGV[2], and makes the stream where there is none.
ensure_stream()
redis.call('HSET', state, 'settings', ARGV[2])
return 1
