-- SPDX-License-Identifier: GPL-2.0-or-later
-- Guest program: a table, two indexes, queries and updates.
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -50000;
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INT, item TEXT,
                     price INT, note TEXT);
WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n
                        WHERE i < 250000)
INSERT INTO orders
SELECT i, i * 7919 % 20011, 'item-' || (i * 104729 % 5003),
       i * 31337 % 100003,
       printf('order %d of customer %d, %x%x%x to be delivered to door %d, '
              || 'call before %d', i, i * 7919 % 20011,
              i * 2654435761 % 4294967291, i * 40503 % 65521,
              i * 2246822519 % 4294967279, i % 977, i % 24)
FROM n;
CREATE INDEX by_customer ON orders (customer);
CREATE INDEX by_item ON orders (item, price);
SELECT count(*), sum(price), sum(length(note)) FROM orders;
WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n
                        WHERE i < 4000)
SELECT sum(price), sum(length(note)) FROM n JOIN orders
ON customer = i * 4001 % 20011;
UPDATE orders SET price = price + 1 WHERE customer % 10 = 3;
SELECT item, max(price) FROM orders GROUP BY item ORDER BY 2 DESC, 1 LIMIT 3;
