// A database for one test: leased over HTTP, and held by a connection that is open until the lease is released.

const api = process.env.LEASEDB_URL ?? "http://127.0.0.1:7432";

export async function lease(terms = {}) {
  const body = JSON.stringify({ holder: "node", ...terms });
  const answer = await ask("/leases", { method: "POST", headers: { "Content-Type": "application/json" }, body });
  const lease = await answer.json();
  const hold = new AbortController();
  await ask(`/leases/${lease.id}/hold`, { signal: hold.signal });
  return { ...lease, release: () => hold.abort() };
}

async function ask(path, options) {
  const answer = await fetch(api + path, options);
  if (!answer.ok) throw new Error(await answer.text());
  return answer;
}
