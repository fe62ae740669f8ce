// Find lost messages as docs/protocol.md describes: a topic counts from 1 without a hole, a heartbeat names
// the last seq of every topic, and a new epoch counts anew. No I/O.

export class Tracker {
  #epoch = null;
  #complete = false; // whether a topic not seen yet has had no message
  #seen = new Map();

  // wants: returns whether a topic is subscribed to; heartbeats list all topics
  constructor(wants = () => true) {
    this.wants = wants;
  }

  // Return the events of one message, in order: first what was lost before it.
  feed(topic, message) {
    const events = this.#checkEpoch(message.epoch);
    if (message.schema === "qzd.heartbeat/1") {
      for (const [other, seq] of Object.entries(message.topics)) {
        if (this.wants(other)) events.push(...this.#advance(other, seq, false));
      }
      this.#complete = true;
      return events;
    }
    if (message.seq <= (this.#seen.get(topic) ?? 0)) return events; // known already
    events.push(...this.#advance(topic, message.seq, true), { event: "message", topic, message });
    return events;
  }

  #checkEpoch(epoch) {
    if (epoch === this.#epoch) return [];
    const before = this.#epoch;
    this.#epoch = epoch;
    this.#seen.clear();
    this.#complete = before !== null; // who saw the previous epoch was connected when this one began
    return before === null ? [] : [{ event: "restarted", before, epoch }];
  }

  #advance(topic, seq, arrived) {
    const start = this.#complete ? 0 : arrived ? seq - 1 : seq;
    const before = this.#seen.get(topic) ?? start;
    this.#seen.set(topic, Math.max(seq, before));
    const last = arrived ? seq - 1 : seq;
    return last > before ? [{ event: "gap", topic, first: before + 1, last }] : [];
  }
}
