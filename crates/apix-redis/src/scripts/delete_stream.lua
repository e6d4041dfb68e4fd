-- Removes the stream with everything that belongs to it. Returns 0 if there was none.
local existed = redis.call('EXISTS', stream)
local names = redis.call('SMEMBERS', groups)
if existed == 1 then
  for _, row in ipairs(redis.call('XINFO', 'GROUPS', stream)) do names[#names + 1] = field(row, 'name') end
end
for _, name in ipairs(names) do
  for _, kind in ipairs({ 'group:', 'due:', 'side:', 'sideix:', 'out:', 'attempts:', 'held:', 'dead:', 'deadix:' }) do
    redis.call('UNLINK', prefix .. kind .. name)
  end
end
for _, name in ipairs(redis.call('SMEMBERS', channels)) do
  redis.call('UNLINK', prefix .. 'at:' .. name)
end
redis.call('UNLINK', stream, state, groups, channels, idem, idemlog)
return existed
