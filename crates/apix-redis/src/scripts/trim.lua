-- Applies retention, a bounded part of it. ARGV[2] is how often at most, in ms (0: now). Returns how
-- many entries were removed and 1 if there may be more.
if redis.call('EXISTS', stream) == 0 then return { 0, 0 } end
local now = clock()
local trimmed_at = tonumber(redis.call('HGET', state, 'trimmedAt') or '0')
if trimmed_at <= now and now - trimmed_at < tonumber(ARGV[2]) then return { 0, 0 } end
redis.call('HSET', state, 'trimmedAt', string.format('%.0f', now))
local settings = stream_settings()
forget_keys(settings.idempotency, 1000)
local retention, length = settings.retention, redis.call('XLEN', stream)
if length == 0 then return { 0, 0 } end

-- The first id that some group still needs; nothing if none does.
local rows, needed = redis.call('XINFO', 'GROUPS', stream), nil
local function need(id)
  if not needed or sortable(id) < sortable(needed) then needed = id end
end
local function after(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  if tonumber(seq) < 2 ^ 53 - 1 then return string.format('%s-%.0f', ms, tonumber(seq) + 1) end
  return id
end
local present = {}
for _, row in ipairs(rows) do
  local name = field(row, 'name')
  present[name] = true
  need(after(field(row, 'last-delivered-id')))
  if field(row, 'pending') > 0 then need(redis.call('XPENDING', stream, name)[2]) end
end
-- A group that was lost comes back at its floor.
for _, name in ipairs(redis.call('SMEMBERS', groups)) do
  if not present[name] then need(after(redis.call('HGET', prefix .. 'group:' .. name, 'floor') or '0-0')) end
end

local function lower(a, b)
  if not a or not b then return a or b end
  return sortable(a) < sortable(b) and a or b
end
-- A guess, where entries differ in size: it may only raise suspicion.
local guess, average = stored_bytes()
-- No more bytes than there are: what the server knows to hold, less its records of what is pending,
-- of which each takes less than 200. It looks at every node, so only where the guess is above.
local function bytes_above(limit)
  if guess <= limit then return 0 end
  local held = redis.call('MEMORY', 'USAGE', stream, 'SAMPLES', 0) or 0
  for _, row in ipairs(rows) do held = held - 200 * field(row, 'pending') end
  return math.min(guess, held) - limit
end
-- Bodies come with ids, so a script looks at few enough of them.
local AT_MOST, PAGE = 4 * 1024 * 1024, 1000
local removed, more = 0, 0

local function note_trimmed(last)
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  -- When only a part went, all below what is first now.
  if first and sortable(first[1]) <= sortable(last) then last = before(first[1]) end
  local noted = redis.call('HGET', state, 'trimmedTo')
  if not noted or sortable(noted) < sortable(last) then redis.call('HSET', state, 'trimmedTo', last) end
end

-- Removes what lies below `cut`: whole nodes first, which is cheap, then the rest of one.
local function trim_below(cut)
  local last = redis.call('XREVRANGE', stream, '(' .. cut, '-', 'COUNT', 1)[1]
  if not last then return end
  local count = redis.call('XTRIM', stream, 'MINID', '~', cut, 'LIMIT', 10000)
  if count < 9000 then
    count = count + redis.call('XTRIM', stream, 'MINID', '=', cut)
  else
    more = 1
  end
  removed = removed + count
  note_trimmed(last[1])
end

-- The oldest entries, none at or above `limit`, until there are `count` of them or they hold `bytes`.
local function oldest(count, bytes, limit)
  local ids, sum, from, step = {}, 0, '-', 8
  local upto = limit and '(' .. limit or '+'
  while #ids < count and sum < bytes do
    if sum >= AT_MOST or #ids >= PAGE then
      more = 1
      break
    end
    local page = redis.call('XRANGE', stream, from, upto, 'COUNT', math.min(step, count - #ids))
    for _, entry in ipairs(page) do
      if sum >= bytes then break end
      ids[#ids + 1] = entry[1]
      sum = sum + entry_bytes(entry)
    end
    if #page == 0 then break end
    from = '(' .. page[#page][1]
    step = math.max(1, math.min(PAGE, math.floor(AT_MOST / 2 * #ids / sum)))
  end
  return ids
end

if type(retention.maxAgeMs) == 'number' then
  trim_below(lower(string.format('%.0f-0', math.max(0, now - retention.maxAgeMs)), needed))
end
if type(retention.maxLen) == 'number' then
  local surplus = redis.call('XLEN', stream) - retention.maxLen
  local ids = oldest(surplus, math.huge, needed)
  if #ids > 0 then trim_below(after(ids[#ids])) end
end
local function fewer_bytes_than(limit, keep)
  guess = redis.call('XLEN', stream) * average
  local ids = oldest(math.huge, bytes_above(limit), keep)
  return ids, ids[1] and after(ids[#ids])
end
if type(retention.maxBytes) == 'number' then
  local _, cut = fewer_bytes_than(retention.maxBytes, needed)
  if cut then trim_below(cut) end
end

-- Beyond the hard limit the oldest go, needed or not. Nothing may stay in a pending list.
local function drop_from_groups(dropped)
  local counted = {}
  for _, row in ipairs(rows) do
    local name = field(row, 'name')
    local delivered = sortable(field(row, 'last-delivered-id'))
    local lost_here = 0
    for _, id in ipairs(dropped) do
      local is_lost = sortable(id) > delivered or redis.call('XACK', stream, name, id) == 1
      if is_lost then
        lost_here = lost_here + 1
        counted[id] = true
      end
    end
    if lost_here > 0 then redis.call('HINCRBY', prefix .. 'group:' .. name, 'lost', lost_here) end
  end
  local total = 0
  for _ in pairs(counted) do total = total + 1 end
  if total > 0 then redis.call('HINCRBY', state, 'hardDropped', total) end
end

if retention.hardMaxBytes > 0 then
  local ids, cut = fewer_bytes_than(retention.hardMaxBytes, nil)
  if cut then
    drop_from_groups(ids)
    trim_below(cut)
  end
end
return { removed, more }
