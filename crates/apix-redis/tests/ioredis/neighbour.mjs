// A service beside APIX on the same Redis, as people write them with ioredis.
//
//   node neighbour.mjs PORT work KEY GROUP CONSUMER   read and acknowledge until standard input ends
//   node neighbour.mjs PORT add KEY ORG COUNT         add events with the contract's fields
//   node neighbour.mjs PORT listen CHANNEL            print messages until standard input ends
//   node neighbour.mjs PORT publish CHANNEL TEXT      publish one message
//
// Prints one JSON line for each thing that happens.

import { Redis } from 'ioredis';

const [port, command, ...args] = process.argv.slice(2);
const redis = new Redis(Number(port), '127.0.0.1');
const say = (line) => console.log(JSON.stringify(line));
let stopping = false;
process.stdin.on('end', () => { stopping = true; });
process.stdin.resume();

async function work(key, group, consumer) {
  await redis.xgroup('CREATE', key, group, '0', 'MKSTREAM').catch((error) => {
    if (!error.message.startsWith('BUSYGROUP')) throw error;
  });
  say({ ready: true });
  while (!stopping) {
    const read = await redis.xreadgroup(
      'GROUP', group, consumer, 'COUNT', 5, 'BLOCK', 100, 'STREAMS', key, '>');
    for (const [, entries] of read ?? []) {
      for (const [id, fields] of entries) {
        const event = {};
        for (let i = 0; i < fields.length; i += 2) event[fields[i]] = fields[i + 1];
        say({ id, event });
        await redis.xack(key, group, id);
      }
    }
  }
}

async function add(key, organizationId, count) {
  for (let n = 0; n < Number(count); n++) {
    const id = await redis.xadd(key, '*', 'eventType', 'neighbour.added', 'payload',
      JSON.stringify({ n }), 'timestamp', new Date().toISOString(), 'organizationId', organizationId);
    say({ id });
  }
}

async function listen(channel) {
  redis.on('message', (_, message) => say({ message }));
  await redis.subscribe(channel);
  say({ ready: true });
  while (!stopping) await new Promise((resolve) => setTimeout(resolve, 20));
}

async function publish(channel, text) {
  say({ receivers: await redis.publish(channel, text) });
}

await { work, add, listen, publish }[command](...args);
redis.disconnect();
process.exit(0);
