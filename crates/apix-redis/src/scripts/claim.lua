-- Hands out what is due. ARGV[4] is the consumer, ARGV[5] how many at most, ARGV[6] whether to go on
-- with new events here ('1'), as a group with a bound on deliveries must. Returns milliseconds to
-- the next due time, the lease, entries as {id, fields}, their delivery counts, new entries as
-- XREADGROUP returns them (or nothing).
local consumer, room = ARGV[4], tonumber(ARGV[5])
local settings = group_settings()
local summary = redis.call('XPENDING', stream, name)
restore_group()
if type(settings.maxInFlight) == 'number' then
  local taken = summary[1] + redis.call('HLEN', out)
  for _, row in ipairs(summary[4] or {}) do
    if row[1] == PARKED then taken = taken - row[2] end
  end
  room = math.min(room, settings.maxInFlight - taken)
end
local now = clock()
local entries, counts, bytes = {}, {}, 0
-- Bodies are copied, so few enough of them at a time; the rest is due at the next read.
local AT_MOST = 4 * 1024 * 1024
local function hand_out(id, fields, count)
  bytes = bytes + entry_bytes({ id, fields })
  entries[#entries + 1] = { id, fields }
  counts[#counts + 1] = count
end

local function from_side(id, copy)
  local reader = redis.call('HGET', out, id)
  local count = recorded(id)
  if reader then
    count = record(id, count + 1, reader, LEASE_EXPIRED)
    if count >= settings.maxDeliveries then
      bury(id, unpacked(copy), 'event', LEASE_EXPIRED)
      return
    end
  end
  redis.call('HSET', out, id, consumer)
  redis.call('ZADD', due, string.format('%.0f', now + settings.leaseMs), id)
  hand_out(id, unpacked(copy), count + 1)
end

local function from_stream(id)
  local owner, count = pending(id)
  redis.call('ZREM', due, id)
  if owner == PARKED and let_go_of_double(id) then return end
  if owner == PARKED then
    local claimed = redis.call('XCLAIM', stream, name, consumer, 0, id, 'RETRYCOUNT', count + 1)
    if claimed[1] then hand_out(id, claimed[1][2], count + 1) else lost(id) end
  elseif not owner and hidden_handouts(id, 0) == 0 then
    -- Another service acknowledged it. After a loss of the group it may yet come again.
    redis.call('HDEL', attempts, id)
  end
end

-- More than one look: what was settled by others makes no delivery.
for _ = 1, 10 do
  local ready = room - #entries
  local ids = ready > 0 and redis.call('ZRANGEBYSCORE', due, '-inf', string.format('%.0f', now), 'LIMIT', 0, ready) or {}
  for _, id in ipairs(ids) do
    if bytes > AT_MOST then break end
    local copy = redis.call('HGET', side, id)
    if copy then from_side(id, copy) else from_stream(id) end
  end
  if #ids == 0 or bytes > AT_MOST then break end
end
local new = false
if ARGV[6] == '1' and room > #entries then
  new = redis.call('XREADGROUP', 'GROUP', name, consumer, 'COUNT', room - #entries, 'STREAMS', stream, '>')
end
return { due_in(), settings.leaseMs, entries, counts, new }
