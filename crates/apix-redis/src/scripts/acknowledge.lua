-- Acknowledges deliveries whose holder is to be checked, or that may be of copies. ARGV[4..] are
-- id, consumer and count ('' for any) of each. Returns 1 (done), 0 (nothing was pending) or -1
-- (pending, but no longer with that holder) for each.
local results = {}
for i = 4, #ARGV, 3 do
  local id, consumer, wanted = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local owner, count = holder(id)
  local there = owner or pending(id) or redis.call('HEXISTS', side, id) == 1
  local result = 0
  if there then
    local theirs = consumer == '' or holds(owner, count, consumer, wanted)
    result = theirs and 1 or -1
  end
  if result == 1 then settled(id) end
  results[#results + 1] = result
end
return results
