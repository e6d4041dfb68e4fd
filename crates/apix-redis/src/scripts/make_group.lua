-- Makes the group where there is none. Returns 1 if it was made.
return ensure_group() and 1 or 0
