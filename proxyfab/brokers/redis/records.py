"""Records come and go: publishing, what is known again, what makes room; and what reading without a group sees."""

from __future__ import annotations

from proxyfab.brokers.redis.scripts import HISTORY, Script

PUBLISH = Script(
    """
-- words: partition, id, size of each record, whose bodies were added to the streams just before; an id that begins with
-- a zero byte is not told to readers
local topic = limits()
local count = #ARGV / 3
local added = {}
for i = 1, count do added[ARGV[3 * i - 2]] = (added[ARGV[3 * i - 2]] or 0) + 1 end
local function undo(answer)  -- as if they had never been there
    for p in pairs(added) do
        local stream, first, last = base .. 's:' .. p, ends(p)
        if call('EXISTS', stream) == 1 then
            local there = call('XLEN', stream)
            for n = last + 1, first + there - 1 do call('XDEL', stream, '0-' .. whole(n)) end
            call('XSETID', stream, '0-' .. whole(last))
        end
    end
    return answer
end
if not topic then return undo(GONE) end
if count == 0 then return {} end
local now = clock()
local answers, ids, known, more = {}, {}, false, 0
for i = 1, count do
    ids[i] = ARGV[3 * i - 1]
    more = more + tonumber(ARGV[3 * i])
    local p = ARGV[3 * i - 2]
    if tonumber(p) >= topic.partitions then return undo(redis.error_reply('NOPARTITION ' .. p)) end
end
for i, spot in ipairs(call('HMGET', base .. 's:d', unpack(ids))) do
    local p, n, at = string.match(spot or '', '^(%d+) (%d+) (%d+)$')
    answers[i] = ''
    if p and tonumber(at) >= now - topic.window then
        answers[i] = p .. ' ' .. n
        known = true
    end
end
for p, number in pairs(added) do  -- what somebody has added whose script was not known is in front of ours
    local first, last = ends(p)
    if call('XLEN', base .. 's:' .. p) ~= last - first + 1 + number then known = true end
end
if known then return undo(answers) end

local function expire(p)
    if topic.retention then
        local first = kept(p, topic, now)
        drop(p, first - 1, math.huge)
    end
end
local function held() return tonumber(call('HGET', counters, 'b') or 0) end
local function done(p)  -- what every group has acknowledged
    local upto = nil
    for _, name in ipairs(call('SMEMBERS', base .. 'g')) do
        local theirs = floor(name, p)
        upto = upto and math.min(upto, theirs) or theirs
    end
    local _, last = ends(p)
    return math.min(upto or 0, last)
end
local function room(limit)
    for p = 0, topic.partitions - 1 do expire(p) end
    for p = 0, topic.partitions - 1 do
        local wanted = held() + more - limit
        if wanted <= 0 then return true end
        drop(p, done(p), wanted)
    end
    if held() + more <= limit or not topic.bytes then return true end
    if topic.full == 'reject' or more > limit then return false end
    while held() + more > limit do
        local oldest, when = nil, nil
        for p = 0, topic.partitions - 1 do
            local _, at = entry(p, 0)
            if at and (not when or at < when) then oldest, when = p, at end
        end
        if not oldest then break end
        local first = ends(oldest)
        drop(oldest, first, math.huge)
    end
    return true
end
local limit = topic.bytes or HISTORY
if held() + more > limit and not room(limit) then
    return undo(redis.error_reply('FULL ' .. whole(held()) .. ' ' .. whole(more) .. ' ' .. whole(limit)))
end

local last, sizes, bytes, seen, order = {}, {}, {}, {}, {}
local stamp = whole(now)
for i, id in ipairs(ids) do
    local p, size = ARGV[3 * i - 2], ARGV[3 * i]
    if not last[p] then
        local _, n = ends(p)
        last[p], sizes[p], bytes[p] = n, {}, 0
    end
    last[p] = last[p] + 1
    bytes[p] = bytes[p] + tonumber(size)
    local n = whole(last[p])
    table.insert(sizes[p], size .. ' ' .. stamp .. ' ' .. (string.byte(id) == 0 and '' or id))
    seen[#seen + 1] = id seen[#seen + 1] = p .. ' ' .. n .. ' ' .. stamp
    order[i] = stamp .. ' ' .. id
    answers[i] = p .. ' ' .. n
end
for p, n in pairs(last) do
    many('RPUSH', base .. 's:z:' .. p, sizes[p])
    call('HSET', counters, 'n' .. p, whole(n))
    call('HINCRBY', counters, 'b' .. p, bytes[p])
    expire(p)
end
local function past(each) return each and tonumber(string.match(each, '^%d+')) < now - topic.window end
while past(call('LINDEX', base .. 's:q', 0)) do  -- forget the ids behind the window
    local oldest = call('LRANGE', base .. 's:q', 0, 99)
    local old = {}
    for _, each in ipairs(oldest) do
        if not past(each) then break end
        old[#old + 1] = string.match(each, '^%d+ (.*)$')
    end
    call('HDEL', base .. 's:d', unpack(old))
    call('LTRIM', base .. 's:q', #old, -1)
end
call('HINCRBY', counters, 'b', more)
many('HSET', base .. 's:d', seen)
many('RPUSH', base .. 's:q', order)
for _, key in ipairs({'s:d', 's:q'}) do call('PEXPIRE', base .. key, whole(2 * topic.window / 1000 + 1000)) end
ring(base .. 'b')
answers[count + 1] = 'taken'
return answers
""".replace("HISTORY", str(HISTORY))
)
"""To `s`, in one transaction behind the bodies: where each record lies, "<partition> <offset>", and "taken" at the end.

Where some are known already nothing is taken, and "" is said of those that are not.
"""

CUT = Script(
    """
-- words: how many at most; partition and offset up to which its records go
local topic = limits()
if not topic then return GONE end
for i = 2, #ARGV, 2 do
    if tonumber(ARGV[i]) >= topic.partitions then return redis.error_reply('NOPARTITION ' .. ARGV[i]) end
end
local most, gone = tonumber(ARGV[1]), 0
for i = 2, #ARGV, 2 do
    local first, last = ends(ARGV[i])
    local upto = math.min(tonumber(ARGV[i + 1]), last, first + most - gone - 1)
    if upto >= first then
        drop(ARGV[i], upto, math.huge)
        gone = gone + upto - first + 1
    end
end
return gone
""",
    drains=True,
)
"""How many records there were."""

READ = Script(
    """
-- words: how many, then partition and offset to go on from
local topic = limits()
if not topic then return GONE end
local now, most, nbytes = clock(), tonumber(ARGV[1]), 0
local found = {rung(base .. 'b'), ''}
for i = 2, #ARGV, 2 do
    local first = kept(ARGV[i], topic, now)
    local left = most - (#found - 2) / 3
    local _, told = range(ARGV[i], math.max(tonumber(ARGV[i + 1]), first), left, found, nbytes)
    nbytes = told
end
return found
""",
    writes=False,
)
"""The bell, "", then for each record "<partition> <offset> <attempt> <time> <size> <id>", a small body, and a note."""

DESCRIBE = Script(
    """
local topic = limits()
if not topic then return GONE end
local now = clock()
local found = {call('HGET', base .. 'm', 'topic')}
for p = 0, topic.partitions - 1 do
    local raw = ends(p)
    local first, last = kept(p, topic, now)
    local nbytes = tonumber(call('HGET', counters, 'b' .. p) or 0)
    for index = 0, first - raw - 1, 1000 do
        for _, each in ipairs(call('LRANGE', base .. 's:z:' .. p, index, math.min(index + 999, first - raw - 1))) do
            nbytes = nbytes - tonumber(string.match(each, '^%d+'))
        end
    end
    found[#found + 1] = whole(first) found[#found + 1] = whole(last) found[#found + 1] = whole(nbytes)
end
return found
""",
    writes=False,
)
"""The topic, then for each partition the first offset, the last one and its bytes."""

START = Script(
    """
-- words: kind, where; as in the groups' scripts
local topic = limits()
if not topic then return GONE end
local found = {}
for p = 0, topic.partitions - 1 do found[#found + 1] = whole(start(ARGV[1], ARGV[2], p, topic)) end
return found
""",
    writes=False,
)
"""For each partition the offset that a start means."""

ENSURE = Script(
    """
-- words: topic, partitions, retention, max_bytes, full, window, groups
local known = call('HGET', base .. 'm', 'topic')
if known then return known end
call('HSET', base .. 'm', 'topic', ARGV[1], 'partitions', ARGV[2], 'retention', ARGV[3], 'max_bytes', ARGV[4],
     'full', ARGV[5], 'window', ARGV[6])
local topic = limits()
for p = 0, topic.partitions - 1 do  -- an empty stream: nothing is added to one that is not there
    call('XGROUP', 'CREATE', base .. 's:' .. p, 'x', '$', 'MKSTREAM')
    call('XGROUP', 'DESTROY', base .. 's:' .. p, 'x')
end
for i = 7, #ARGV do begin(ARGV[i], 'earliest', '', topic) end
return ARGV[1]
"""
)
"""The topic as it is."""

DELETE = Script(
    """
local topic = limits()
if not topic then return 0 end
for _, name in ipairs(call('SMEMBERS', base .. 'g')) do
    forget(name, topic)
    call('UNLINK', base .. 'g:' .. name)
end
for p = 0, topic.partitions - 1 do call('UNLINK', base .. 's:' .. p, base .. 's:z:' .. p) end
for _, key in ipairs({'m', 's', 's:d', 's:q', 'g', 'v', 'v:n', 'v:x'}) do call('UNLINK', base .. key) end
for _, key in ipairs({'b', 'v:b'}) do  -- who waits is told
    ring(base .. key)
    call('PEXPIRE', base .. key, 1000)
end
return 1
""",
    drains=True,
)
"""Whether there was one."""
