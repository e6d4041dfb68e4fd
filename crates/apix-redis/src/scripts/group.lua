-- What scripts on a group begin with, after stream.lua. ARGV[2] is the group's name, ARGV[3] the
-- doorbell of the stream. GROUP_DEFAULTS is defined above.
local group, due, side, sideix, out = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local attempts, held, dead, deadix = KEYS[12], KEYS[13], KEYS[14], KEYS[15]
local name, bell = ARGV[2], ARGV[3]
local LEASE_EXPIRED = 'lease expired: not acknowledged in time'
local KEPT_ATTEMPTS = 20

local function group_settings()
  return cjson.decode(redis.call('HGET', group, 'settings') or GROUP_DEFAULTS)
end

-- The row of XINFO GROUPS; nothing if the group (or the stream) is not there.
local function group_row()
  if redis.call('EXISTS', stream) == 0 then return end
  for _, row in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    if field(row, 'name') == name then return row end
  end
end

-- Whether there is such a group, also one that was lost and not yet made again.
local function group_exists()
  return redis.call('EXISTS', stream) == 1
    and (redis.call('EXISTS', group) == 1 or group_row() ~= nil)
end

-- Remembers the group, so that it can be made again and deleted with all it has.
local function register()
  redis.call('SADD', groups, name)
  redis.call('HSETNX', group, 'created', clock())
end

-- Each group that APIX uses has the consumer that holds what is parked, also while nothing is. Where
-- it is missing, another service has made the group anew.
local function make_group(from)
  redis.call('XGROUP', 'CREATE', stream, name, from)
  redis.call('XGROUP', 'CREATECONSUMER', stream, name, PARKED)
  register()
  redis.call('HSET', group, 'floor', from)
  redis.call('HDEL', group, 'remade')
end

-- The floor; one above the last id is of an earlier life of the stream.
local function usable_floor()
  local from = redis.call('HGET', group, 'floor') or '0-0'
  return sortable(from) > sortable(last_id()) and '0-0' or from
end

-- Whatever was out may have been handed out once more than anything written down says. Nobody holds
-- it any more, for however long the lease was.
local function note_loss()
  redis.call('UNLINK', held)
  local seq = redis.call('HINCRBY', group, 'lossSeq', 1)
  local marks = redis.call('HGET', group, 'marks') or ''
  redis.call('HSET', group, 'marks', marks .. string.format('%.0f', seq) .. ':' .. last_id() .. ' ')
end

-- Sets a group that was lost, and made anew by another service, back to its floor.
local function restore_group()
  local is_new = redis.call('XGROUP', 'CREATECONSUMER', stream, name, PARKED) == 1
  local was_lost = (is_new and redis.call('HEXISTS', group, 'floor') == 1)
    or redis.call('HEXISTS', group, 'remade') == 1
  if not was_lost then return end
  redis.call('XGROUP', 'SETID', stream, name, usable_floor())
  note_loss()
  redis.call('HDEL', group, 'remade')
end

-- Makes the group where there is none: at the start the first time, and from its floor when it was
-- lost. Returns whether it was made.
local function ensure_group()
  ensure_stream()
  if group_row() then
    restore_group()
    register()
    return false
  end
  local is_first = redis.call('EXISTS', group) == 0
  make_group(is_first and '0-0' or usable_floor())
  if not is_first then note_loss() end
  return true
end

-- Owner and delivery count of a pending event; nothing if it is not pending.
local function pending(id)
  local rows = redis.pcall('XPENDING', stream, name, id, id, 1)
  if rows.err then
    if string.find(rows.err, 'NOGROUP', 1, true) then return end
    rows = redis.call('XPENDING', stream, name, id, id, 1)
  end
  if rows[1] then return rows[1][2], rows[1][4] end
end

-- How often the event was handed out when an attempt at it last failed, which losses of the group
-- that count had seen, and the attempts as a flat list of time, consumer, reason.
local function recorded(id)
  local text = redis.call('HGET', attempts, id)
  if not text then return 0, 0, {} end
  local list = unpacked(text)
  local history = {}
  for i = 3, #list do history[i - 2] = list[i] end
  return tonumber(list[1]), tonumber(list[2]), history
end

-- Losses of the group that may have hidden one hand-out of this event each.
local function hidden_handouts(id, since)
  local marks = redis.call('HGET', group, 'marks')
  if not marks then return 0 end
  local hidden, this = 0, sortable(id)
  for seq, upto in string.gmatch(marks, '(%d+):(%d+%-%d+)') do
    if tonumber(seq) > since and this <= sortable(upto) then hidden = hidden + 1 end
  end
  return hidden
end

-- Writes a failed attempt down. Returns the delivery count: after a loss of the group the pending
-- list may know less than what was written down.
local function record(id, count, consumer, reason)
  local tried, seen, history = recorded(id)
  count = math.max(count, tried + hidden_handouts(id, seen) + 1)
  local list = { count, redis.call('HGET', group, 'lossSeq') or 0 }
  local first = math.max(1, #history - 3 * (KEPT_ATTEMPTS - 1) + 1)
  for i = first, #history do list[#list + 1] = history[i] end
  list[#list + 1] = string.format('%.0f', clock())
  list[#list + 1] = consumer
  list[#list + 1] = reason
  redis.call('HSET', attempts, id, packed(list))
  return count
end

-- Losses of the group up to now have hidden no hand-out of this event.
local function seen_now(id)
  local text = redis.call('HGET', attempts, id)
  if not text then return end
  local list = unpacked(text)
  list[2] = redis.call('HGET', group, 'lossSeq') or 0
  redis.call('HSET', attempts, id, packed(list))
end

-- After a loss the group may be handed again what it has apart from the stream, as a copy or a dead
-- letter, and a read that ends early leaves that pending. It is let go there; returns whether it was.
local function let_go_of_double(id)
  if hidden_handouts(id, 0) == 0 then return false end
  if redis.call('HEXISTS', side, id) == 0 and redis.call('HEXISTS', dead, id) == 0 then return false end
  redis.call('XACK', stream, name, id)
  return true
end

local function drop_side(id)
  redis.call('HDEL', side, id)
  redis.call('ZREM', sideix, sortable(id))
  redis.call('HDEL', out, id)
end

-- Nothing is left to do for this event.
local function settled(id)
  redis.call('XACK', stream, name, id)
  redis.call('ZREM', due, id)
  redis.call('ZREM', held, id)
  redis.call('HDEL', attempts, id)
  drop_side(id)
end

-- The entry went away before the group was done with it.
local function lost(id)
  settled(id)
  redis.call('HINCRBY', group, 'lost', 1)
end

-- Makes the event a dead letter. The copy is written before the acknowledgement: scripts are not
-- rolled back.
local function bury(id, fields, kind, reason)
  local _, _, history = recorded(id)
  local list = { kind, string.format('%.0f', clock()), reason, #history / 3 }
  for _, part in ipairs(history) do list[#list + 1] = part end
  for _, part in ipairs(fields) do list[#list + 1] = part end
  redis.call('HSET', dead, id, packed(list))
  redis.call('ZADD', deadix, 0, sortable(id))
  register()
  settled(id)
end

-- Keeps a copy of the event for the group apart from the stream.
local function keep_side(id, fields)
  redis.call('HSET', side, id, packed(fields))
  redis.call('ZADD', sideix, 0, sortable(id))
end

-- Readers learn of a due time when it becomes the first one.
local function due_at(id, at)
  redis.call('ZADD', due, string.format('%.0f', at), id)
  if redis.call('ZRANGE', due, 0, 0)[1] == id then
    redis.pcall('PUBLISH', bell, name .. ' ' .. string.format('%.0f', math.max(0, at - clock())))
  end
end

-- Milliseconds to the first due time; -1 if there is none.
local function due_in()
  local first = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
  if not first[1] then return -1 end
  return math.max(0, first[2] - clock())
end

-- Takes the event out of its holder's hands until it is due; false if the entry is gone.
local function park(id, at, count)
  -- The due time first: parked without one, it would wait for ever, and scripts are not rolled back.
  due_at(id, at)
  if #redis.call('XCLAIM', stream, name, PARKED, 0, id, 'RETRYCOUNT', count, 'JUSTID') == 0 then
    lost(id)
    return false
  end
  redis.call('ZREM', held, id)
  return true
end

-- Whose delivery it is now, its count, and whether it is of a copy; nothing if nobody's.
local function holder(id)
  local owner, count = pending(id)
  if owner and owner ~= PARKED then return owner, count, false end
  local reader = redis.call('HGET', out, id)
  if reader then return reader, recorded(id) + 1, true end
end

-- Whether the receipt (consumer and count, '' for any) is of the current delivery.
local function holds(owner, count, consumer, wanted)
  return owner and (consumer == '' or consumer == owner)
    and (wanted == '' or tonumber(wanted) == count)
end

-- When leases were last shortened, and what they were before: deliveries from before then keep it.
local function old_lease()
  local found = redis.call('HMGET', group, 'leaseChangedAt', 'oldLease')
  return tonumber(found[1] or '0'), tonumber(found[2] or '0')
end
