-- Rejects or gives up one delivery. ARGV[4] id, ARGV[5] consumer and ARGV[6] count ('' for any),
-- ARGV[7] 'dead' or 'retry', ARGV[8] delay in ms ('' for the back-off), ARGV[9] reason, ARGV[10] a
-- random number in 0..1, ARGV[11] the longest delay that may pin the stream.
local id = ARGV[4]
-- A hundred years, in ms.
local LONGEST = 100 * 365 * 24 * 3600 * 1000
local owner, count, is_copy = holder(id)
if not holds(owner, count, ARGV[5], ARGV[6]) then return { 'lost' } end
local settings = group_settings()
count = record(id, count, owner, ARGV[9])

local fields
local function copy()
  if is_copy then
    local text = redis.call('HGET', side, id)
    fields = text and unpacked(text)
  else
    fields = body_of(id)
  end
  return fields
end

if ARGV[7] == 'dead' or count >= settings.maxDeliveries then
  if not copy() then
    lost(id)
    return { 'lost' }
  end
  bury(id, fields, 'event', ARGV[9])
  return { 'dead' }
end
local delay = tonumber(ARGV[8])
if not delay then
  local backoff = settings.backoff
  local grown = backoff.baseMs * backoff.factor ^ math.min(count - 1, 1000)
  -- Nothing times infinity is no number.
  delay = grown == grown and math.min(grown, backoff.maxMs, LONGEST) or 0
  delay = math.floor(delay * (1 - backoff.jitter * tonumber(ARGV[10])))
end
local at = clock() + delay
if is_copy then
  redis.call('HDEL', out, id)
  due_at(id, at)
elseif delay > tonumber(ARGV[11]) then
  if not copy() then
    lost(id)
    return { 'lost' }
  end
  keep_side(id, fields)
  due_at(id, at)
  redis.call('ZREM', held, id)
  redis.call('XACK', stream, name, id)
elseif not park(id, at, count) then
  return { 'lost' }
end
return { 'at', string.format('%.0f', at), string.format('%.0f', delay) }
