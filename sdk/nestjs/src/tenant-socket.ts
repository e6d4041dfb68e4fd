import type { TenantContext } from "@apix/client";

/**
 * A client of a WebSocket gateway, of Socket.IO or of `ws`, whose tenant is known: what handlers name as
 * the type of their socket. It is Socket.IO's or `ws`'s own object, with `tenantContext` set.
 */
export abstract class TenantSocket {
  /** On whose behalf the client is connected. Subscriptions made with it end with the socket. */
  readonly tenantContext!: TenantContext;

  /** Socket.IO: sends an event. (Of `ws` this only calls listeners; use `sendEvent`.) */
  abstract emit(event: string, ...args: any[]): any;

  [property: string]: any;
}

/** Sends an event to a client: as Socket.IO does, or as the frame `{"event","data"}` of NestJS's `ws` adapter. */
export function sendEvent(socket: TenantSocket, event: string, data: unknown): void {
  if (typeof socket.send === "function" && typeof socket.handshake === "undefined") {
    socket.send(JSON.stringify({ event, data }));
  } else {
    socket.emit(event, data);
  }
}

/** What lives as long as one socket. */
export class SocketScope {
  private readonly endings = new Set<() => unknown>();
  private isOver = false;

  /** Calls `ending` when the socket ends; at once if it has. The answer takes that back. */
  onEnd(ending: () => unknown): () => void {
    if (this.isOver) ending();
    else this.endings.add(ending);
    return () => this.endings.delete(ending);
  }

  end(): void {
    this.isOver = true;
    for (const ending of this.endings) ending();
    this.endings.clear();
  }
}

/** By the context object that stands in `socket.tenantContext`, and by no copy of it. */
const scopes = new WeakMap<TenantContext, SocketScope>();

/** Makes a context of a socket, which ends what was subscribed with it when `scope` ends. */
export function scopedContext(context: TenantContext): { context: TenantContext; scope: SocketScope } {
  const own = Object.freeze({ ...context });
  const scope = new SocketScope();
  scopes.set(own, scope);
  return { context: own, scope };
}

export function scopeOf(context: TenantContext): SocketScope | undefined {
  return scopes.get(context);
}
