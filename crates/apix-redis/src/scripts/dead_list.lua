-- Dead letters after ARGV[4] ('' for all), at most ARGV[5]: id and packed form of each. Nothing if
-- there is no such group.
if not group_exists() then return false end
local from = ARGV[4] == '' and '-' or '(' .. sortable(ARGV[4])
local listed = {}
for _, key in ipairs(redis.call('ZRANGEBYLEX', deadix, from, '+', 'LIMIT', 0, ARGV[5])) do
  local ms, seq = string.match(key, '^0*(%d+)%-0*(%d+)$')
  local id = ms .. '-' .. seq
  local copy = redis.call('HGET', dead, id)
  if copy then
    listed[#listed + 1] = id
    listed[#listed + 1] = copy
  end
end
return listed
