-- Holds one delivery for ARGV[7] ms from now. ARGV[4] id, ARGV[5] consumer and ARGV[6] count ('' for
-- any).
local id, wanted = ARGV[4], tonumber(ARGV[7])
local owner, count, is_copy = holder(id)
if not holds(owner, count, ARGV[5], ARGV[6]) then return { 'lost' } end
local now = clock()
if is_copy then
  redis.call('ZADD', due, string.format('%.0f', now + wanted), id)
  return { 'held', string.format('%.0f', now + wanted) }
end
-- Leases are idle time, which cannot lie in the future: what is longer is written down.
local lease = group_settings().leaseMs
local idle = math.max(0, lease - wanted)
local claimed = redis.call('XCLAIM', stream, name, owner, 0, id, 'IDLE', string.format('%.0f', idle), 'JUSTID')
if #claimed == 0 then
  lost(id)
  return { 'lost' }
end
if wanted > lease then
  redis.call('ZADD', held, string.format('%.0f', now + wanted), id)
else
  redis.call('ZREM', held, id)
end
return { 'held', string.format('%.0f', now + wanted) }
