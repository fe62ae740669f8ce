// Receive detections from qzd and print one event per line, as JSON.
//
//     npm install
//     node subscribe.mjs [ENDPOINT] [--stream NAME] [--schema ../../docs/schema]
//
// With --schema, every message is checked against its JSON Schema (with the package ajv).

import { readFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { Subscriber } from "zeromq";
import { Tracker } from "./tracker.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { stream: { type: "string" }, schema: { type: "string" } },
});
const endpoint = positionals[0] ?? "tcp://127.0.0.1:5561";
const check = values.schema === undefined ? () => {} : await validator(values.schema);

// Heartbeats are subscribed to last: the first one proves that every subscription is in force.
const of = values.stream === undefined ? "" : `${values.stream}/`;
const topics = [`qzd/1/detections/${of}`, `qzd/1/stream/${of}`, "qzd/1/model/", "qzd/1/heartbeat/"];
const socket = new Subscriber({ receiveHighWaterMark: 1000, maxMessageSize: 16 * 2 ** 20 });
socket.connect(endpoint);
socket.subscribe(...topics);

const tracker = new Tracker((topic) => topics.some((prefix) => topic.startsWith(prefix)));
for await (const [topic, payload] of socket) {
  const message = JSON.parse(payload.toString());
  check(message);
  for (const event of tracker.feed(topic.toString(), message)) console.log(JSON.stringify(event));
  if (message.schema === "qzd.heartbeat/1" && message.state === "stopping") break;
}

// Return a function that throws if a message does not match its schema.
async function validator(directory) {
  const { default: Ajv } = await import("ajv/dist/2020.js");
  const ajv = new Ajv();
  const checks = new Map();
  for (const kind of ["detections", "stream", "model", "heartbeat"]) {
    const schema = JSON.parse(await readFile(`${directory}/qzd.${kind}-1.json`, "utf8"));
    checks.set(`qzd.${kind}/1`, ajv.compile(schema));
  }
  return (message) => {
    const valid = checks.get(message.schema);
    if (valid === undefined) return; // a kind that is newer than this program
    if (!valid(message)) throw new Error(`${message.schema}: ${ajv.errorsText(valid.errors)}`);
  };
}
