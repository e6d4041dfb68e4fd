-- Bytes of what producers sent. Nothing if there is no stream.
if redis.call('EXISTS', stream) == 0 then return false end
return (stored_bytes())
