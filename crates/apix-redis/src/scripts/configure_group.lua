-- Replaces the group's settings by ARGV[4], and makes stream and group where there is none.
local old = group_settings().leaseMs
local new = cjson.decode(ARGV[4]).leaseMs
ensure_group()
local out_now = redis.call('XPENDING', stream, name)[1] + redis.call('HLEN', out)
if new < old and out_now > 0 then
  local changed, longer = old_lease()
  if clock() - changed < longer then old = math.max(old, longer) end
  redis.call('HSET', group, 'leaseChangedAt', string.format('%.0f', clock()), 'oldLease', old)
end
redis.call('HSET', group, 'settings', ARGV[4])
return 1
