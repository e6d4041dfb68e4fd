-- Entries of other services that are no events become dead letters with their raw fields. ARGV[4]
-- is who read them, then id and reason of each.
for i = 5, #ARGV, 2 do
  local id = ARGV[i]
  local owner = pending(id)
  if owner == ARGV[4] then
    local fields = body_of(id)
    if fields then bury(id, fields, 'raw', ARGV[i + 1]) else lost(id) end
  end
end
return 1
