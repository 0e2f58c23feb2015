"""What the server does at once, in its own language: a script is one step that nobody comes between.

Keys of a topic, all in one slot of a cluster:

    {pf:<topic>}:m              hash: the topic, and those of its limits that scripts look at
    {pf:<topic>}:s              hash: n<p> the last offset in partition p, f<p> the first, b<p> its bytes, b all bytes
    {pf:<topic>}:s:<p>          stream: record n has the id 0-n and one field, its body
    {pf:<topic>}:s:z:<p>        list: "<bytes> <microseconds> <id>" for each record of that stream
    {pf:<topic>}:s:d, :s:q      hash: where the records with known ids lie; list: these ids, oldest first
    {pf:<topic>}:b              stream of one entry: rung when there may be something to fetch
    {pf:<topic>}:g              set: the groups
    {pf:<topic>}:g:<g>          hash: c<p> the offset to fetch next
    {pf:<topic>}:g:<g>:due      sorted set: "<p>-<offset>" of what is owed or given back, by when it comes again
    {pf:<topic>}:g:<g>:who      hash: for each of these "<member> <attempt> <note>"; no member where it was given back
    {pf:<topic>}:g:<g>:<p>      sorted set: the same offsets in their order, for the floor
    {pf:<topic>}:v, :v:n, :v:x  hash: values; their last revision; sorted set: when those with a time to live end
    {pf:<topic>}:v:b            as `b`, for values

Rules:
1. A script looks before it writes: where it refuses, nothing has changed but that expired records are gone.
2. Its work is bounded: by what it was given, and by `BYTES` of bodies in one reply.
3. Moments are the server's, in microseconds.
4. What adds no records runs on a server whose memory is full, too (`drains`): else nobody could work off what it holds.
5. Large bodies do not pass through scripts, which read each of their bytes to hash it (1.5 microseconds a KiB): they
   are added, and read, by commands beside them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from proxyfab.resp.link import Part

BYTES = 8 << 20
"""Bytes of bodies after which a reply takes no more records."""
INLINE = 1024
"""Bytes of a body up to which a reply has it; others are asked for."""
HISTORY = 256 << 20
"""Bytes of acknowledged records that a topic without a limit keeps for replay."""

_PRELUDE = """
local call = redis.call
local base = string.sub(KEYS[1], 1, (string.find(KEYS[1], '}', 1, true))) .. ':'
local counters = base .. 's'
local function whole(number) return string.format('%.0f', number) end
local function clock() local now = call('TIME') return now[1] * 1000000 + now[2] end
local function ring(bell) call('XADD', bell, 'MAXLEN', 1, '*', 'x', '') end
local function rung(bell)
    local last = call('XREVRANGE', bell, '+', '-', 'COUNT', 1)[1]
    return last and last[1] or '0-0'
end
local function limits()
    local found = call('HMGET', base .. 'm', 'partitions', 'retention', 'max_bytes', 'full', 'window')
    if not found[1] then return nil end
    return {partitions = tonumber(found[1]), retention = tonumber(found[2]), bytes = tonumber(found[3]),
            full = found[4], window = tonumber(found[5])}
end
local function ends(p)  -- the first and the last offset that are kept
    local found = call('HMGET', counters, 'f' .. p, 'n' .. p)
    return tonumber(found[1] or 1), tonumber(found[2] or 0)
end
local function entry(p, index)  -- bytes, moment and id of a record
    local size, at, id = string.match(call('LINDEX', base .. 's:z:' .. p, index) or '', '^(%d+) (%d+) (.*)$')
    return tonumber(size), tonumber(at), id
end
local function since(p, moment)  -- the first kept offset that is not older
    local first, last = ends(p)
    local low, high = first - 1, last + 1
    while high - low > 1 do
        local middle = math.floor((low + high) / 2)
        local _, at = entry(p, middle - first)
        if at and at >= moment then high = middle else low = middle end
    end
    return high
end
local function kept(p, topic, now)  -- as `ends`, without what has outlived its time
    local first, last = ends(p)
    if topic.retention and first <= last then
        local _, at = entry(p, 0)
        if at and at < now - topic.retention then first = since(p, now - topic.retention) end
    end
    return first, last
end
local function drop(p, upto, wanted)  -- oldest first, until so many bytes are free
    local first = ends(p)
    local at, freed = first, 0
    while at <= upto and freed < wanted do
        local sizes = call('LRANGE', base .. 's:z:' .. p, at - first, math.min(at - first + 99, upto - first))
        if #sizes == 0 then break end
        for _, each in ipairs(sizes) do
            freed = freed + tonumber(string.match(each, '^%d+'))
            at = at + 1
            if freed >= wanted then break end
        end
    end
    if at > first then
        call('LTRIM', base .. 's:z:' .. p, at - first, -1)
        call('XTRIM', base .. 's:' .. p, 'MINID', '0-' .. whole(at))
        call('HSET', counters, 'f' .. p, whole(at))
        call('HINCRBY', counters, 'b' .. p, -freed)
        call('HINCRBY', counters, 'b', -freed)
    end
    return freed
end
local function start(kind, at, p, topic)
    if kind == 'earliest' then return (kept(p, topic, clock())) end
    if kind == 'latest' then local _, last = ends(p) return last + 1 end
    if kind == 'time' then return since(p, tonumber(at)) end
    return tonumber(string.match(at, ',' .. p .. ':(%d+),') or 1)
end
local function begin(name, kind, at, topic)
    local group = base .. 'g:' .. name
    for p = 0, topic.partitions - 1 do call('HSET', group, 'c' .. p, whole(start(kind, at, p, topic))) end
    call('SADD', base .. 'g', name)
end
local function forget(name, topic)
    local group = base .. 'g:' .. name
    call('UNLINK', group .. ':due', group .. ':who')
    for p = 0, topic.partitions - 1 do call('UNLINK', group .. ':' .. p) end
end
local function floor(name, p)
    local group = base .. 'g:' .. name
    local cursor = tonumber(call('HGET', group, 'c' .. p))
    local owed = call('ZRANGE', group .. ':' .. p, 0, 0)[1]
    return math.min(cursor - 1, owed and tonumber(owed) - 1 or cursor - 1), cursor
end
local function bodies(p, from, to)  -- of small records, in order
    local found = {}
    for i, each in ipairs(call('XRANGE', base .. 's:' .. p, '0-' .. whole(from), '0-' .. whole(to))) do
        found[i] = each[2][2]
    end
    return found
end
local function tell(found, p, n, attempt, size, at, id, note, body)  -- a record, with its body if that is small
    if size > INLINE then body = '' elseif not body then body = bodies(p, tonumber(n), tonumber(n))[1] or '' end
    found[#found + 1] = p .. ' ' .. n .. ' ' .. attempt .. ' ' .. whole(at) .. ' ' .. size .. ' ' .. id
    found[#found + 1] = body
    found[#found + 1] = note
end
local function range(p, from, most, found, nbytes)  -- up to `most` records from an offset on, as long as they are small
    local first, left = ends(p), most
    while left > 0 and nbytes < BYTES do
        local at = from - first
        local entries = call('LRANGE', base .. 's:z:' .. p, at, at + math.min(left, 64) - 1)
        if #entries == 0 then break end
        local small = true
        for _, each in ipairs(entries) do small = small and tonumber(string.match(each, '^%d+')) <= INLINE end
        local body = small and bodies(p, from, from + #entries - 1) or {}
        for i, each in ipairs(entries) do
            local size, taken, id = string.match(each, '^(%d+) (%d+) (.*)$')
            tell(found, p, whole(from), 1, tonumber(size), tonumber(taken), id, '', body[i])
            nbytes = nbytes + tonumber(size)
            left = left - 1
            from = from + 1
            if nbytes >= BYTES then break end
        end
    end
    return from, nbytes
end
local function many(command, key, words)  -- a command with any number of words
    for at = 1, #words, 1000 do call(command, key, unpack(words, at, math.min(at + 999, #words))) end
end
local GONE, NOGROUP = redis.error_reply('NOTOPIC'), redis.error_reply('NOGROUP')
""".replace("BYTES", str(BYTES)).replace("INLINE", str(INLINE))

_FULL = "#!lua flags=allow-oom\n"


class Script:
    """A script, and how it is called.

    Args:
        text: What follows the functions that all scripts share.
        writes: Whether it changes anything; one that does not runs for those who may only read.
        drains: Whether it runs also where memory is full.
    """

    def __init__(self, text: str, *, writes: bool = True, drains: bool = False) -> None:
        self._source = ((_FULL if drains else "") + _PRELUDE + text).encode()
        self._sha = hashlib.sha1(self._source, usedforsecurity=False).hexdigest().encode()
        self._known, self._unknown = (b"EVALSHA", b"EVAL") if writes else (b"EVALSHA_RO", b"EVAL_RO")

    def command(self, key: bytes, words: Sequence[Part], *, unknown: bool = False) -> list[Part]:
        """The parts of a call.

        Args:
            key: Of the topic; which one says what the caller has to be allowed.
            words: What the script is given. Large ones are not copied.
            unknown: The server does not have it yet.
        """
        verb, what = (self._unknown, self._source) if unknown else (self._known, self._sha)
        parts: list[Part] = [b"*%d\r\n" % (4 + len(words))]
        small: list[Part] = []
        for word in (verb, what, b"1", key, *words):
            size = b"$%d\r\n" % len(word)
            if len(word) <= 1024:
                small += (size, word, b"\r\n")
            else:
                parts += [b"".join(small) + size, word]
                small = [b"\r\n"]
        return [*parts, b"".join(small)]
