-- Ids, entries and packed lists: what scripts that look into the stream begin with, after
-- stream.lua. STREAM_DEFAULTS is defined above.
-- Ids as text that sorts as they do.
local function sortable(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return string.rep('0', 20 - #ms) .. ms .. '-' .. string.rep('0', 20 - #seq) .. seq
end

-- The largest id below this one; a lower one where a double can't tell them apart.
local function before(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  if seq ~= '0' and tonumber(seq) < 2 ^ 53 then
    return string.format('%s-%.0f', ms, tonumber(seq) - 1)
  elseif ms == '0' then
    return '0-0'
  end
  return string.format('%.0f-18446744073709551615', tonumber(ms) - 1)
end

-- A list of strings as one string, each with its length before it.
local function packed(list)
  local parts = {}
  for i, text in ipairs(list) do
    text = tostring(text)
    parts[i] = #text .. ':' .. text
  end
  return table.concat(parts)
end

local function unpacked(text)
  local list, at = {}, 1
  while at <= #text do
    local colon = string.find(text, ':', at, true)
    local length = tonumber(string.sub(text, at, colon - 1))
    list[#list + 1] = string.sub(text, colon + 1, colon + length)
    at = colon + length + 1
  end
  return list
end

local function field(row, name)
  for i = 1, #row, 2 do
    if row[i] == name then return row[i + 1] end
  end
end

local function stream_settings()
  return cjson.decode(redis.call('HGET', state, 'settings') or STREAM_DEFAULTS)
end

local function last_id()
  return field(redis.call('XINFO', 'STREAM', stream), 'last-generated-id')
end

-- The body of an entry; nothing if it is gone.
local function body_of(id)
  local found = redis.call('XRANGE', stream, id, id)
  return found[1] and found[1][2]
end

-- Bytes of what a producer sent, with 16 for the id.
local function entry_bytes(entry)
  local sum = 16
  for i = 2, #entry[2], 2 do sum = sum + #entry[2][i] end
  return sum
end

-- Bytes of all entries, and the average of one. Beyond 16 entries by the oldest and newest 8, which
-- is a guess where entries differ in size.
local function stored_bytes()
  local length, sum, seen = redis.call('XLEN', stream), 0, 0
  if length == 0 then return 0, 1 end
  local function add(entries)
    for _, entry in ipairs(entries) do sum, seen = sum + entry_bytes(entry), seen + 1 end
  end
  if length <= 16 then
    add(redis.call('XRANGE', stream, '-', '+'))
  else
    add(redis.call('XRANGE', stream, '-', '+', 'COUNT', 8))
    add(redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 8))
  end
  local average = math.max(1, sum / seen)
  return math.floor(average * length), average
end
