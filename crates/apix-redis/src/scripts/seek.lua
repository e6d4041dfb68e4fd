-- Sets where the group reads next: after ARGV[4], or after the newest ('$'). Everything pending,
-- parked or copied is let go; dead letters stay. Making the group anew drops its pending list at
-- once, however long it is, and blocked readers are served by the new one.
if redis.call('EXISTS', stream) == 0 then return 0 end
redis.call('XGROUP', 'DESTROY', stream, name)
redis.call('UNLINK', due, side, sideix, out, attempts, held)
redis.call('HDEL', group, 'marks')
local from = ARGV[4] == '$' and last_id() or ARGV[4]
make_group(from)
return 1
