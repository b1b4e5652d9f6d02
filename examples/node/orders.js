// The code under test. It takes a pg.Pool or a client.

export async function migrate(db) {
  await db.query(`create table if not exists "order" (id serial primary key, item text not null, embedding vector(3))`);
}

export async function place(db, item, embedding) {
  const { rows } = await db.query(`insert into "order" (item, embedding) values ($1, $2) returning id`, [
    item,
    JSON.stringify(embedding),
  ]);
  return rows[0].id;
}

export async function alike(db, embedding) {
  const { rows } = await db.query(`select item from "order" order by embedding <-> $1 limit 1`, [JSON.stringify(embedding)]);
  return rows[0]?.item;
}
