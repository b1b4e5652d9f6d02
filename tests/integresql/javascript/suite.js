// What a test suite does with IntegreSQL's client, as its README has it. Told by a changed URL where leasedb is.
'use strict'
const assert = require('node:assert/strict')
const { Client } = require('pg')
const { IntegreSQLClient, IntegreSQLApiClientError } = require('@devoxa/integresql-client')

const integreSQL = new IntegreSQLClient({ url: process.env.LEASEDB_URL })

async function inside(config, work) {
  const client = new Client({ connectionString: integreSQL.databaseConfigToConnectionUrl(config) })
  await client.connect()
  try {
    return await work(client)
  } finally {
    await client.end()
  }
}

const migrated = async (config) => {
  await inside(config, async (client) => {
    await client.query('DROP SCHEMA public CASCADE; CREATE SCHEMA public')
    await client.query('CREATE TABLE person (id serial PRIMARY KEY, name text NOT NULL)')
    await client.query("INSERT INTO person (name) VALUES ('foo')")
  })
}

const names = async (client) => (await client.query('SELECT name FROM person ORDER BY name')).rows.map((row) => row.name)

const refusedWith = (status) => (error) => error instanceof IntegreSQLApiClientError && error.responseStatus === status

async function aTestHasADatabaseOfItsOwn(hash) {
  const config = await integreSQL.getTestDatabase(hash)
  await inside(config, async (client) => {
    assert.deepEqual(await names(client), ['foo'])
    await client.query("INSERT INTO person (name) VALUES ('bar')")
    await client.query('ALTER TABLE person ADD COLUMN age int')
    assert.deepEqual(await names(client), ['bar', 'foo'])
  })
  return config.database
}

async function main() {
  const hash = await integreSQL.hashFiles(['./suite.js', './package*.json'])

  let built = 0
  const setup = () => integreSQL.initializeTemplate(hash, async (config) => { built += 1; await migrated(config) })
  await Promise.all([setup(), setup(), setup()])
  await setup()
  assert.equal(built, 1)

  const databases = await Promise.all(Array.from({ length: 8 }, () => aTestHasADatabaseOfItsOwn(hash)))
  databases.push(await aTestHasADatabaseOfItsOwn(hash))

  for (const giveBack of ['reuseTestDatabase', 'recreateTestDatabase']) {
    const { id, database } = await integreSQL.api.getTestDatabase(hash)
    assert.equal(database.templateHash, hash)
    await inside(database.config, async (client) => assert.deepEqual(await names(client), ['foo']))
    await integreSQL.api[giveBack](hash, id)
    await integreSQL.api[giveBack](hash, id)
    databases.push(database.config.database)
  }
  assert.equal(new Set(databases).size, databases.length)

  const failing = integreSQL.initializeTemplate(`${hash}-failing`, async () => { throw new Error('of the setup') })
  await assert.rejects(failing, /of the setup/)
  await assert.rejects(integreSQL.getTestDatabase(`${hash}-failing`), refusedWith(404))
  await integreSQL.initializeTemplate(`${hash}-failing`, migrated)
  await aTestHasADatabaseOfItsOwn(`${hash}-failing`)

  await assert.rejects(integreSQL.api.finalizeTemplate('never-seen'), refusedWith(404))
  await assert.rejects(integreSQL.api.discardTemplate('never-seen'), refusedWith(404))
  await assert.rejects(integreSQL.api.recreateTestDatabase(hash, 1), refusedWith(404))
  await integreSQL.api.discardTemplate(hash)
  await assert.rejects(integreSQL.api.getTestDatabase(hash), refusedWith(404))
  await integreSQL.api.discardAllTemplates()
  await assert.rejects(integreSQL.api.getTestDatabase(`${hash}-failing`), refusedWith(404))
}

main()
