// Print when a person is at the gate, and when nobody is any more, as ../python/presence.py does.
//
//     npm install
//     node presence.mjs STREAM LABEL [ENDPOINT]

import { Subscriber } from "zeromq";

const MIN_SCORE = 0.6;
const FRAMES = 2; // in a row, before somebody counts as present
const HOLD_SECONDS = 5; // without a frame that shows one, before nobody does

const [stream, label, endpoint = "tcp://127.0.0.1:5561"] = process.argv.slice(2);
if (label === undefined) {
  console.error("usage: node presence.mjs STREAM LABEL [ENDPOINT]");
  process.exit(2);
}
const socket = new Subscriber({ receiveHighWaterMark: 1000, maxMessageSize: 16 * 2 ** 20 });
socket.connect(endpoint);
socket.subscribe(`qzd/1/detections/${stream}/`);

let present = false;
let inARow = 0;
let seen = 0;
for await (const [, payload] of socket) {
  const message = JSON.parse(payload.toString());
  if (message.outcome !== "ok") continue; // it says nothing, neither yes nor no
  const now = message.captured_ns / 1e9;
  const found = (message.detections ?? []).some((box) => box.label === label && box.score >= MIN_SCORE);
  inARow = found ? inARow + 1 : 0;
  if (found) seen = now;
  const before = present;
  if (inARow >= FRAMES) present = true;
  else if (present && now - seen > HOLD_SECONDS) present = false;
  if (present !== before) console.log(new Date(now * 1e3).toISOString(), stream, label, present ? "is there" : "is gone");
}
