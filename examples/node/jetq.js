/** Jobs of `jetq`, enqueued and awaited in JavaScript; docs/protocol.md explains each subject. */

import { jetstream, jetstreamManager } from "@nats-io/jetstream";
import { nuid } from "@nats-io/transport-node";

export class Jobs {
  constructor(connection, app) {
    Object.assign(this, { connection, app });
  }

  /**
   * Enqueue a job of a task; return its id once it is stored.
   *
   * @param options `priority`; a `token` of your own, with which a job is stored once in two
   *   minutes; fields of the job, such as `timeout`.
   */
  async enqueue(queue, task, args, options = {}) {
    const { priority = "normal", token = nuid.next(), ...fields } = options;
    const id = `${queue}.-.${token}`;
    const subject = `jetq.${this.app}.task.${queue}.${priority}.-.${token}`;
    const job = JSON.stringify({ $type: task, args, ...fields });
    await jetstream(this.connection).publish(subject, job, { msgID: id });
    return id;
  }

  /** Return what a job came to, once it has: an object whose `$type` is "completed" or else. */
  async outcome(id, { timeout = 10 } = {}) {
    const settled = this.connection.subscribe(`jetq.${this.app}.settled.${id}`, {
      max: 1,
      timeout: timeout * 1_000,
    });
    // It may have been settled before anybody listened.
    const manager = await jetstreamManager(this.connection);
    const stored = await manager.streams.getMessage(`jetq-${this.app}-results`, {
      last_by_subj: `jetq.${this.app}.result.${id}`,
    });
    if (stored) {
      settled.unsubscribe();
      return stored.json();
    }
    for await (const message of settled) return message.json();
    throw new Error(`the connection was closed before job ${id} was settled`);
  }
}
