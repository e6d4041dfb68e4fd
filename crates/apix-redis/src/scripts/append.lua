-- Appends events, all or none. ARGV[2] is '1' if the stream may be made here, because it was listed
-- among its tenant's, ARGV[3] the last id that it must have ('*' for any, '' for none yet), ARGV[4]
-- the number of events; each is: idempotency key ('' for none), digest, number of field parts,
-- field parts. Returns id and 0 or 1 (repeated) of each.
if ARGV[2] == '1' then
  ensure_stream()
elseif redis.call('EXISTS', stream) == 0 then
  return { 'absent' }
end
local events, at = {}, 5
for i = 1, tonumber(ARGV[4]) do
  local parts = tonumber(ARGV[at + 2])
  events[i] = { key = ARGV[at], digest = ARGV[at + 1], from = at + 3, to = at + 2 + parts }
  at = at + 3 + parts
end

local window
local results, in_batch = {}, {}
for i, event in ipairs(events) do
  if event.key ~= '' then
    window = window or key_window()
    local id, same = known_key(window, event.key, event.digest)
    local earlier = in_batch[event.key]
    if (id and not same) or (earlier and events[earlier].digest ~= event.digest) then
      return { 'conflict', event.key }
    end
    event.id, event.like = id, earlier
    if not earlier then in_batch[event.key] = i end
  end
end
if ARGV[3] ~= '*' and not (events[1] and events[1].id) then
  local info, last = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
  if last == '0-0' then last = '' end
  if last ~= ARGV[3] then return { 'moved', last } end
end
for i, event in ipairs(events) do
  local id, repeated = event.id, 1
  if not id and event.like then id = events[event.like].id end
  if not id then
    id, repeated = redis.call('XADD', stream, '*', unpack(ARGV, event.from, event.to)), 0
    event.id = id
    if event.key ~= '' then remember_key(window, event.key, event.digest, id) end
  end
  results[#results + 1] = id
  results[#results + 1] = repeated
end
return results
