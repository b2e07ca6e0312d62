-- crucible doctor: what this machine gives the library, and what makes it slow.
--
-- Facts come from the core and from /proc and /sys; where a system has none of these, the line is left out.
local core = require "crucible.core"
local fs = require "crucible.fs"
local json = require "crucible.json"
local models = require "crucible.models"
local paths = require "crucible.paths"
local program = require "crucible.program"
local schema = require "crucible.schema"
local terminal = require "crucible.terminal"

local command = {
  summary = "shows processor, threads, memory, cache, and what is slow and why",
  usage = "[options]",
  description = [[
Matrix products are the library's own kernels; no BLAS is linked or looked for. With --measure a short pass over a model
says how much of the processor they use. Exits with 1 when something must be mended before anything can run.
]],
}

command.options = schema.new("crucible doctor", {
  { name = "measure", default = false, check = schema.boolean, doc = "run a model for some seconds" },
  { name = "model", default = "smollm2-135m-instruct", check = schema.nonempty_string,
    doc = "the one that is measured" },
  { name = "threads", default = 0, check = schema.integer { min = 0 }, doc = "0 = all" },
  { name = "json", default = false, check = schema.boolean, doc = "as JSON" },
})

-- ---- reading the system --------------------------------------------------------------------------

local function read(path)
  local handle = io.open(path, "r")
  if not handle then return nil end
  local text = handle:read "a"
  handle:close()
  return text
end

local function first_match(path, pattern)
  local text = read(path)
  return text and text:match(pattern)
end

local FLAGS = { "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_bf16", "avx512_vnni", "amx_bf16",
  "amx_tile", "asimd", "bf16", "sve" }

local function processor()
  local text = read "/proc/cpuinfo" or ""
  local flags = text:match "\nflags%s*:%s*([^\n]*)" or text:match "\nFeatures%s*:%s*([^\n]*)" or ""
  local known = {}
  for _, flag in ipairs(FLAGS) do
    if (" " .. flags .. " "):find(" " .. flag .. " ", 1, true) then known[#known + 1] = flag end
  end
  local name = text:match "model name%s*:%s*([^\n]*)" or "unknown"
  return { name = name, instructions = known, kernels = core.kernel_name() }
end

-- Cores of a list such as "0-3,8".
local function count_list(list)
  local count = 0
  for piece in (list or ""):gmatch "[^,%s]+" do
    local first, last = piece:match "^(%d+)%-(%d+)$"
    count = count + (first and last - first + 1 or 1)
  end
  return count
end

local function quota()
  local limit, period = (read "/sys/fs/cgroup/cpu.max" or ""):match "^(%d+) (%d+)"
  if limit then return tonumber(limit) / tonumber(period) end
  local old = tonumber(read "/sys/fs/cgroup/cpu/cpu.cfs_quota_us" or "")
  local base = tonumber(read "/sys/fs/cgroup/cpu/cpu.cfs_period_us" or "")
  return old and old > 0 and base and old / base or nil
end

local function threads()
  local online = read "/sys/devices/system/cpu/online"
  local allowed = first_match("/proc/self/status", "Cpus_allowed_list:%s*(%S+)")
  return {
    used = core.available_threads(), online = online and count_list(online), affinity = allowed and count_list(allowed),
    quota = quota(), load = tonumber((read "/proc/loadavg" or ""):match "^(%S+)"),
    siblings = count_list(read "/sys/devices/system/cpu/cpu0/topology/thread_siblings_list"),
    governor = (read "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor" or ""):match "%S+",
  }
end

local function kilobytes(name)
  local value = first_match("/proc/meminfo", name .. ":%s*(%d+) kB")
  return value and math.tointeger(tonumber(value)) * 1024
end

local function memory()
  local limit = tonumber((read "/sys/fs/cgroup/memory.max" or read "/sys/fs/cgroup/memory/memory.limit_in_bytes" or "")
    :match "^%d+")
  local total = kilobytes "MemTotal"
  return {
    total = total, available = kilobytes "MemAvailable",
    swap_used = (kilobytes "SwapTotal" or 0) - (kilobytes "SwapFree" or 0),
    limit = limit and total and limit < total and limit or nil,
  }
end

local function folder_bytes(path)
  local bytes = 0
  for _, name in ipairs(fs.list(path) or {}) do
    local stat = fs.stat(paths.join(path, name))
    bytes = bytes + (stat and (stat.folder and folder_bytes(paths.join(path, name)) or stat.size) or 0)
  end
  return bytes
end

local function is_writable(folder)
  if not fs.make_folder(folder) then return false end
  local probe = paths.join(folder, ".doctor")
  local ok = fs.write_file(probe, "")
  if ok then fs.remove_tree(probe) end
  return ok ~= nil
end

local function cache()
  local here, folder = {}, paths.cache()
  for _, name in ipairs(models.names()) do
    if paths.is_file(models.cached_path(models.find(name))) then here[#here + 1] = name end
  end
  return {
    folder = folder, bytes = paths.is_folder(folder) and folder_bytes(folder) or 0, writable = is_writable(folder),
    models = here, offline = require("crucible.download").is_offline(),
  }
end

local function versions()
  local crucible = require "crucible"
  local instrumented = pcall(require, "crucible.core.debug")
  return {
    crucible = crucible._VERSION:match "%S+$", lua = _VERSION,
    editing = pcall(require, "crucible.editline"), instrumented = instrumented,
    system = (read "/proc/version" or ""):match "^(%S+ %S+ %S+)",
  }
end

-- ---- what is slow --------------------------------------------------------------------------------

local function has(list, word)
  for _, one in ipairs(list) do
    if one == word then return true end
  end
  return false
end

local function kernel_findings(found, add)
  local cpu = found.processor
  if cpu.kernels == "portable" then
    add("the portable kernels are in use, some ten times slower than those for AVX2: " ..
      (has(cpu.instructions, "avx2") and "this build has none for this processor"
        or "the processor (or what virtualises it) offers neither AVX2 nor NEON"))
  elseif cpu.kernels == "avx2" and has(cpu.instructions, "avx512f") then
    add "the processor has AVX-512, but not all of F, BW, VL and DQ: the AVX2 kernels are in use"
  end
  if found.versions.instrumented then
    add "this build is instrumented (debug or sanitize): build the preset `release` for speed"
  end
end

local function thread_findings(found, add)
  local t = found.threads
  if t.quota and t.online and t.quota < t.online then
    add(("a quota of %.1f processors of %d: threads are limited to it"):format(t.quota, t.online))
  end
  if t.affinity and t.online and t.affinity < t.online then
    add(("only %d of %d processors may be used (affinity)"):format(t.affinity, t.online))
  end
  if t.load and t.used and t.load > t.used then
    add(("the load is %.1f on %d threads: other programs take part of them"):format(t.load, t.used))
  end
  if t.governor == "powersave" then add "the frequency governor is powersave: the clock may stay low" end
end

local function memory_findings(found, add)
  local m = found.memory
  local room = math.min(m.available or math.huge, m.limit or math.huge)
  if room < 1e9 then
    add(("%.1f GB of memory are left: weights may be read from disk again and again"):format(room / 1e9))
  end
  if m.swap_used > 1e8 then add(("%.1f GB are swapped out"):format(m.swap_used / 1e9)) end
  if not found.cache.writable then
    add(("the cache %s cannot be written: nothing can be fetched"):format(found.cache.folder))
  end
  if not found.versions.editing then
    add "lines of the prompt are not edited: libedit was not there at build time (libedit-dev)"
  end
end

local function findings(found)
  local list = {}
  local function add(text) list[#list + 1] = text end
  kernel_findings(found, add)
  thread_findings(found, add)
  memory_findings(found, add)
  return list
end

-- ---- measuring -----------------------------------------------------------------------------------

local TOKENS = 512

-- Floating-point operations a second of a pass forward: 2 for each parameter and token, attention left out.
local function measure(given)
  local session, message, code = program.open_session(given)
  if not session then return nil, message, code end
  local guard <close> = session
  local tokens = {}
  for i = 1, math.min(TOKENS, session.context) do tokens[i] = i * 7919 % session.tokenizer.size end
  local best = math.huge
  for _ = 1, 3 do
    local started = fs.clock()
    local done
    done, message, code = guard:forward { { tokens = tokens } }
    if not done then return nil, message, code end
    best = math.min(best, fs.clock() - started)
  end
  return { model = session.model.name, tokens_per_s = #tokens / best,
    gflops = 2 * session.model.info.parameters * #tokens / best / 1e9 }
end

-- ---- telling -------------------------------------------------------------------------------------

local function gigabytes(bytes) return bytes and ("%.1f GB"):format(bytes / 1e9) or "?" end

local function rows_of(found)
  local cpu, t, m, c, v = found.processor, found.threads, found.memory, found.cache, found.versions
  local rows = {
    { "version", ("crucible %s, %s"):format(v.crucible, v.lua) },
    { "system", v.system or "?" },
    { "processor", cpu.name },
    { "instructions", #cpu.instructions > 0 and table.concat(cpu.instructions, " ") or "?" },
    { "products by", ("own kernels, %s (no BLAS is linked)"):format(cpu.kernels) },
    { "threads", ("%d used; %s online, affinity %s, quota %s, load %s"):format(t.used, t.online or "?",
      t.affinity or "?", t.quota and ("%.1f"):format(t.quota) or "none", t.load or "?") },
    { "memory", ("%s available of %s%s"):format(gigabytes(m.available), gigabytes(m.total),
      m.limit and ", limit " .. gigabytes(m.limit) or "") },
    { "cache", ("%s, %s%s"):format(c.folder, gigabytes(c.bytes), c.offline and ", offline" or "") },
    { "models here", #c.models > 0 and table.concat(c.models, ", ") or "none" },
    { "line editing", v.editing and "libedit" or "none" },
  }
  local speed = found.measured
  if speed then
    rows[#rows + 1] = { "measured", ("%s: %.0f tokens/s forward, %.0f GFLOP/s"):format(speed.model, speed.tokens_per_s,
      speed.gflops) }
  end
  return rows
end

local function text_of(found)
  local text = terminal.table({ "doctor", "" }, rows_of(found))
  if #found.slow == 0 then return text .. "\nnothing slow was found\n" end
  local lines = {}
  for i, finding in ipairs(found.slow) do lines[i] = terminal.wrap("- " .. finding, 78):gsub("\n", "\n  ") end
  return text .. "\nwhat is slow, and why\n" .. table.concat(lines, "\n") .. "\n"
end

--- Runs the command.
---@param given table
---@param streams crucible.cli.Streams
---@return integer|true|nil ok, string? message, string? code
function command.run(given, streams)
  local found = {
    processor = processor(), threads = threads(), memory = memory(), cache = cache(), versions = versions(),
  }
  found.slow = findings(found)
  if given.measure then
    local message, code
    found.measured, message, code = measure(given)
    if not found.measured then return nil, message, code end
  end
  streams.out:write(given.json and json.encode_pretty(found) or text_of(found))
  return found.cache.writable and 0 or 1
end

return command
