-- Replaces the group's settings by ARGV[4], and makes stream and group where there is none.
local before_change = group_settings().leaseMs
local after_change = cjson.decode(ARGV[4]).leaseMs
ensure_group()
if after_change < before_change then
  -- Deliveries that are out were promised the longer lease. Two seconds more, for processes that
  -- still remember the old settings.
  redis.call('HSET', group, 'oldLease', before_change)
  redis.call('HSET', group, 'oldLeaseUntil', string.format('%.0f', clock() + before_change + 2000))
end
redis.call('HSET', group, 'settings', ARGV[4])
return 1
