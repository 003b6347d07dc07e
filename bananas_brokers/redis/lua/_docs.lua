-- Documents: key -> version 8, when it expires 8 (0: never), value. Absent once expired.
local function doc_of(stored)
  if not stored then return nil end
  local ends = struct.unpack('>d', stored, 9)
  if ends ~= 0 and ends <= now then return nil end
  return stored
end
