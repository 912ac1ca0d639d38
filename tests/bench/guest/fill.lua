-- SPDX-License-Identifier: GPL-2.0-or-later
-- Guest program redis: ARGV[1] records as services keep them, 1 KiB each.
math.randomseed(1)
local events = {}
for i = 1, 5000 do
    events[i] = string.format(
        '{"time":16%08d,"kind":"view","page":"/item/%d","ms":%d}',
        math.random(99999999), math.random(99999), math.random(999))
end
for i = 0, ARGV[1] - 1 do
    local own = {}
    for j = 1, 15 do
        own[j] = events[math.random(5000)]
    end
    redis.call('SET', string.format('key:%012d', i),
               '{"id":' .. i .. ',"name":"user' .. i .. '","token":"' ..
               math.random(2147483647) .. '","events":[' ..
               table.concat(own, ',') .. ']}')
end
return redis.call('DBSIZE')
