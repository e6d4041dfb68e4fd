-- Ends leases that ran out, saves the floor, and tidies. ARGV[4] is how often at most, in ms,
-- ARGV[5] how many events at most, ARGV[6] and [7] the consumer and id to go on after ('' at first).
-- Returns how many leases were ended, -1 if the group is lost, milliseconds to the next due time, and
-- where to go on, as far as not all was looked at.
local now = clock()
if not group_row() then return { -1, -1, '', '' } end
restore_group()
local resume, resume_id = ARGV[6], ARGV[7]
local swept = tonumber(redis.call('HGET', group, 'sweptAt') or '0')
-- Another process did it just now. A clock that stepped back must not stop this.
if resume == '' and swept <= now and now - swept < tonumber(ARGV[4]) then return { 0, due_in(), '', '' } end
-- What is held for longer than the lease only costs looks, of which a call may do more.
local settings, left, looks = group_settings(), tonumber(ARGV[5]), 10 * ARGV[5]
local lease = settings.leaseMs
local lease_changed, longer_lease = old_lease()

-- Whether the delivery may still be within what it was promised.
local function is_held(id, idle)
  if idle < longer_lease and now - idle <= lease_changed then return true end
  return tonumber(redis.call('ZSCORE', held, id) or '0') > now
end

local function expire(id, owner, count)
  if let_go_of_double(id) then return end
  count = record(id, count, owner, LEASE_EXPIRED)
  if count < settings.maxDeliveries then
    park(id, now, count)
    return
  end
  local fields = body_of(id)
  if fields then bury(id, fields, 'event', LEASE_EXPIRED) else lost(id) end
end

local ended, next_consumer, next_id = 0, '', ''
-- Consumer by consumer: a look at the whole group costs by all that is pending.
local function sweep_consumer(owner, from)
  while true do
    local rows = redis.call('XPENDING', stream, name, 'IDLE', lease, from, '+', 100, owner)
    for _, entry in ipairs(rows) do
      if left <= 0 or looks <= 0 then
        next_consumer, next_id = owner, from
        return
      end
      looks = looks - 1
      if not is_held(entry[1], entry[3]) then
        expire(entry[1], owner, entry[4])
        ended, left = ended + 1, left - 1
      end
      from = '(' .. entry[1]
    end
    if #rows == 0 then return end
  end
end

for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, name)) do
  local owner = field(consumer, 'name')
  if owner ~= PARKED and (resume == '' or resume == owner) and next_consumer == '' then
    local from = resume == owner and resume_id or '-'
    resume = ''
    if field(consumer, 'pending') > 0 then
      sweep_consumer(owner, from)
    elseif field(consumer, 'idle') > 3600000 then
      redis.call('XGROUP', 'DELCONSUMER', stream, name, owner)
    end
  end
end
if next_consumer ~= '' then return { ended, due_in(), next_consumer, next_id } end
redis.call('ZREMRANGEBYSCORE', held, '-inf', now)
register()

-- Just below the oldest event that is not acknowledged.
local summary = redis.call('XPENDING', stream, name)
local floor = summary[1] > 0 and before(summary[2]) or field(group_row(), 'last-delivered-id')
local floor_key = sortable(floor)
if redis.call('HGET', group, 'floor') ~= floor then redis.call('HSET', group, 'floor', floor) end
local marks = redis.call('HGET', group, 'marks')
if marks then
  local kept = ''
  for seq, upto in string.gmatch(marks, '(%d+):(%d+%-%d+)') do
    if sortable(upto) > floor_key then kept = kept .. seq .. ':' .. upto .. ' ' end
  end
  if kept == '' then redis.call('HDEL', group, 'marks') else redis.call('HSET', group, 'marks', kept) end
end
-- Failed attempts at events that other services acknowledged.
if redis.call('EXISTS', attempts) == 1 then
  for _, id in ipairs(redis.call('HRANDFIELD', attempts, 10)) do
    if sortable(id) <= floor_key and redis.call('HEXISTS', side, id) == 0 then
      redis.call('HDEL', attempts, id)
      redis.call('ZREM', due, id)
    end
  end
end
redis.call('HSET', group, 'sweptAt', string.format('%.0f', now))
return { ended, due_in(), '', '' }
