import { ApixError } from "../error.js";

/** One WebSocket, whichever implementation it is. */
export interface LiveSocket {
  send(text: string): void;
  /** Ends it; `onEnd` is not called any more. */
  drop(): void;
}

/** Why a socket ended. */
export interface SocketEnd {
  /** The close code; 1006 for a connection that broke or never opened. */
  code: number;
  reason: string;
  /** What the server answered instead of a WebSocket, where that can be seen. */
  refusal?: ApixError | undefined;
  /** Whether a refusal could not have been seen. */
  isBlind?: boolean;
}

export interface SocketHandlers {
  onOpen(): void;
  onText(text: string): void;
  /** Any other sign of life. */
  onAlive(): void;
  onEnd(end: SocketEnd): void;
}

export interface SocketRequest {
  url: URL;
  token: string;
  /** Headers beside the token; only sockets outside browsers can send any. */
  headers: Record<string, string>;
  /** Whether the connection is of no use without these headers. */
  needsHeaders: boolean;
}

/** Opens sockets; tests put their own in its place. */
export type SocketOpener = (request: SocketRequest, handlers: SocketHandlers) => Promise<LiveSocket>;

const PROTOCOL = "apix.v1";

/**
 * Browsers, and Node from 22 on, have a WebSocket; it cannot send headers, so that the token goes as
 * a subprotocol. Elsewhere, and where headers are needed, the client of `node-socket.ts` is loaded,
 * which bundlers for browsers leave out.
 */
export const openSocket: SocketOpener = async (request, handlers) => {
  if (typeof globalThis.WebSocket === "function" && !request.needsHeaders) {
    return openStandard(request, handlers);
  }
  const { openNodeSocket } = await import("./node-socket.js");
  return openNodeSocket(request, PROTOCOL, handlers);
};

function openStandard(request: SocketRequest, handlers: SocketHandlers): LiveSocket {
  if (!/^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(request.token)) {
    throw new ApixError(
      "unauthorized",
      "the token has characters that a WebSocket subprotocol cannot carry; use a JWT in browsers",
    );
  }
  const url = new URL(request.url);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(url, [PROTOCOL, `bearer.${request.token}`]);
  let dropped = false;
  socket.onopen = () => dropped || handlers.onOpen();
  socket.onmessage = ({ data }: MessageEvent) => {
    if (!dropped && typeof data === "string") handlers.onText(data);
  };
  socket.onclose = ({ code, reason }: CloseEvent) => {
    if (dropped) return;
    dropped = true;
    handlers.onEnd({ code, reason, isBlind: true });
  };
  return {
    send: (text) => socket.send(text),
    drop: () => {
      dropped = true;
      socket.close(1000);
    },
  };
}
