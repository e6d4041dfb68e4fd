-- What can be seen of the group. Nothing if there is none.
if not group_exists() then return false end
local row = group_row()
local total, oldest, parked, newest_lag = 0, nil, 0, false
local delivered = redis.call('HGET', group, 'floor') or '0-0'
local consumers, idle = {}, -1
if row then
  delivered = field(row, 'last-delivered-id')
  newest_lag = field(row, 'lag')
  local summary = redis.call('XPENDING', stream, name)
  total = summary[1]
  if total > 0 then oldest = summary[2] end
  local held_copies = {}
  for _, reader in ipairs(redis.call('HVALS', out)) do
    held_copies[reader] = (held_copies[reader] or 0) + 1
  end
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, name)) do
    local owner, count = field(consumer, 'name'), field(consumer, 'pending')
    local quiet = field(consumer, 'idle')
    if owner == PARKED then
      parked = count
    else
      consumers[#consumers + 1] = { owner, count + (held_copies[owner] or 0), quiet }
      if idle < 0 or quiet < idle then idle = quiet end
    end
  end
end
local handed_copies = redis.call('HLEN', out)
local copies = redis.call('HLEN', side)
local function older(id)
  if id and (not oldest or sortable(id) < sortable(oldest)) then oldest = id end
end
local first_copy = redis.call('ZRANGEBYLEX', sideix, '-', '+', 'LIMIT', 0, 1)[1]
if first_copy then
  local ms, seq = string.match(first_copy, '^0*(%d+)%-0*(%d+)$')
  older(ms .. '-' .. seq)
end
local unread = redis.call('XRANGE', stream, '(' .. delivered, '+', 'COUNT', 1)
if unread[1] then older(unread[1][1]) end
-- What was trimmed unread still counts in the server's lag.
local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
if not first then
  newest_lag = 0
elseif sortable(first[1]) > sortable(delivered) then
  newest_lag = redis.call('XLEN', stream)
end
-- After deletions the server does not know: counted, up to bounds in number and bytes.
local function count_unread()
  local count, bytes, from = 0, 0, '(' .. delivered
  while count <= 1000 and bytes < 4 * 1024 * 1024 do
    local page = redis.call('XRANGE', stream, from, '+', 'COUNT', 10)
    for _, entry in ipairs(page) do bytes = bytes + entry_bytes(entry) end
    count = count + #page
    if #page < 10 then return count end
    from = '(' .. page[#page][1]
  end
  return -1
end
if type(newest_lag) ~= 'number' then newest_lag = count_unread() end
return {
  delivered, newest_lag, total - parked + handed_copies, parked + copies - handed_copies,
  redis.call('HLEN', dead), oldest or '', string.format('%.0f', clock()),
  redis.call('HGET', group, 'lost') or 0, idle, redis.call('HGET', group, 'settings') or '', consumers,
}
