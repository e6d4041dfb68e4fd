import { ApixError, type TenantContext } from "@apix/client";
import type { IncomingHttpHeaders, IncomingMessage } from "node:http";
import { scopedContext } from "./tenant-socket.js";

/** What a client shows when it connects. */
export interface SocketHandshake {
  /** Socket.IO: `auth.token`. Both: the header `Authorization: Bearer`, the subprotocol `bearer.TOKEN`, the query `token`. */
  token: string | undefined;
  headers: IncomingHttpHeaders;
  /** Path and query. */
  url: string | undefined;
}

/** Says on whose behalf a client connects; what it throws refuses the client. */
export type SocketAuthenticator = (handshake: SocketHandshake) => TenantContext | Promise<TenantContext>;

interface IoSocket {
  handshake: { auth?: { token?: unknown }; headers: IncomingHttpHeaders; url?: string };
  once(event: "disconnect", listener: () => void): unknown;
}

interface IoServer {
  use(middleware: (socket: any, next: (error?: Error) => void) => void): unknown;
}

type Verified = (verified: boolean, status?: number, message?: string) => void;

interface WsServer {
  options: { verifyClient?: unknown; handleProtocols?: unknown };
  on(event: "connection", listener: (socket: any, request: IncomingMessage) => void): unknown;
}

const guarded = new WeakMap<object, SocketAuthenticator>();

/**
 * Makes every client of a gateway a `TenantSocket`: sets `socket.tenantContext`, refuses who cannot be
 * authenticated, and ends a socket's subscriptions with it. Call it in `afterInit(server)` of a gateway,
 * on Socket.IO (a server or a namespace) or `ws`.
 */
export function useTenantSockets(server: object, authenticate: SocketAuthenticator): void {
  const before = guarded.get(server);
  // Gateways on one port share a server.
  if (before === authenticate) return;
  if (before) throw new TypeError("the server has another authenticator already");
  guarded.set(server, authenticate);
  if (isIo(server)) server.use(socketIoMiddleware(authenticate));
  else if (isWs(server)) guardWs(server, authenticate);
  else throw new TypeError("useTenantSockets takes a Socket.IO server or namespace, or a ws server");
}

/** The middleware for Socket.IO alone: `server.use(socketIoMiddleware(authenticate))`. */
export function socketIoMiddleware(authenticate: SocketAuthenticator) {
  return (socket: IoSocket, next: (error?: Error) => void): void => {
    const { auth, headers, url } = socket.handshake;
    const token = typeof auth?.token === "string" ? auth.token : tokenOf(headers, url);
    contextOf(authenticate, { token, headers, url }).then(
      (given) => {
        const { context, scope } = scopedContext(given);
        Object.defineProperty(socket, "tenantContext", { value: context, enumerable: true });
        socket.once("disconnect", () => scope.end());
        next();
      },
      (error: Error) => next(Object.assign(new Error(error.message), { data: { code: codeOf(error) } })),
    );
  };
}

/** `ws`: authenticated before the handshake is answered, so that no message comes before its tenant. */
function guardWs(server: WsServer, authenticate: SocketAuthenticator): void {
  const contexts = new WeakMap<IncomingMessage, TenantContext>();
  if (server.options.verifyClient) throw new TypeError("the ws server has a verifyClient already");
  server.options.verifyClient = ({ req }: { req: IncomingMessage }, verified: Verified) => {
    const { headers, url } = req;
    contextOf(authenticate, { token: tokenOf(headers, url), headers, url }).then(
      (context) => {
        contexts.set(req, context);
        verified(true);
      },
      (error: Error) => verified(false, 401, error.message),
    );
  };
  // A subprotocol that carries a token is not one that is spoken.
  server.options.handleProtocols ??= (offered: Set<string>) =>
    [...offered].find((protocol) => !protocol.startsWith("bearer.")) ?? false;
  server.on("connection", (socket, request) => {
    const given = contexts.get(request);
    if (!given) return socket.terminate();
    const { context, scope } = scopedContext(given);
    Object.defineProperty(socket, "tenantContext", { value: context, enumerable: true });
    socket.once("close", () => scope.end());
  });
}

async function contextOf(authenticate: SocketAuthenticator, handshake: SocketHandshake): Promise<TenantContext> {
  const context = await authenticate(handshake);
  if (typeof context?.organizationId === "string" && context.organizationId !== "") return context;
  throw new ApixError("unauthorized", "the client belongs to no tenant");
}

function codeOf(error: Error): string {
  return error instanceof ApixError ? error.code : "unauthorized";
}

function tokenOf(headers: IncomingHttpHeaders, url: string | undefined): string | undefined {
  const [scheme, token] = headers.authorization?.split(" ") ?? [];
  if (scheme?.toLowerCase() === "bearer" && token) return token;
  const offered = String(headers["sec-websocket-protocol"] ?? "").split(",");
  const carried = offered.map((protocol) => protocol.trim()).find((protocol) => protocol.startsWith("bearer."));
  if (carried) return carried.slice("bearer.".length);
  return new URLSearchParams(url?.split("?")[1]).get("token") ?? undefined;
}

function isIo(server: object): server is IoServer {
  return typeof (server as Partial<IoServer>).use === "function";
}

function isWs(server: object): server is WsServer {
  return typeof (server as { handleUpgrade?: unknown }).handleUpgrade === "function";
}
