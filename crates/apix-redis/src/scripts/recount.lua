-- After the group was lost and made again: true delivery counts of entries that were just read.
-- ARGV[4] is the consumer, the rest ids. Returns a count for each; 0 for what must not be handed
-- out, because it is a dead letter, waits for its time, or lies beside the stream.
local counts = {}
for i = 5, #ARGV do
  local id = ARGV[i]
  local tried, seen = recorded(id)
  local count = tried + hidden_handouts(id, seen) + 1
  local owner = pending(id)
  if owner ~= ARGV[4] then
    count = 0
  elseif redis.call('HEXISTS', side, id) == 1 or redis.call('HEXISTS', dead, id) == 1 then
    redis.call('XACK', stream, name, id)
    count = 0
  elseif redis.call('ZSCORE', due, id) then
    -- It was parked when the group was lost, so nothing is hidden.
    redis.call('XCLAIM', stream, name, PARKED, 0, id, 'RETRYCOUNT', tried, 'JUSTID')
    seen_now(id)
    count = 0
  elseif count > 1 then
    redis.call('XCLAIM', stream, name, ARGV[4], 0, id, 'RETRYCOUNT', count, 'JUSTID')
  end
  counts[#counts + 1] = count
end
return counts
