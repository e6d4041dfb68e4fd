-- Appends one event and shows it. KEYS[7] is the channel's last position on this stream. ARGV[2] is
-- '1' if the stream may be made here, ARGV[3] '1' if the stream was recorded as a feed of the channel
-- just now, and '0' if only by memory, ARGV[4] how long the position is kept, ARGV[5] the Pub/Sub
-- channel, ARGV[6] the channel's name, ARGV[7] the live form up to where it is open, ARGV[8] the
-- stream's name, then the event as in append. Returns id, repeated, receivers (-1: not shown).
local at = KEYS[7]
if ARGV[2] == '1' then
  ensure_stream()
elseif redis.call('EXISTS', stream) == 0 then
  return { 'absent' }
end
local epoch, previous = redis.call('HGET', state, 'epoch'), redis.call('GET', at)
if not epoch then return { 'absent' } end
-- Without a position the record may have gone with it (a flush, an expiry).
if not previous and ARGV[3] == '0' then return { 'feed' } end
local key, digest, parts = ARGV[9], ARGV[10], tonumber(ARGV[11])
local window
if key ~= '' then
  window = key_window()
  local id, same = known_key(window, key, digest)
  if id and not same then return { 'conflict', key } end
  if id then return { id, 1, -1 } end
end
local fields = { unpack(ARGV, 12, 11 + parts) }
if previous then
  fields[#fields + 1] = 'prevMessageId'
  fields[#fields + 1] = previous
end
local id = redis.call('XADD', stream, '*', unpack(fields))
if key ~= '' then remember_key(window, key, digest, id) end
redis.call('SET', at, id, 'PX', ARGV[4])
if not previous then redis.call('SADD', channels, ARGV[6]) end
local tail = ',"stream":"' .. ARGV[8] .. '","messageId":"' .. id .. '"'
if previous then tail = tail .. ',"prevMessageId":"' .. previous .. '"' end
-- The event stays whatever becomes of this: an ACL may forbid the channel.
local receivers = redis.pcall('PUBLISH', ARGV[5], ARGV[7] .. tail .. ',"epoch":"' .. epoch .. '"}')
if type(receivers) ~= 'number' then receivers = -1 end
return { id, 0, receivers }
