/**
 * Events, requests and services of `ipc`, in JavaScript: all of its protocol that most need.
 *
 *     ipc.event.<part>.<type>            an event, to whoever listens and to its domain's stream
 *     ipc.again.<durable>.<part>.<type>  an event that one durable gets once more
 *     ipc.request.<type>                 a request, to one instance of a service
 *     ipc.gather.<type>                  a request, to all instances
 *     stream ipc-<domain>                keeps the events of the types whose names begin so
 *
 * The part is `-`, or of a type with a key one of 32: those of one part are kept in order.
 *
 * A message is an object of JSON. Names that begin with `$` say something of it: `$type`, `$id`,
 * `$time`, `$source`, and, by `$correlation` and `$causation`, which message began it all and
 * which one it follows from. All else is its own. An answer is any JSON, and says nothing of
 * itself.
 */

import { hostname } from "node:os";
import { crc32 } from "node:zlib";
import { AckPolicy, DeliverPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { Svcm } from "@nats-io/services";
import { connect, createInbox, headers, nuid } from "@nats-io/transport-node";

const ERROR_CODE = "Nats-Service-Error-Code";
const ERROR_TEXT = "Nats-Service-Error";

const PARTS = 32;

/** Return the part of the events with a key, which is a text or a whole number. */
export function partOf(key) {
  return crc32(JSON.stringify(key)) % PARTS;
}

/** An error that a service answers with: two headers for all, a body for those who know it. */
export class ServiceError extends Error {
  constructor(code, message, { type = "", data = {} } = {}) {
    super(message);
    Object.assign(this, { code, type, data });
  }

  /** Return the error that an answer tells of, if it does. */
  static in(answer) {
    const code = answer.headers?.get(ERROR_CODE);
    if (!code) return undefined;
    const text = answer.headers.get(ERROR_TEXT);
    // A service of another kind may send no body.
    const { $type: type, message, data } = parse(answer) ?? {};
    return new ServiceError(Number(code), message || text, { type, data });
  }
}

export class Bus {
  #beats = [];

  constructor(connection, name, prefix) {
    Object.assign(this, { connection, name, prefix });
  }

  /** Connect, to the servers that are given, or to those in NATS_URL. */
  static async open(name, { servers = process.env.NATS_URL, prefix = "ipc" } = {}) {
    return new Bus(await connect({ servers, name: `ipc ${name}` }), name, prefix);
  }

  /** Finish what was begun, and disconnect. */
  async close() {
    this.#beats.forEach(clearInterval);
    await this.connection.drain();
  }

  // -- events ------------------------------------------------------------------------------

  /**
   * Publish an event to whoever listens.
   *
   * @param key The value of its key, if its type has one: that keeps the order.
   * @param after The message that it follows from.
   */
  publish(type, fields, { key, after } = {}) {
    this.connection.publish(this.#eventSubject(type, key), this.#write(type, fields, { after }));
  }

  /** Publish an event, and return once it is stored for its durables. An id is stored once. */
  async publishDurably(type, fields, { key, after, id = nuid.next() } = {}) {
    const data = this.#write(type, fields, { id, after });
    await jetstream(this.connection).publish(this.#eventSubject(type, key), data, {
      msgID: `${type}.${id}`,
    });
  }

  /** Call `handle` with each event of a type that is published from now on. */
  on(type, handle) {
    const callback = (_, message) => {
      const event = parse(message);
      if (event !== undefined) handle(event);
    };
    this.connection.subscribe(this.#subject("event.*", type), { callback });
  }

  /**
   * Call `handle` with each event of a type that is stored from now on, again if it throws.
   *
   * @param durable The name by which the server remembers what was handled. Whoever has the same
   *   one shares the events, in whatever language.
   */
  async onDurable(type, durable, handle) {
    const stream = `${this.prefix}-${type.split(".")[0]}`;
    const { consumers } = await jetstreamManager(this.connection);
    const kinds = ["event.*", `again.${durable}.*`];
    const wanted = {
      durable_name: durable,
      filter_subjects: kinds.map((kind) => this.#subject(kind, type)),
      ack_policy: AckPolicy.Explicit,
      deliver_policy: DeliverPolicy.New,
      max_ack_pending: -1,
    };
    // One that is there keeps its place.
    await consumers.info(stream, durable).catch(() => consumers.add(stream, wanted));
    const consumer = await jetstream(this.connection).consumers.get(stream, durable);
    const callback = async (message) => {
      try {
        await handle(message.json());
        message.ack();
      } catch (error) {
        console.error("event will be handled again:", error);
        message.nak(100 * 2 ** message.info.deliveryCount); // milliseconds
      }
    };
    await consumer.consume({ callback });
  }

  // -- requests ----------------------------------------------------------------------------

  /** Ask a service and return what it answers, within `timeout` seconds; throws a ServiceError. */
  async request(type, fields, { timeout = 5, after } = {}) {
    const data = this.#write(type, fields, { timeout, after });
    const options = { timeout: timeout * 1_000 };
    return read(await this.connection.request(this.#subject("request", type), data, options));
  }

  /** Ask every instance of a service; return by instance its answer, or error, or undefined. */
  async gather(type, fields, { timeout = 5, after } = {}) {
    const subject = this.#subject("request", type);
    const running = (await this.discover("info")).filter(({ endpoints }) =>
      endpoints.some((endpoint) => endpoint.subject === subject),
    );
    const said = new Map(running.map(({ id }) => [id, undefined]));
    const answers = await this.connection.requestMany(
      this.#subject("gather", type),
      this.#write(type, fields, { timeout, after }),
      { strategy: "count", maxMessages: running.length, maxWait: timeout * 1_000 },
    );
    for await (const answer of answers) {
      said.set(answer.headers?.get("Ipc-Instance"), ServiceError.in(answer) ?? answer.json());
    }
    return said;
  }

  /** Ask a service and yield the items that it answers; leaving the loop tells it to stop. */
  async *stream(type, fields, { timeout = 5, credit = 100, after } = {}) {
    const send = (subject, data, options) => this.connection.publish(subject, data, options);
    const inbox = createInbox();
    const answer = this.connection.subscribe(inbox);
    const listen = () => setTimeout(() => answer.unsubscribe(), timeout * 1_000);
    let silence = listen();
    const half = Math.ceil(credit / 2);
    let control; // where to give more credit, or to end it
    let taken = 0;
    try {
      const data = this.#write(type, fields, { timeout, credit, after });
      send(this.#subject("request", type), data, { reply: inbox });
      for await (const message of answer) {
        clearTimeout(silence);
        control = message.reply; // the last one has none
        if (message.headers?.code === 503) throw new Error(`nobody answers ${type}`);
        const [state, count] = (message.headers?.get("Ipc-Stream") ?? "").split(" ");
        if (state === "end") {
          if (Number(count) !== taken) throw new Error(`${count} items were sent, ${taken} came`);
          return;
        }
        if (state === "") {
          yield read(message);
          taken += 1;
          if (taken % half === 0) send(control, JSON.stringify({ credit: half }));
        }
        silence = listen();
      }
      throw new Error(`no sign of life for ${timeout} s`);
    } finally {
      clearTimeout(silence);
      answer.unsubscribe();
      if (control) send(control, JSON.stringify({ cancel: true }));
    }
  }

  // -- services ----------------------------------------------------------------------------

  /**
   * Answer requests; instances of a service share them.
   *
   * @param handlers Functions by the type that they answer. What they throw is the caller's.
   */
  async serve(name, version, handlers) {
    const service = await new Svcm(this.connection).add({ name, version });
    for (const [type, handle] of Object.entries(handlers)) {
      service.addEndpoint(type.split(".").at(-1), {
        subject: this.#subject("request", type),
        metadata: { type },
        handler: (_, message) => answer(message, handle),
      });
      // When all are asked, each says who it is.
      this.connection.subscribe(this.#subject("gather", type), {
        callback: (_, message) => answer(message, handle, service.info().id),
      });
    }
    const { id } = service.info();
    await this.#register({ name, version, id, handles: Object.keys(handlers) });
  }

  /** Say which service runs here, again and again: the server forgets it in half a minute. */
  async #register(service) {
    const said = headers();
    said.set("Nats-TTL", "30s");
    const running = {
      name: this.name,
      id: service.id,
      host: hostname(),
      pid: process.pid,
      started_at: new Date(),
      services: [service],
    };
    const key = `$KV.${this.prefix}.instance.${this.name}.${service.id}`;
    const beat = () =>
      jetstream(this.connection)
        .publish(key, JSON.stringify(running), { headers: said })
        .catch(() => {}); // there is no registry yet, or the server is away: the next may arrive
    await beat();
    this.#beats.push(setInterval(beat, 10_000));
  }

  /** Ask all services, or those of a name, of any language: "ping", "info" or "stats". */
  async discover(verb, name) {
    const client = new Svcm(this.connection).client({ strategy: "stall", maxWait: 2_000 });
    const found = [];
    for await (const one of await client[verb](name)) found.push(one);
    return found;
  }

  // -- messages ----------------------------------------------------------------------------

  #write(type, fields, { id = nuid.next(), after, timeout, credit }) {
    return JSON.stringify({
      $type: type,
      ...fields,
      $id: id,
      $time: new Date(),
      $source: this.name,
      $correlation: after?.$correlation ?? after?.$id,
      $causation: after?.$id,
      $timeout: timeout, // seconds
      $credit: credit,
    });
  }

  #subject(kind, type) {
    return `${this.prefix}.${kind}.${type}`;
  }

  #eventSubject(type, key) {
    return this.#subject(`event.${key === undefined ? "-" : partOf(key)}`, type);
  }
}

/** Return what a message holds; nothing if it is no JSON, as anybody may publish anything. */
function parse(message) {
  try {
    return message.json();
  } catch {
    return undefined;
  }
}

function read(answer) {
  const error = ServiceError.in(answer);
  if (error) throw error;
  return answer.json();
}

async function answer(message, handle, instance) {
  const options = { headers: headers() };
  if (instance) options.headers.set("Ipc-Instance", instance);
  try {
    const request = parse(message);
    if (request === undefined) throw new ServiceError(400, "requests are read as JSON here");
    const reply = await handle(request);
    message.respond(JSON.stringify(reply ?? null), options);
  } catch (error) {
    const { code, message: text, type, data } =
      error instanceof ServiceError ? error : new ServiceError(500, String(error));
    options.headers.set(ERROR_CODE, `${code}`);
    options.headers.set(ERROR_TEXT, text.replace(/\s+/g, " ")); // a header is one line
    message.respond(JSON.stringify({ $type: type, code, message: text, data }), options);
  }
}
