"""A group's way through a topic: who gets which record, who owes it, and when it comes again."""

from __future__ import annotations

from proxyfab.brokers.redis.scripts import BYTES, Script

_THERE = """
local topic = limits()
if not topic then return GONE end
local group, now = KEYS[1], clock()
local due, who = group .. ':due', group .. ':who'
if call('EXISTS', group) == 0 then return NOGROUP end
"""

FETCH = Script(
    _THERE
    + """
-- words: member, how many, microseconds to acknowledge, partitions
local me, most, time = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local found, nbytes, wanted, skip = {'', ''}, 0, {}, 0
for i = 4, #ARGV do wanted[ARGV[i]] = true end
local function left() return most - (#found - 2) / 3 end
local function lost(p, n, spot)
    call('ZREM', due, spot)
    call('HDEL', who, spot)
    call('ZREM', group .. ':' .. p, n)
end
local function again(p, n, spot)
    local raw = ends(p)
    local size, at, id = entry(p, math.max(tonumber(n) - raw, -1))
    if tonumber(n) < kept(p, topic, now) or not size then return lost(p, n, spot) end
    local attempt, note = string.match(call('HGET', who, spot) or '', '^%S* (%d+) (.*)$')
    attempt = (tonumber(attempt) or 0) + 1
    tell(found, p, n, attempt, size, at, id, note or '')
    nbytes = nbytes + size
    call('ZADD', due, whole(now + time), spot)
    call('HSET', who, spot, me .. ' ' .. attempt .. ' ')
end
while left() > 0 and nbytes < BYTES do  -- what comes again
    local spots = call('ZRANGEBYSCORE', due, '-inf', whole(now), 'LIMIT', skip, 32)
    if #spots == 0 then break end
    for _, spot in ipairs(spots) do
        local p, n = string.match(spot, '^(%d+)-(%d+)$')
        if not wanted[p] then
            skip = skip + 1
        elseif left() > 0 and nbytes < BYTES then
            again(p, n, spot)
        end
    end
end
for i = 4, #ARGV do  -- what nobody has fetched yet
    local p = ARGV[i]
    local first = kept(p, topic, now)
    local cursor = tonumber(call('HGET', group, 'c' .. p))
    local at = #found
    local from = math.max(cursor, first)
    from, nbytes = range(p, from, left(), found, nbytes)
    local owed, dues, whos = {}, {}, {}
    for index = at + 1, #found, 3 do
        local n = string.match(found[index], '^%d+ (%d+)')
        owed[#owed + 1] = n owed[#owed + 1] = n
        dues[#dues + 1] = whole(now + time) dues[#dues + 1] = p .. '-' .. n
        whos[#whos + 1] = p .. '-' .. n whos[#whos + 1] = me .. ' 1 '
    end
    many('ZADD', group .. ':' .. p, owed)
    many('ZADD', due, dues)
    many('HSET', who, whos)
    if from ~= cursor then call('HSET', group, 'c' .. p, whole(from)) end
end
if #found == 2 then
    found[1] = rung(base .. 'b')
    local next = call('ZRANGE', due, 0, 0, 'WITHSCORES')
    found[2] = next[2] and whole(math.max(tonumber(next[2]) - now, 0)) or ''
end
return found
""".replace("BYTES", str(BYTES)),
    drains=True,
)
"""To the group: the bell and the microseconds until something comes again; and records as READ tells them."""

ACK = Script(
    _THERE
    + """
-- words: partition, offset of each
local spots, by = {}, {}
for i = 1, #ARGV, 2 do
    local p = ARGV[i]
    spots[#spots + 1] = p .. '-' .. ARGV[i + 1]
    by[p] = by[p] or {}
    table.insert(by[p], ARGV[i + 1])
end
many('ZREM', due, spots)
many('HDEL', who, spots)
for p, offsets in pairs(by) do many('ZREM', group .. ':' .. p, offsets) end
return #spots
""",
    drains=True,
)
"""They are done, whoever owes them now."""

KEEP = Script(
    _THERE
    + """
-- words: member, microseconds, note, "back" or "hold", then partition, offset of each; only what the member still owes
local me, time, note, back = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4] == 'back'
for i = 5, #ARGV, 2 do
    local spot = ARGV[i] .. '-' .. ARGV[i + 1]
    local owner, attempt = string.match(call('HGET', who, spot) or '', '^(%S*) (%d+) ')
    if owner == me then
        call('ZADD', due, whole(now + time), spot)
        if back then call('HSET', who, spot, ' ' .. attempt .. ' ' .. note) end
    end
end
if back then ring(base .. 'b') end
return 1
""",
    drains=True,
)
"""They come again, or are held, for so long."""

LEAVE = Script(
    _THERE
    + """
-- words: member
local all, gave = call('HGETALL', who), false
for i = 1, #all, 2 do
    local owner, attempt = string.match(all[i + 1], '^(%S*) (%d+) ')
    if owner == ARGV[1] then
        call('ZADD', due, whole(now), all[i])
        call('HSET', who, all[i], ' ' .. attempt .. ' ')
        gave = true
    end
end
if gave then ring(base .. 'b') end
return 1
""",
    drains=True,
)
"""All that a member owes comes again."""

GROUP = Script(
    """
-- words: name, "ensure" or "seek", kind of start, where, highest partition that is asked for
local topic = limits()
if not topic then return GONE end
if tonumber(ARGV[5]) >= topic.partitions then return redis.error_reply('OUTSIDE ' .. topic.partitions) end
local there = call('EXISTS', KEYS[1]) == 1
if ARGV[2] == 'seek' then
    if not there then return NOGROUP end
    forget(ARGV[1], topic)
    begin(ARGV[1], ARGV[3], ARGV[4], topic)
    ring(base .. 'b')
elseif not there then
    begin(ARGV[1], ARGV[3], ARGV[4], topic)
end
return topic.partitions
""",
    drains=True,
)
"""Make a group, or move it; how many partitions the topic has."""

FORGET = Script(
    """
local topic = limits()
if not topic then return GONE end
local there = call('EXISTS', KEYS[1])
if there == 1 then
    forget(ARGV[1], topic)
    call('UNLINK', KEYS[1])
    call('SREM', base .. 'g', ARGV[1])
    ring(base .. 'b')
end
return there
""",
    drains=True,
)
"""Whether there was such a group."""

GROUPS = Script(
    """
-- words: a group, or none for all
local topic = limits()
if not topic then return GONE end
local now, found = clock(), {whole(topic.partitions)}
local names = call('SMEMBERS', base .. 'g')
for _, name in ipairs(names) do
    if not ARGV[1] or ARGV[1] == name then
        local at, left = #found + 1, 0
        found[at] = name
        found[at + 1] = whole(call('ZCARD', base .. 'g:' .. name .. ':due'))
        for p = 0, topic.partitions - 1 do
            local below, cursor = floor(name, p)
            local first, last = kept(p, topic, now)
            left = left + math.max(0, last + 1 - math.max(cursor, first))
            found[at + 3 + 2 * p] = whole(below)
            found[at + 4 + 2 * p] = whole(call('ZCARD', base .. 'g:' .. name .. ':' .. p))
        end
        found[at + 2] = whole(left)
    end
end
return found
""",
    writes=False,
)
"""How many partitions; then for each group its name, what is pending, what nobody fetched, and of
each partition the floor and what is pending."""
