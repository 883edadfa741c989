-- What a script finds beside Lua's own: redis, and a _G that is closed.
local raw, sha1hex, parsed, encoded, null, searched = ...
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

-- Lua's own comparison counts no instructions, nor does a function in C, and some lists take their length squared.
local sort = table.sort
function table.sort(list, before)
  if before == nil then return sort(list, function(a, b) return a < b end) end
  if type(before) ~= "function" then error("bad argument #2 to 'sort' (function expected, got " .. type(before) .. ")", 2) end
  return sort(list, function(a, b) return before(a, b) end)
end

-- Lua's own functions on patterns may never come back, or overflow the stack: these use a matcher that can do neither.
local type, tostring, tonumber, error, select = type, tostring, tonumber, error, select
local sub, concat = string.sub, table.concat

local function text(value, at, name)
  if type(value) == "string" then return value end
  if type(value) == "number" then return tostring(value) end
  error("bad argument #" .. at .. " to '" .. name .. "' (string expected, got " .. type(value) .. ")", 3)
end

local function checked(first, ...)
  if first == false then error((...), 4) end
  return first, ...
end

local function search(...) return checked(searched(...)) end

-- How many bytes of a text stand in front of the place where a search begins.
local function skipped(init, length, name)
  init = tonumber(init or 1)
  if not init then error("bad argument #3 to '" .. name .. "' (number expected)", 3) end
  if init < 0 then init = init + length + 1 end
  if not (init > 1) then return 0 end
  if init > length then return length end
  return init - init % 1 - 1
end

local function captured(s, first, last, ...)
  if not first then return nil end
  if select("#", ...) == 0 then return sub(s, first, last) end
  return ...
end

function string.find(s, p, init, plain)
  s, p = text(s, 1, "find"), text(p, 2, "find")
  return search(s, p, skipped(init, #s, "find"), plain and "plain" or "find")
end

function string.match(s, p, init)
  s, p = text(s, 1, "match"), text(p, 2, "match")
  return captured(s, search(s, p, skipped(init, #s, "match"), "match"))
end

function string.gmatch(s, p)
  s, p = text(s, 1, "gmatch"), text(p, 2, "gmatch")
  local from = 0
  local function step(first, last, ...)
    if not first then
      from = #s + 1
      return nil
    end
    from = last < first and last + 1 or last
    return captured(s, first, last, ...)
  end
  return function() return step(search(s, p, from, "gmatch")) end
end
if string.gfind then string.gfind = string.gmatch end

-- A replacement as a list: texts, and numbers of captures.
local function parts_of(replacement)
  local parts, from = {}, 0
  while true do
    local at = search(replacement, "%", from, "plain")
    if not at then
      parts[#parts + 1] = sub(replacement, from + 1)
      return parts
    end
    parts[#parts + 1] = sub(replacement, from + 1, at - 1)
    local behind = sub(replacement, at + 1, at + 1)
    parts[#parts + 1] = behind >= "0" and behind <= "9" and tonumber(behind) or behind
    from = at + 1
    if from > #replacement then return parts end
  end
end

local function expanded(parts, whole, ...)
  local out, count = {}, select("#", ...)
  for at = 1, #parts do
    local part = parts[at]
    if type(part) == "number" then
      if part == 0 or part == 1 and count == 0 then
        part = whole
      elseif part > count then
        error("invalid capture index", 5)
      else
        part = select(part, ...)
      end
    end
    out[at] = part
  end
  return concat(out)
end

local function replaced(s, replacement, parts, first, last, ...)
  if not first then return nil end
  local whole, value = sub(s, first, last), nil
  if parts then
    value = expanded(parts, whole, ...)
  elseif type(replacement) == "table" then
    value = replacement[(captured(s, first, last, ...))]
  else
    value = replacement(captured(s, first, last, ...))
  end
  if not value then return first, last, whole end
  if type(value) ~= "string" and type(value) ~= "number" then
    error("invalid replacement value (a " .. type(value) .. ")", 4)
  end
  return first, last, value
end

function string.gsub(s, p, replacement, most)
  s, p = text(s, 1, "gsub"), text(p, 2, "gsub")
  local kind, parts = type(replacement), nil
  if kind == "string" or kind == "number" then
    parts = parts_of(tostring(replacement))
  elseif kind ~= "table" and kind ~= "function" then
    error("bad argument #3 to 'gsub' (string/function/table expected)", 2)
  end
  most = tonumber(most or #s + 1)
  if not most then error("bad argument #4 to 'gsub' (number expected)", 2) end
  local out, count, from, is_anchored = {}, 0, 0, sub(p, 1, 1) == "^"
  while count < most do
    local first, last, value = replaced(s, replacement, parts, search(s, p, from, "match"))
    if not first then break end
    count = count + 1
    out[#out + 1] = sub(s, from + 1, first - 1)
    out[#out + 1] = value
    from = last
    if last < first then
      -- Of nothing: the byte behind it is passed over.
      out[#out + 1] = sub(s, first, first)
      from = first
    end
    if is_anchored or from > #s then break end
  end
  out[#out + 1] = sub(s, from + 1)
  return concat(out), count
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
