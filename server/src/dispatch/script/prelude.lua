-- What a script finds beside Lua's own: redis, and a _G that is closed.
local raw, sha1hex, parsed, encoded, null = ...
local forbidden = {"dofile", "loadfile", "load", "loadstring", "require", "module", "collectgarbage", "print", "getfenv",
  "setfenv", "newproxy", "package", "io", "os", "debug", "coroutine"}
for _, name in ipairs(forbidden) do rawset(_G, name, nil) end
string.dump = nil

-- Lua's own counts in 32 bits, and what does not fit there passes its check (CVE-2025-46817).
local unchecked = unpack
function unpack(list, from, to)
  if type(list) ~= "table" then return unchecked(list) end
  from, to = tonumber(from or 1), tonumber(to or #list)
  if not from or not to then error("bad argument to 'unpack' (number expected)", 2) end
  -- So written that what is no number at all fails too.
  if not (to - from < 8000 and from > -2147483648 and to < 2147483647) then error("too many results to unpack", 2) end
  return unchecked(list, from, to)
end

local function call(...)
  local reply = raw(...)
  if type(reply) == "table" and reply.err then error(reply) end
  return reply
end

redis = {
  call = call,
  pcall = function(...) return raw(...) end,
  error_reply = function(text)
    if string.sub(text, 1, 1) == "-" then text = string.sub(text, 2) end
    return {err = text}
  end,
  status_reply = function(text) return {ok = text} end,
  sha1hex = sha1hex,
  log = function() end,
  setresp = function() end,
  replicate_commands = function() return true end,
  set_repl = function() end,
  LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
  REPL_NONE = 0, REPL_SLAVE = 1, REPL_REPLICA = 1, REPL_AOF = 2, REPL_ALL = 3,
}
server = redis
cjson = {decode = parsed, encode = encoded, null = null}

-- Other metatables would let a script reach what the next line closes.
local protected = getmetatable("")
protected.__metatable = false
setmetatable(_G, {
  __metatable = false,
  __newindex = function(_, name)
    error("Script attempted to create global variable '" .. tostring(name) .. "'", 2)
  end,
  __index = function(_, name)
    error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
  end,
})

return function(chunk)
  return pcall(chunk)
end
