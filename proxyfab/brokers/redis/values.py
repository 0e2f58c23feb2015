"""Values beside a topic: revisions, times to live, and who waits is told."""

from __future__ import annotations

from proxyfab.brokers.redis.scripts import Script

_VALUES = """
local all, now = KEYS[1], clock()
if base ~= '{pf:}:' and call('EXISTS', base .. 'm') == 0 then return GONE end
local function get(name)  -- revision, when it ends, value
    local revision, ends, value = string.match(call('HGET', all, name) or '', '^(%d+) (%d+) (.*)$')
    if revision and (ends == '0' or tonumber(ends) > now) then return revision, tonumber(ends), value end
    return '0', 0, ''
end
"""
_SETTLED = """
local revision = get(ARGV[1])
if ARGV[2] ~= '' and ARGV[2] ~= revision then return redis.error_reply('CONFLICT ' .. revision) end
"""
_SWEEP = """
local old = call('ZRANGEBYSCORE', all .. ':x', '-inf', whole(now), 'LIMIT', 0, 16)
for _, name in ipairs(old) do call('HDEL', all, name) call('ZREM', all .. ':x', name) end
ring(all .. ':b')
"""

PUT = Script(
    _VALUES
    + _SETTLED
    + """
-- words: name, revision it must have, value, microseconds to live
local next = whole(call('INCR', all .. ':n'))
local ends = ARGV[4] == '' and '0' or whole(now + tonumber(ARGV[4]))
call('HSET', all, ARGV[1], next .. ' ' .. ends .. ' ' .. ARGV[3])
if ends == '0' then call('ZREM', all .. ':x', ARGV[1]) else call('ZADD', all .. ':x', ends, ARGV[1]) end
"""
    + _SWEEP
    + "return next",
    drains=True,
)
"""The new revision."""

REMOVE = Script(
    _VALUES
    + _SETTLED
    + """
-- words: name, revision it must have
if revision ~= '0' then
    call('HDEL', all, ARGV[1])
    call('ZREM', all .. ':x', ARGV[1])
end
"""
    + _SWEEP
    + "return revision",
    drains=True,
)
"""Which revision it had, 0 for none."""

GET = Script(
    _VALUES
    + """
-- words: names
local found = {rung(all .. ':b')}
for i = 1, #ARGV do
    local revision, ends, value = get(ARGV[i])
    found[#found + 1] = revision
    found[#found + 1] = ends == 0 and '' or whole(ends - now)
    found[#found + 1] = value
end
return found
""",
    writes=False,
)
"""The bell, then for each name its revision (0: none), the microseconds until it ends, and the value."""

ITEMS = Script(
    _VALUES
    + """
-- words: how they begin
local found = {}
for _, name in ipairs(call('HKEYS', all)) do
    if string.sub(name, 1, #ARGV[1]) == ARGV[1] then
        local revision, _, value = get(name)
        if revision ~= '0' then found[#found + 1] = name found[#found + 1] = revision found[#found + 1] = value end
    end
end
return found
""",
    writes=False,
)
"""Name, revision and value of each."""
