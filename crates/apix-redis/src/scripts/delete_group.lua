-- Removes the group with all it has. Returns 0 if there was none.
if not group_exists() then return 0 end
redis.call('XGROUP', 'DESTROY', stream, name)
redis.call('UNLINK', group, due, side, sideix, out, attempts, held, dead, deadix)
redis.call('SREM', groups, name)
return 1
