import { checkContext, type TenantContext } from "../context.js";
import type { Credentials } from "../credentials.js";
import { ApixError } from "../error.js";
import type { LiveMessage } from "../message.js";
import { LiveChannel } from "./channel.js";
import { LiveConnection, type LiveSettings } from "./connection.js";
import { Subscriber, type SubscribeOptions, type Subscription } from "./subscription.js";

/** The server's default limit. */
const MAX_CHANNELS = 1_000;

/**
 * The live connections of a service. The server's WebSocket speaks for one tenant, so that there is
 * at least one for each; readers of one channel share a subscription.
 */
export class LiveConnections {
  private readonly byKey = new Map<string, Set<LiveConnection>>();

  constructor(
    private readonly credentials: Credentials,
    private readonly settings: LiveSettings,
  ) {}

  async subscribe(
    context: TenantContext,
    channelName: string,
    take: (message: LiveMessage) => unknown,
    options: SubscribeOptions,
  ): Promise<Subscription> {
    checkContext(context);
    if (options.signal?.aborted) throw options.signal.reason;
    const subscriber = new Subscriber(channelName, take, options);
    const { connection, channel } = this.place(context, channelName, options);
    const leave = async () => {
      channel.subscribers.delete(subscriber);
      if (channel.subscribers.size === 0) await connection.remove(channel);
    };
    channel.subscribers.add(subscriber);
    // Right behind the answer, before any message that follows it.
    channel.whenLive((position) => subscriber.joined(position, leave));
    try {
      await unlessAborted(channel.ready(), options.signal);
    } catch (error) {
      await leave();
      throw error;
    }
    return subscriber;
  }

  async publish(context: TenantContext, text: string): Promise<number> {
    checkContext(context);
    const [connection] = this.connections(context);
    return (connection ?? this.open(context)).publish(text);
  }

  /** How many connections there are. */
  get size(): number {
    let size = 0;
    for (const connections of this.byKey.values()) size += connections.size;
    return size;
  }

  close(): void {
    const reason = new ApixError("closed", "the service was closed");
    for (const connections of [...this.byKey.values()]) {
      for (const connection of [...connections]) connection.close(reason);
    }
  }

  /** A channel that can be shared, or a connection that has room for a new one. */
  private place(
    context: TenantContext,
    name: string,
    { since }: SubscribeOptions,
  ): { connection: LiveConnection; channel: LiveChannel } {
    let free: LiveConnection | undefined;
    for (const connection of this.connections(context)) {
      const channel = connection.channels.get(name);
      if (channel?.isShared && since === undefined) return { connection, channel };
      if (!channel && connection.channels.size < MAX_CHANNELS) free ??= connection;
    }
    const connection = free ?? this.open(context);
    const channel = new LiveChannel(name, since);
    connection.add(channel);
    return { connection, channel };
  }

  private connections(context: TenantContext): Set<LiveConnection> {
    return this.byKey.get(this.credentials.liveKey(context)) ?? new Set();
  }

  private open(context: TenantContext): LiveConnection {
    const key = this.credentials.liveKey(context);
    const connections = this.byKey.get(key) ?? new Set();
    this.byKey.set(key, connections);
    const connection = new LiveConnection(context, this.credentials, this.settings, () => {
      connections.delete(connection);
      if (connections.size === 0) this.byKey.delete(key);
    });
    connections.add(connection);
    return connection;
  }
}

function unlessAborted(done: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (!signal) return done;
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    done.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}
