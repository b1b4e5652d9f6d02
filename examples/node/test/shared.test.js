// The database that `leasedb exec` leased for this run: pg reads PGHOST and its like by itself.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import pg from "pg";
import { alike, migrate, place } from "../orders.js";

const pool = new pg.Pool();
before(() => migrate(pool));
after(() => pool.end());

test("an order is found by what it is like", async () => {
  await place(pool, "tea", [1, 2, 3]);
  await place(pool, "nail", [9, 0, 1]);
  assert.equal(await alike(pool, [1, 2, 2]), "tea");
});

test("orders are numbered", async () => {
  const first = await place(pool, "cup", [4, 4, 4]);
  assert.equal(await place(pool, "cup", [4, 4, 4]), first + 1);
});
