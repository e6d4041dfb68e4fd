-- What a reader wants to know after each read: milliseconds to the next due time (-1: none), losses
-- of the group, its settings. KEYS: group, due.
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
local wait = -1
if first[1] then
  local time = redis.call('TIME')
  wait = math.max(0, first[2] - time[1] * 1000 - math.floor(time[2] / 1000))
end
local found = redis.call('HMGET', KEYS[1], 'marks', 'settings')
return { wait, found[1] or '', found[2] or '' }
