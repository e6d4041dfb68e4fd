-- What a reader wants to know after each read: milliseconds to the next due time (-1: none), losses
-- of the group, its settings, and 1 if another service has made it anew (see group.lua). KEYS: group,
-- due, stream. ARGV[1] is the group's name.
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
local wait = -1
if first[1] then
  local time = redis.call('TIME')
  wait = math.max(0, first[2] - time[1] * 1000 - math.floor(time[2] / 1000))
end
local found = redis.call('HMGET', KEYS[1], 'marks', 'settings', 'floor', 'remade')
local remade = found[4]
-- Written down, as it shows only once. Where the group is gone, the read has said so.
if redis.pcall('XGROUP', 'CREATECONSUMER', KEYS[3], ARGV[1], 'apix:parked') == 1 and found[3] then
  redis.call('HSET', KEYS[1], 'remade', '1')
  remade = '1'
end
return { wait, found[1] or '', found[2] or '', remade and 1 or 0 }
