-- Acknowledges what the consumer holds. KEYS: stream, attempts. ARGV[1] is the group, ARGV[2] the
-- consumer, then id and delivery count ('' for any) of each, in the order of ids. Returns how many were
-- acknowledged, then the places (from 0) of those that it does not hold, or that lie beside the
-- stream. It has no beginning in common with others, as it runs for nearly every delivery.
local stream, attempts, group, consumer = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local most = (#ARGV - 2) / 2
-- What was read together lies together.
local rows = redis.pcall('XPENDING', stream, group, ARGV[3], ARGV[#ARGV - 1], most, consumer)
if rows.err then
  if not string.find(rows.err, 'NOGROUP', 1, true) then return rows end
  rows = {}
end
local counts = {}
for _, row in ipairs(rows) do counts[row[1]] = row[4] end
local held, tried, done = {}, {}, { 0 }
for i = 3, #ARGV, 2 do
  local id, wanted = ARGV[i], ARGV[i + 1]
  local count = counts[id]
  if not count and #rows == most then
    local row = redis.call('XPENDING', stream, group, id, id, 1, consumer)[1]
    count = row and row[4]
  end
  if count and (wanted == '' or tonumber(wanted) == count) then
    held[#held + 1] = id
    if count > 1 then tried[#tried + 1] = id end
  else
    done[#done + 1] = (i - 3) / 2
  end
end
if #held > 0 then done[1] = redis.call('XACK', stream, group, unpack(held)) end
-- Attempts that failed before are of no interest any more.
if #tried > 0 then redis.call('HDEL', attempts, unpack(tried)) end
return done
