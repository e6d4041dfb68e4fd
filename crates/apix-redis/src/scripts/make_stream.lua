-- Makes the stream where there is none, and gives one of another service its epoch.
return ensure_stream() and 1 or 0
