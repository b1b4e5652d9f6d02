// A fresh database for each test.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import pg from "pg";
import { lease } from "../lease.js";
import { alike, migrate, place } from "../orders.js";

let own, db;

beforeEach(async () => {
  own = await lease();
  db = new pg.Client({ connectionString: own.dsn });
  await db.connect();
  await migrate(db);
});

afterEach(async () => {
  await db.end();
  own.release();
});

test("the first order is number one", async () => {
  assert.equal(await place(db, "tea", [1, 2, 3]), 1);
});

test("nobody else's order is here", async () => {
  assert.equal(await alike(db, [1, 2, 3]), undefined);
});
