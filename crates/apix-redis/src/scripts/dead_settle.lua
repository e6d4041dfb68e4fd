-- Hands dead letters out again ('retry') or drops them ('discard'): ARGV[4]. ARGV[5] is 'ids' with the
-- ids after it, or 'all' with where to go on ('' at first) and how many to look at. Returns how many
-- were settled and, for 'all', where to go on ('' at the end). Nothing if there is no such group.
if not group_exists() then return false end
local ids, resume = {}, ''
local AT_MOST = 4 * 1024 * 1024
if ARGV[5] == 'ids' then
  for i = 6, #ARGV do ids[#ids + 1] = ARGV[i] end
else
  local from = ARGV[6] == '' and '-' or '(' .. ARGV[6]
  local keys = redis.call('ZRANGEBYLEX', deadix, from, '+', 'LIMIT', 0, ARGV[7])
  for i, key in ipairs(keys) do
    local ms, seq = string.match(key, '^0*(%d+)%-0*(%d+)$')
    ids[i] = ms .. '-' .. seq
  end
  if #keys == tonumber(ARGV[7]) then resume = keys[#keys] end
end

local function drop(id)
  redis.call('HDEL', dead, id)
  redis.call('ZREM', deadix, sortable(id))
end

-- From its copy, under its id, with what was tried so far and a count of nothing.
local function retry(id, text)
  local list = unpacked(text)
  if list[1] ~= 'event' then return 0 end
  local tried = tonumber(list[4])
  local history, fields = { 0, redis.call('HGET', group, 'lossSeq') or 0 }, {}
  for i = 5, #list do
    local part = i <= 4 + 3 * tried and history or fields
    part[#part + 1] = list[i]
  end
  keep_side(id, fields)
  redis.call('HSET', attempts, id, packed(history))
  due_at(id, clock())
  drop(id)
  return 1
end

local settled_count, bytes = 0, 0
for _, id in ipairs(ids) do
  bytes = bytes + redis.call('HSTRLEN', dead, id)
  local text = redis.call('HGET', dead, id)
  if text then
    if ARGV[4] == 'retry' then
      settled_count = settled_count + retry(id, text)
    else
      drop(id)
      settled_count = settled_count + 1
    end
  end
  -- Bodies are copied, so few enough of them at a time.
  if ARGV[5] == 'all' and bytes > AT_MOST and id ~= ids[#ids] then
    resume = sortable(id)
    break
  end
end
return { settled_count, resume }
